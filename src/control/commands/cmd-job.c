/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands on jobs.  The two families differ in the member that names the job,
 * in the error when there is none, and in cancel: job-cancel always forces.
 */
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/control-int.h"
#include "control/journal/journal.h"
#include "graph/background.h"
#include "job/job.h"
#include "job/result.h"

static struct job *find_block_job(struct control *c, const char *id,
                                  GError **err)
{
    struct job *j = jobs_find(c->jobs, id);

    if (!j || j->drv->is_plain) {
        err_set_class(err, ERR_DEVICE_NOT_ACTIVE, ENOENT,
                      "Block job '%s' not found", id);
        return NULL;
    }
    return j;
}

static struct job *find_job(struct control *c, const char *id, GError **err)
{
    struct job *j = jobs_find(c->jobs, id);

    if (!j) {
        err_set(err, ENOENT, "Job not found");
    }
    return j;
}

struct job_list {
    json_t *array;
    json_t *(*describe)(const struct job *j);
};

static void add_job(struct job *j, void *arg)
{
    struct job_list *list = arg;

    if (!j->internal) {
        json_array_append_new(list->array, list->describe(j));
    }
}

static void add_block_job(struct job *j, void *arg)
{
    if (!j->drv->is_plain) {
        add_job(j, arg);
    }
}

CO_FN int cmd_co_query_block_jobs(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    struct job_list list = { json_array(), job_describe_block };

    jobs_foreach(c->jobs, add_block_job, &list);
    *ret = list.array;
    return 0;
}

CO_FN int cmd_co_query_jobs(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    struct job_list list = { json_array(), job_describe };

    jobs_foreach(c->jobs, add_job, &list);
    *ret = list.array;
    return 0;
}

CO_FN int cmd_co_block_job_set_speed(struct control *c, const json_t *args,
                                     json_t **ret, GError **err)
{
    const char *id = arg_str(args, "device");
    struct job *j = find_block_job(c, id, err);
    int r = j ? job_user_set_speed(j, arg_int(args, "speed", 0), err) : -ENOENT;

    if (r == 0) {
        json_t *changes = json_pack("{s:I}", "speed",
                                    (json_int_t)arg_int(args, "speed", 0));

        journal_co_change(c->journal, id, changes);
        json_decref(changes);
    }
    return r;
}

CO_FN int cmd_co_block_job_set_limits(struct control *c, const json_t *args,
                                      json_t **ret, GError **err)
{
    const char *id = arg_str(args, "device");
    struct job *j = find_block_job(c, id, err);
    struct background_limits limits;
    int r;

    if (!j) {
        return -ENOENT;
    }
    limits = j->limits;
    r = job_args_limits(args, &limits, err);
    if (r == 0) {
        r = job_user_set_limits(j, &limits, err);
    }
    if (r == 0) {
        json_t *changes = json_deep_copy(args);

        json_object_del(changes, "device");
        journal_co_change(c->journal, id, changes);
        json_decref(changes);
    }
    return r;
}

CO_FN int cmd_co_block_job_cancel(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "device"), err);

    return j ? job_user_cancel(j, arg_bool(args, "force", false), err)
             : -ENOENT;
}

CO_FN int cmd_co_block_job_pause(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "device"), err);

    return j ? job_user_pause(j, err) : -ENOENT;
}

CO_FN int cmd_co_block_job_resume(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "device"), err);

    return j ? job_user_resume(j, err) : -ENOENT;
}

CO_FN int cmd_co_block_job_complete(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "device"), err);

    return j ? job_user_co_complete(j, err) : -ENOENT;
}

CO_FN int cmd_co_block_job_finalize(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "id"), err);

    return j ? job_user_finalize(j, err) : -ENOENT;
}

CO_FN int cmd_co_block_job_dismiss(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    struct job *j = find_block_job(c, arg_str(args, "id"), err);

    return j ? job_user_dismiss(j, err) : -ENOENT;
}

CO_FN int cmd_co_job_cancel(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_cancel(j, true, err) : -ENOENT;
}

CO_FN int cmd_co_job_pause(struct control *c, const json_t *args, json_t **ret,
                           GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_pause(j, err) : -ENOENT;
}

CO_FN int cmd_co_job_resume(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_resume(j, err) : -ENOENT;
}

CO_FN int cmd_co_job_complete(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_co_complete(j, err) : -ENOENT;
}

CO_FN int cmd_co_job_finalize(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_finalize(j, err) : -ENOENT;
}

CO_FN int cmd_co_job_dismiss(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    struct job *j = find_job(c, arg_str(args, "id"), err);

    return j ? job_user_dismiss(j, err) : -ENOENT;
}

static void add_stopped(struct job *j, void *arg)
{
    json_t *o = j->internal ? NULL : job_describe_stopped(j);

    if (o) {
        json_array_append_new(arg, o);
    }
}

CO_FN int cmd_co_query_job_results(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    *ret = job_results_describe(jobs_results(c->jobs));
    jobs_foreach(c->jobs, add_stopped, *ret);
    return 0;
}

CO_FN int cmd_co_query_job_journal(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    *ret = journal_describe(c->journal);
    return 0;
}

CO_FN int cmd_co_job_journal_forget(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    return journal_co_forget(c->journal, arg_str(args, "id"), err);
}
