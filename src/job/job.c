/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: the state machine, its verbs and its events.
 *
 * One coroutine runs a job from created to concluded.  Verbs only set flags
 * and wake it; every change of state is made by that coroutine (but created
 * and null) through job_set_state(), which asserts the table and sends the
 * event.  A driver does its work in co_run, changes the graph in co_prepare
 * and lets go of everything in co_clean; the last event follows that, so who
 * hears it finds the graph changed and files free.
 *
 *   from                  to         by
 *   (new)                 created    job_new()
 *   created               running    job_entry()
 *   running               ready      job_set_ready(), which a driver calls
 *   running, ready        paused,    job_co_pause_point(), and back
 *                         standby
 *   running, ready        waiting    job_co_finalize(): the work is done
 *   waiting               pending    job_co_finalize(): so is that of the group
 *   created, running,     aborting   job_co_conclude(): it failed, or was
 *   ready, waiting,                  cancelled
 *   pending
 *   pending, aborting     concluded  job_co_conclude()
 *   created, concluded    null       job_leave()
 */
#include "job/job.h"
#include <string.h>
#include "base/err.h"
#include "base/names.h"
#include "base/text.h"
#include "job/job-int.h"
#include "job/result.h"
#include "job/trace.h"
#include "loop/co.h"
#include "loop/loop.h"

/* --- events --- */

static void job_set_state(struct job *j, enum job_state to)
{
    g_assert(job_state_may_follow(j->state, to));
    trace_job_state(j->id, job_state_name(j->state), job_state_name(to));
    j->state = to;
    job_send(
        j, "JOB_STATUS_CHANGE",
        json_pack("{s:s, s:s}", "status", job_state_name(to), "id", j->id));
}

static json_t *progress_data(const char *type, const char *device, uint64_t len,
                             uint64_t offset, uint64_t speed)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:s}", "device", device, "len",
                     (json_int_t)len, "offset", (json_int_t)offset, "speed",
                     (json_int_t)speed, "type", type);
}

void job_set_ready(struct job *j)
{
    job_set_state(j, JOB_READY);
    job_send(
        j, "BLOCK_JOB_READY",
        progress_data(j->drv->type, j->device, j->len, j->offset, j->speed));
}

static void job_send_end(struct job *j)
{
    json_t *data = progress_data(j->drv->type, j->device, j->len, j->offset,
                                 j->speed);

    if (j->drv->is_plain) {
        json_decref(data);
        return;
    }
    /* Who waits by events and asks then gets both. */
    if (!j->internal) {
        job_results_add(j->jobs->results, j);
    }
    if (j->result == -ECANCELED && j->cancelled) {
        job_send(j, "BLOCK_JOB_CANCELLED", data);
        return;
    }
    job_add_error(j, data);
    job_send(j, "BLOCK_JOB_COMPLETED", data);
}

void jobs_send_completed(struct jobs *js, const char *type, const char *device,
                         uint64_t len, uint64_t offset)
{
    json_t *data = progress_data(type, device, len, offset, 0);

    if (js->fn) {
        js->fn("BLOCK_JOB_COMPLETED", data, js->arg);
    }
    json_decref(data);
}

/* --- the list --- */

struct jobs *jobs_new(struct loop *l, job_event_fn fn, void *arg)
{
    struct jobs *js = g_new0(struct jobs, 1);

    js->loop = l;
    js->fn = fn;
    js->arg = arg;
    js->list = g_ptr_array_new();
    js->results = job_results_new();
    return js;
}

void jobs_free(struct jobs *js)
{
    if (js) {
        g_assert(js->list->len == 0);
        g_ptr_array_free(js->list, TRUE);
        job_results_free(js->results);
        g_free(js);
    }
}

void jobs_set_settle(struct jobs *js, const struct job_settle *settle)
{
    js->settle = *settle;
}

void jobs_set_names(struct jobs *js, struct names *names, void *owner)
{
    js->names = names;
    js->names_owner = owner;
}

struct job *jobs_find(struct jobs *js, const char *id)
{
    for (unsigned i = 0; i < js->list->len; i++) {
        struct job *j = g_ptr_array_index(js->list, i);

        if (strcmp(j->id, id) == 0) {
            return j;
        }
    }
    return NULL;
}

void jobs_foreach(struct jobs *js, void (*fn)(struct job *j, void *arg),
                  void *arg)
{
    for (unsigned i = 0; i < js->list->len; i++) {
        fn(g_ptr_array_index(js->list, i), arg);
    }
}

const struct job_results *jobs_results(const struct jobs *js)
{
    return js->results;
}

static void job_unref(struct job *j)
{
    if (--j->priv->refs) {
        return;
    }
    loop_timer_cancel(&j->priv->let_go);
    loop_timer_cancel(&j->priv->deadline);
    background_free(j->background);
    g_free(j->id);
    g_free(j->device);
    g_clear_error(&j->error);
    job_fault_free(j->fault);
    g_free(j->priv);
    g_free(j);
}

/* -> null: it is in no list and no query sees it any more. */
static void job_leave(struct job *j)
{
    struct jobs *js = j->jobs;

    job_set_state(j, JOB_NULL);
    j->priv->listed = false;
    g_ptr_array_remove(js->list, j);
    names_drop(js->names, NAME_JOB, j->id, js->names_owner);
    co_queue_wake_all(&js->changed);
    co_queue_wake_all(&j->priv->concluded);
    job_unref(j);
}

static void job_let_go(void *arg)
{
    struct job *j = arg;

    j->drv->let_go(j);
    loop_timer_arm(&j->priv->let_go, loop_clock_ns(j->jobs->loop) + LET_GO_NS);
}

int job_new(struct jobs *js, const struct job_driver *drv,
            const struct job_params *p, struct job **ret_job, GError **err)
{
    struct job *j;

    if (!text_is_id(p->id)) {
        return err_set(err, EINVAL, "Invalid job ID '%s'", p->id ? p->id : "");
    }
    if (jobs_find(js, p->id)) {
        return err_set(err, EEXIST, "Job ID '%s' already in use", p->id);
    }
    if (js->shutting_down) {
        return err_set(err, ESHUTDOWN, "The daemon is shutting down");
    }
    if (!names_take(js->names, NAME_JOB, p->id, js->names_owner)) {
        return err_set(err, EEXIST, "Job ID '%s' already in use", p->id);
    }
    g_assert(drv->job_size >= sizeof(struct job));
    j = g_malloc0(drv->job_size);
    j->priv = g_new0(struct job_int, 1);
    j->priv->refs = 1;
    j->priv->listed = true;
    loop_timer_init(&j->priv->let_go, js->loop, job_let_go, j);
    loop_timer_init(&j->priv->deadline, js->loop, job_deadline_check, j);
    j->id = g_strdup(p->id);
    j->device = g_strdup(p->id);
    j->drv = drv;
    j->jobs = js;
    j->auto_finalize = p->auto_finalize;
    j->auto_dismiss = p->auto_dismiss;
    j->speed = p->speed;
    j->limits = p->limits;
    j->start_ns = loop_now_ns(js->loop);
    g_ptr_array_add(js->list, j);
    job_set_state(j, JOB_CREATED);
    if (p->speed > INT64_MAX) {
        job_drop(j);
        return err_set(err, EINVAL,
                       "Parameter 'speed' expects a non-negative value");
    }
    *ret_job = j;
    return 0;
}

void job_drop(struct job *j)
{
    g_assert(!j->priv->started);
    job_group_leave(j);
    job_leave(j);
}

/* --- the life of a job --- */

static bool should_pause(const struct job *j)
{
    return j->backend_paused && !j->cancelled;
}

CO_FN int job_co_pause_point(struct job *j)
{
    enum job_state was = j->state;

    if (should_pause(j)) {
        job_set_state(j, was == JOB_READY ? JOB_STANDBY : JOB_PAUSED);
        j->busy = false;
        while (should_pause(j)) {
            co_queue_co_wait(&j->priv->wake);
        }
        j->busy = true;
        job_set_state(j, was);
    }
    return j->cancelled ? -ECANCELED : 0;
}

static void job_fail(struct job *j, int ret, GError *error)
{
    g_clear_error(&j->error);
    j->result = ret;
    j->error = error;
    /* A cancelled job says so, whatever it stumbled over on the way out. */
    if (ret == -ECANCELED) {
        g_clear_error(&j->error);
    }
}

static void job_cancel_for_group(struct job *j);

/* With those of its group, if there is one, no member of which may fail. */
static CO_FN int job_co_prepare(struct job *j, GError **err)
{
    struct job_group *g = j->priv->group;
    int ret = j->drv->co_prepare ? j->drv->co_prepare(j, err) : 0;

    if (ret < 0) {
        job_group_fail(j, job_cancel_for_group);
        return ret;
    }
    return g && !job_group_co_wait(j, &g->prepared) ? -ECANCELED : 0;
}

/* waiting, pending; the driver's last step. Sets j->result. */
static CO_FN void job_co_finalize(struct job *j)
{
    struct job_group *g = j->priv->group;
    GError *error = NULL;
    int ret = 0;

    job_set_state(j, JOB_WAITING);
    if (g && !job_group_co_wait(j, &g->waiting)) {
        job_fail(j, -ECANCELED, NULL);
        return;
    }
    job_set_state(j, JOB_PENDING);
    if (!j->auto_finalize) {
        job_send(j, "BLOCK_JOB_PENDING",
                 json_pack("{s:s, s:s}", "type", j->drv->type, "id", j->id));
        j->busy = false;
        while (!j->priv->finalize && !j->cancelled) {
            co_queue_co_wait(&j->priv->wake);
        }
        j->busy = true;
    }
    ret = j->cancelled ? -ECANCELED : job_co_prepare(j, &error);
    if (ret < 0) {
        job_fail(j, ret, error);
    }
}

static CO_FN void job_co_conclude(struct job *j)
{
    struct jobs *js = j->jobs;

    if (j->result < 0) {
        job_set_state(j, JOB_ABORTING);
        job_group_fail(j, job_cancel_for_group);
    }
    job_group_leave(j);
    if (j->drv->co_clean) {
        j->drv->co_clean(j);
    }
    loop_timer_cancel(&j->priv->let_go);
    loop_timer_cancel(&j->priv->deadline);
    g_clear_pointer(&j->background, background_free);
    j->busy = false;
    if (js->settle.co_settle) {
        js->settle.co_settle(j, job_ends_with_daemon(j), js->settle.arg);
    }
    job_send_end(j);
    job_set_state(j, JOB_CONCLUDED);
    co_queue_wake_all(&j->priv->concluded);
    if (j->auto_dismiss || js->shutting_down) {
        job_leave(j);
    }
}

static CO_FN void job_entry(void *arg)
{
    struct job *j = arg;
    GError *error = NULL;
    int ret = -ECANCELED;

    if (!j->cancelled) {
        job_set_state(j, JOB_RUNNING);
        ret = j->drv->co_run(j, &error);
    }
    if (ret == 0) {
        /* A pause that came too late for the work still counts. */
        ret = job_co_pause_point(j);
    }
    if (ret < 0) {
        job_fail(j, ret, error);
    } else {
        job_co_finalize(j);
    }
    job_co_conclude(j);
}

void job_start(struct job *j)
{
    g_assert(j->state == JOB_CREATED && !j->priv->started);
    j->priv->started = true;
    job_deadline_check(j);
    j->busy = true;
    co_start(j->jobs->loop, job_entry, j);
}

bool job_is_cancelled(const struct job *j)
{
    return j->cancelled;
}

bool job_ends_with_daemon(const struct job *j)
{
    return j->result == -ECANCELED && j->cancelled && j->priv->by_shutdown;
}

CO_FN int job_co_switching(struct job *j, GError **err)
{
    const struct job_settle *s = &j->jobs->settle;

    return s->co_switching ? s->co_switching(j, err, s->arg) : 0;
}

/* --- verbs --- */

static void job_kick(struct job *j)
{
    co_queue_wake_all(&j->priv->wake);
    job_group_wake(j);
    if (j->drv->kick && j->priv->started) {
        j->drv->kick(j);
    }
}

int job_user_pause(struct job *j, GError **err)
{
    int ret = job_check_verb(j, JOB_PAUSE, err);

    if (ret < 0) {
        return ret;
    }
    if (j->backend_paused) {
        return err_set(err, EBUSY, "Job is already paused");
    }
    j->backend_paused = true;
    job_kick(j);
    return 0;
}

int job_user_resume(struct job *j, GError **err)
{
    int ret;

    if (!j->backend_paused) {
        return err_set(err, EINVAL, "Can't resume a job that was not paused");
    }
    ret = job_check_verb(j, JOB_RESUME, err);
    if (ret < 0) {
        return ret;
    }
    j->backend_paused = false;
    j->io_status = IO_STATUS_OK;
    g_clear_pointer(&j->fault, job_fault_free);
    job_kick(j);
    return 0;
}

static void job_cancel(struct job *j, bool force)
{
    j->cancelled = true;
    j->force_cancel |= force;
    j->backend_paused = false;
    job_kick(j);
    if (j->drv->let_go && j->priv->started) {
        loop_timer_arm(&j->priv->let_go,
                       loop_clock_ns(j->jobs->loop) + LET_GO_NS);
    }
}

static void job_cancel_for_group(struct job *j)
{
    job_cancel(j, true);
}

int job_user_cancel(struct job *j, bool force, GError **err)
{
    int ret;

    if (j->backend_paused && !force) {
        return err_set(err, EBUSY,
                       "The block job for device '%s' is currently paused",
                       j->device);
    }
    ret = job_check_verb(j, JOB_CANCEL, err);
    if (ret < 0) {
        return ret;
    }
    if (!force && !j->cancelled && j->drv->cancel_softly &&
        (j->state == JOB_READY || j->state == JOB_STANDBY)) {
        j->drv->cancel_softly(j);
        return 0;
    }
    j->priv->by_shutdown = false;
    job_cancel(j, force);
    return 0;
}

int job_user_set_speed(struct job *j, int64_t speed, GError **err)
{
    int ret = job_check_verb(j, JOB_SET_SPEED, err);

    if (ret < 0) {
        return ret;
    }
    if (speed < 0) {
        return err_set(err, EINVAL,
                       "Parameter 'speed' expects a non-negative value");
    }
    j->speed = (uint64_t)speed;
    job_deadline_check(j);
    if (j->drv->set_speed) {
        j->drv->set_speed(j, j->speed);
    }
    return 0;
}

CO_FN int job_user_co_complete(struct job *j, GError **err)
{
    int ret = job_check_verb(j, JOB_COMPLETE, err);

    if (ret < 0) {
        return ret;
    }
    if (j->cancelled || !j->drv->co_complete) {
        return err_set(err, EPERM,
                       "The active block job '%s' cannot be completed", j->id);
    }
    return j->drv->co_complete(j, err);
}

int job_user_set_copy_mode(struct job *j, const char *type, bool write_blocking,
                           GError **err)
{
    int ret = job_check_verb(j, JOB_CHANGE, err);

    if (ret < 0) {
        return ret;
    }
    if (!j->drv->set_copy_mode) {
        return err_set(err, ENOTSUP, "Job type does not support change");
    }
    if (strcmp(type, j->drv->type) != 0) {
        return err_set(err, EINVAL, "Job '%s' is of type '%s', not '%s'", j->id,
                       j->drv->type, type);
    }
    return j->drv->set_copy_mode(j, write_blocking, err);
}

int job_user_finalize(struct job *j, GError **err)
{
    int ret = job_check_verb(j, JOB_FINALIZE, err);

    if (ret < 0) {
        return ret;
    }
    job_group_finalize(j);
    job_kick(j);
    return 0;
}

int job_user_dismiss(struct job *j, GError **err)
{
    int ret = job_check_verb(j, JOB_DISMISS, err);

    if (ret < 0) {
        return ret;
    }
    job_leave(j);
    return 0;
}

/* --- errors of the work --- */

static bool stops_for(enum on_error policy, int errnum)
{
    return policy == ON_ERROR_STOP ||
           ((policy == ON_ERROR_ENOSPC || policy == ON_ERROR_AUTO) &&
            errnum == ENOSPC);
}

int job_apply_policy(struct job *j, enum on_error policy, bool is_read,
                     int errnum)
{
    bool stops = stops_for(policy, errnum);
    bool goes_on = policy == ON_ERROR_IGNORE;
    const char *action = stops ? "stop" : goes_on ? "ignore" : "report";

    trace_job_error(j->id, is_read, errnum, action);
    job_send(j, "BLOCK_JOB_ERROR",
             json_pack("{s:s, s:s, s:s}", "device", j->device, "operation",
                       is_read ? "read" : "write", "action", action));
    if (stops) {
        j->backend_paused = true;
        j->io_status = errnum == ENOSPC ? IO_STATUS_NOSPACE : IO_STATUS_FAILED;
        return -EAGAIN;
    }
    return goes_on ? 0 : -errnum;
}

/* --- waiting --- */

CO_FN void job_co_wait_concluded(struct job *j)
{
    j->priv->refs++;
    while (j->priv->listed && j->state != JOB_CONCLUDED) {
        co_queue_co_wait(&j->priv->concluded);
    }
    job_unref(j);
}

static void job_shut_down(struct job *j)
{
    if (j->state == JOB_CONCLUDED) {
        job_leave(j);
    } else if (!j->cancelled) {
        j->priv->by_shutdown = true;
        job_cancel(j, true);
    }
}

CO_FN void jobs_co_cancel_all(struct jobs *js)
{
    js->shutting_down = true;
    for (unsigned i = js->list->len; i-- > 0;) {
        job_shut_down(g_ptr_array_index(js->list, i));
    }
    while (js->list->len) {
        co_queue_co_wait(&js->changed);
    }
}
