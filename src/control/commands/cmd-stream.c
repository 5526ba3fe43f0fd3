/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streaming: block-stream, and the forms of 2011 on top of the same job.
 *
 * A stream is written to the journal before it starts and leaves it when the
 * job has settled, so that one that the daemon's end cut short goes on after a
 * restart.
 */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/commands/job-start.h"
#include "control/control-int.h"
#include "job/job.h"
#include "job/stream/stream.h"

/* Two ways to say where the copying ends exclude each other. */
static int check_exclusive(const json_t *args, GError **err)
{
    static const char *const pairs[][2] = { { "base", "base-node" },
                                            { "base", "bottom" },
                                            { "bottom", "base-node" } };

    for (unsigned i = 0; i < G_N_ELEMENTS(pairs); i++) {
        if (arg_str(args, pairs[i][0]) && arg_str(args, pairs[i][1])) {
            return err_set(err, EINVAL,
                           "'%s' and '%s' cannot be specified at "
                           "the same time",
                           pairs[i][0], pairs[i][1]);
        }
    }
    return 0;
}

/* base, base-node, bottom: to nodes. Whether they fit the chain is for the job
 * to say. */
static int resolve_base(struct control *c, const json_t *args,
                        struct stream_params *p, GError **err)
{
    const char *base = arg_str(args, "base");
    const char *base_node = arg_str(args, "base-node");
    const char *bottom = arg_str(args, "bottom");

    if (base) {
        p->base = node_chain_find_file(p->node, base);
        if (!p->base) {
            return err_set(err, ENOENT, "Can't find '%s' in the backing chain",
                           base);
        }
    }
    if (base_node) {
        p->base = node_find(c->graph, base_node, err);
        if (!p->base) {
            return -ENOENT;
        }
    }
    if (bottom) {
        p->bottom = node_find(c->graph, bottom, err);
        if (!p->bottom) {
            return -ENOENT;
        }
    }
    return 0;
}

int stream_co_command(struct control *c, const struct job_start *s,
                      GError **err)
{
    const json_t *args = s->args;
    struct stream_params p = {
        .job = job_args_params(c, args),
        .device = arg_str(args, "device"),
        .backing_file = arg_str(args, "backing-file"),
        .filter_node_name = arg_str(args, "filter-node-name"),
        .on_error = job_args_on_error(args, "on-error"),
        .resumed = s->resumed,
    };
    struct job *job;
    int r = check_exclusive(args, err);

    if (r < 0) {
        return r;
    }
    p.node = node_find_any(c->graph, arg_str(args, "device"), err);
    if (!p.node) {
        return -ENOENT;
    }
    r = resolve_base(c, args, &p, err);
    if (r < 0) {
        return r;
    }
    r = job_args_speed(args, &p.job.speed, err);
    if (r == 0) {
        r = job_args_limits(args, &p.job.limits, err);
    }
    return r < 0 ? r : stream_co_start(c->jobs, &p, &job, err);
}

CO_FN int cmd_co_block_stream(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    return job_start_co_run(c, "block-stream", stream_co_command, args, err);
}

/* --- the forms of 2011 --- */

static CO_FN int stream_co_increment(struct control *c, const char *device,
                                     json_t **ret, GError **err)
{
    struct node *node = node_find_any(c->graph, device, err);
    const uint64_t *at = g_hash_table_lookup(c->cursors, device);
    uint64_t cursor = at ? *at : 0, len = 0, offset = 0;
    int r;

    if (!node) {
        return -ENOENT;
    }
    r = stream_co_step(c->jobs, node, device, &cursor, &len, &offset, err);
    if (r < 0) {
        return r;
    }
    if (offset >= len) {
        g_hash_table_remove(c->cursors, device);
    } else {
        g_hash_table_insert(c->cursors, g_strdup(device),
                            g_memdup2(&cursor, sizeof(cursor)));
    }
    *ret = json_pack("{s:s,s:I,s:I}", "device", device, "len", (json_int_t)len,
                     "offset", (json_int_t)offset);
    return 0;
}

static int stop_stream(struct control *c, const char *device, GError **err)
{
    struct job *j = jobs_find(c->jobs, device);

    if (!j) {
        return err_set_class(err, ERR_DEVICE_NOT_ACTIVE, ENOENT,
                             "Block job '%s' not found", device);
    }
    return job_user_cancel(j, true, err);
}

CO_FN int cmd_co_block_stream_2011(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    const char *device = arg_str(args, "device");
    const char *base = arg_str(args, "base");
    json_t *modern;
    int r;

    if (arg_bool(args, "stop", false)) {
        return stop_stream(c, device, err);
    }
    if (!arg_bool(args, "all", true)) {
        if (base || json_object_get(args, "speed")) {
            return err_set(err, EINVAL, "'%s' cannot be used with 'all' false",
                           base ? "base" : "speed");
        }
        return stream_co_increment(c, device, ret, err);
    }
    modern = json_pack("{s:s,s:s,s:s*,s:I}", "job-id", device, "device", device,
                       "base", base, "speed",
                       (json_int_t)arg_int(args, "speed", 0));
    r = cmd_co_block_stream(c, modern, ret, err);
    json_decref(modern);
    return r;
}

static void add_stream(struct job *j, void *arg)
{
    if (g_str_equal(j->drv->type, "stream")) {
        json_array_append_new(arg,
                              json_pack("{s:s,s:I,s:I}", "device", j->device,
                                        "len", (json_int_t)j->len, "offset",
                                        (json_int_t)j->offset));
    }
}

CO_FN int cmd_co_query_block_stream(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    *ret = json_array();
    jobs_foreach(c->jobs, add_stream, *ret);
    return 0;
}
