/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job.  The first round copies what the disk holds, by its status; the
 * others what guests have changed meanwhile.  When nothing is left to copy the
 * job is ready, and goes on following the guests until it is told to end.
 */
#include <errno.h>
#include "base/barrier.h"
#include "base/err.h"
#include "graph/background.h"
#include "graph/io.h"
#include "job/copy/copy-job.h"
#include "job/job-int.h"
#include "job/mirror/mirror-int.h"
#include "job/result.h"
#include "loop/co.h"
#include "loop/loop.h"

/* What the drained end may have to copy: guests wait for it. */
#define REST_MAX (UINT64_C(1) << 20)
/* Changes are gathered that long before they are copied. */
#define GATHER_NS UINT64_C(50000000)
/* So many rounds one after the other that left about as much to copy as they
 * found are no accident. */
#define ROUNDS_LOST 3

/* --- the copy engine's view --- */

static void mirror_progress(void *arg, uint64_t offset)
{
    struct mirror *m = arg;

    if (m->first) {
        m->first_bytes = offset;
    }
    mirror_show_progress(m);
}

static CO_FN int mirror_co_error(void *arg, uint64_t off, bool is_read,
                                 int errnum)
{
    struct mirror *m = arg;
    enum on_error policy = is_read ? m->on_source_error : m->on_target_error;
    int ret;

    job_set_fault(&m->job, is_read ? m->source : m->target, off, is_read,
                  errnum);
    ret = job_apply_policy(&m->job, policy, is_read, errnum);
    if (ret == 0) { /* it stays to be copied */
        m->skipped = true;
        dirty_map_set(m->dirty, off, MAX(REST_MAX, mirror_unit(m)));
    }
    return ret;
}

static const struct copy_ops mirror_copy_ops = {
    .co_scan = mirror_co_scan,
    .co_copy = mirror_co_copy,
    .progress = mirror_progress,
    .co_error = mirror_co_error,
    .co_pause_point = job_copy_co_pause_point,
};

/* --- rounds --- */

static CO_FN int mirror_co_round(struct mirror *m)
{
    struct copy_params params = {
        .end = node_size(m->source),
        .cluster = mirror_unit(m),
        .window_max = m->buf_size,
        .is_far = node_is_remote(m->source) || node_is_remote(m->target),
    };
    int ret;

    m->skipped = false;
    ret = job_co_copy(&m->job, m->graph, &mirror_copy_ops, params);
    mirror_show_progress(m);
    return ret;
}

/* Little enough for the drained end? */
static bool mirror_is_close(const struct mirror *m)
{
    return !m->skipped && dirty_map_bytes(m->dirty) <=
                              MAX(REST_MAX, dirty_map_granularity(m->dirty));
}

static bool mirror_falls_behind(const struct mirror *m)
{
    return m->lost_rounds >= ROUNDS_LOST && !m->write_blocking;
}

/* A round has found @found bytes to be copied. Say so once when guests write
 * faster than the target takes it: the job would go on like that for ever. */
static void mirror_judge(struct mirror *m, uint64_t found)
{
    uint64_t left = dirty_map_bytes(m->dirty);

    if (left < found - found / 8 || mirror_is_close(m)) {
        m->lost_rounds = 0;
    } else if (++m->lost_rounds == ROUNDS_LOST && mirror_falls_behind(m)) {
        job_send(&m->job, "BLOCK_JOB_FALLS_BEHIND",
                 json_pack("{s:s, s:I, s:s}", "device", m->job.device,
                           "remaining", (json_int_t)left, "type",
                           m->job.drv->type));
    }
}

/* C4, or whether the sizes fit. */
static CO_FN int mirror_co_check_size(struct mirror *m, GError **err)
{
    int ret = 0;

    if (!m->is_commit) {
        return node_size(m->source) == node_size(m->target)
                   ? 0
                   : err_set(err, EINVAL,
                             "Source and target image have different sizes");
    }
    if (node_size(m->target) < node_size(m->source)) {
        backend_co_enter(m->source_backend);
        ret = node_co_truncate(m->target, node_size(m->source), err);
        backend_leave(m->source_backend);
        if (ret == 0) {
            ret = backend_co_flush(m->target_backend);
        }
    }
    return ret;
}

static bool mirror_may_end(const struct mirror *m)
{
    return m->completing && mirror_is_close(m);
}

static bool mirror_is_wanted(const struct mirror *m)
{
    return (m->completing && !m->skipped) || m->job.backend_paused ||
           job_is_cancelled(&m->job);
}

/* Until something is to be done: a change, a verb, or what failed may be tried
 * again. */
static CO_FN void mirror_co_wait(struct mirror *m)
{
    uint64_t until = loop_clock_ns(graph_loop(m->graph)) + GATHER_NS;
    bool all_done = dirty_map_bytes(m->dirty) == 0;

    m->job.busy = !all_done;
    while (!mirror_is_wanted(m) && all_done && dirty_map_bytes(m->dirty) == 0) {
        co_queue_co_wait(&m->wake);
    }
    m->job.busy = true;
    while (!all_done && !mirror_is_wanted(m) &&
           co_queue_co_wait_until(&m->wake, until)) {
    }
}

/* As job_apply_policy(). */
static CO_FN int mirror_co_flush_target(struct mirror *m, GError **err)
{
    int ret = BARRIER_COURTESY(backend_co_flush(m->target_backend));

    if (ret < 0) {
        ret = job_apply_policy(&m->job, m->on_target_error, false, -ret);
    }
    return ret < 0 && ret != -EAGAIN
               ? err_set_errno(err, -ret, "Could not flush node '%s'",
                               node_name(m->target))
               : ret;
}

/* Whoever sees it ready ends what it has at the source: so a target that has
 * lost writes must have told it before. */
static CO_FN int mirror_co_reach_ready(struct mirror *m, GError **err)
{
    int ret = mirror_co_flush_target(m, err);

    if (ret == 0 && mirror_is_close(m)) {
        job_set_ready(&m->job);
    }
    return ret == -EAGAIN ? 0 : ret;
}

/* Follow the guests until the job is ready and may end. */
static CO_FN int mirror_co_follow(struct mirror *m, GError **err)
{
    int ret = 0;

    while (ret == 0 && !(m->job.state == JOB_READY && mirror_may_end(m))) {
        uint64_t found = dirty_map_bytes(m->dirty);

        if (found > 0) {
            ret = mirror_co_round(m);
            mirror_judge(m, found);
        }
        if (ret == 0 && m->job.state != JOB_READY && mirror_is_close(m)) {
            ret = mirror_co_reach_ready(m, err);
        }
        if (ret == 0 && !mirror_may_end(m)) {
            mirror_co_wait(m);
            ret = job_co_pause_point(&m->job);
        }
    }
    return ret;
}

/* A target that cannot be flushed at the end is an error as any other: where
 * the policy says stop the job stands by, and tries again when it is resumed.
 * What is copied until then is not lost. */
static CO_FN int mirror_co_follow_to_end(struct mirror *m, GError **err)
{
    int ret;

    do {
        ret = mirror_co_follow(m, err);
        if (ret == 0) {
            ret = mirror_co_flush_target(m, err);
        }
        if (ret == -EAGAIN) {
            int stopped = job_co_pause_point(&m->job);

            ret = stopped < 0 ? stopped : -EAGAIN;
        }
    } while (ret == -EAGAIN);
    return ret;
}

static CO_FN int mirror_co_run(struct job *j, GError **err)
{
    struct mirror *m = (struct mirror *)j;
    int ret = job_co_pause_point(j);

    if (ret == 0) {
        ret = mirror_co_check_size(m, err);
    }
    if (ret == 0 && !m->only_new) {
        ret = mirror_co_round(m);
    }
    if (ret < 0) {
        return ret; /* what the first round has not reached is no copy */
    }
    m->first = false;
    return mirror_co_follow_to_end(m, err);
}

/* --- the end --- */

static CO_FN int mirror_co_finish(struct mirror *m, GError **err)
{
    int ret = mirror_co_copy_rest(m);

    mirror_show_progress(m);
    if (ret == 0) {
        ret = BARRIER(MIRROR_TARGET, node_co_flush(m->target));
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not bring node '%s' up to date",
                             node_name(m->target));
    }
    if (m->stay) {
        return 0;
    }
    ret = job_co_switching(&m->job, err);
    return ret < 0 ? ret : mirror_co_switch(m, err);
}

static CO_FN int mirror_co_prepare(struct job *j, GError **err)
{
    struct mirror *m = (struct mirror *)j;
    int ret;

    /* What is flushed now guests need not wait for. */
    ret = BARRIER_COURTESY(backend_co_flush(m->target_backend));
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush node '%s'",
                             node_name(m->target));
    }
    node_co_drain_requests_begin(m->filter);
    ret = mirror_co_finish(m, err);
    node_drain_end(m->filter);
    return ret;
}

static CO_FN void mirror_co_clean(struct job *j)
{
    mirror_co_release((struct mirror *)j);
}

/* --- verbs --- */

static void mirror_kick(struct job *j)
{
    struct mirror *m = (struct mirror *)j;

    job_copy_kick(j);
    co_queue_wake_all(&m->wake);
}

static void mirror_let_go(struct job *j)
{
    struct mirror *m = (struct mirror *)j;

    m->ending = true;
    if (m->source) {
        node_let_go(m->source);
        node_let_go(m->target);
    }
}

/* From here on changes are made on both sides, so that an end comes. */
static void mirror_end(struct mirror *m, bool stay)
{
    m->completing = true;
    m->stay = stay;
    m->write_blocking = true;
    mirror_kick(&m->job);
}

static CO_FN int mirror_co_complete(struct job *j, GError **err)
{
    struct mirror *m = (struct mirror *)j;

    if (!m->completing) {
        mirror_end(m, false);
    }
    return 0;
}

static void mirror_cancel_softly(struct job *j)
{
    struct mirror *m = (struct mirror *)j;

    if (!m->completing) {
        mirror_end(m, true);
    }
}

/* There is no way back: the guest has been told that the target has what it
 * wrote. */
static int mirror_set_copy_mode(struct job *j, bool write_blocking,
                                GError **err)
{
    struct mirror *m = (struct mirror *)j;

    if (!write_blocking && m->write_blocking) {
        return err_set(err, ENOTSUP,
                       "Change to copy mode 'background' is not implemented");
    }
    m->write_blocking = write_blocking;
    mirror_kick(j);
    return 0;
}

/* Of what the disk has now the target has all, and will have what comes. */
static bool mirror_is_synced(const struct mirror *m)
{
    return m->write_blocking && !m->first && dirty_map_bytes(m->dirty) == 0;
}

static void mirror_describe(const struct job *j, json_t *o)
{
    const struct mirror *m = (const struct mirror *)j;

    if (!m->dirty) {
        return; /* it is over */
    }
    json_object_set_new(o, "actively-synced",
                        json_boolean(mirror_is_synced(m)));
    json_object_set_new(
        o, "copy-mode",
        json_string(m->write_blocking ? "write-blocking" : "background"));
    json_object_set_new(o, "falls-behind",
                        json_boolean(mirror_falls_behind(m)));
}

#define MIRROR_DRIVER(name) \
    .type = (name), .job_size = sizeof(struct mirror), \
    .co_run = mirror_co_run, .co_prepare = mirror_co_prepare, \
    .co_clean = mirror_co_clean, .set_speed = job_copy_set_speed, \
    .kick = mirror_kick, .held_by = job_copy_held_by, .let_go = mirror_let_go, \
    .co_complete = mirror_co_complete, .cancel_softly = mirror_cancel_softly, \
    .describe = mirror_describe,
static const struct job_driver mirror_driver = {
    MIRROR_DRIVER("mirror").set_copy_mode = mirror_set_copy_mode,
};
static const struct job_driver active_commit_driver = { MIRROR_DRIVER(
    "commit") };

/* --- start --- */

static int mirror_check(const struct mirror_params *p, struct node *source,
                        GError **err)
{
    enum block_op op = p->is_commit ? BLOCK_OP_COMMIT : BLOCK_OP_MIRROR;
    struct node *n = source;
    int ret;

    if (source == p->target) {
        return err_set(err, EINVAL, "Can't mirror node into itself");
    }
    ret = node_check_op(source, op, err);
    if (ret == 0) {
        ret = node_check_op(p->target, op, err);
    }
    while (ret == 0 && p->is_commit && (n = node_chain_next(n)) != p->target) {
        ret = node_check_op(n, op, err);
    }
    if (ret == 0) {
        ret = p->is_commit
                  ? chain_check_no_other_overlay(source, p->target, err)
                  : node_check_no_overlay(p->target, err);
    }
    return ret;
}

/* An image whose backing file comes later: what is written to a part of a
 * cluster now would be filled up with zeroes. */
static bool mirror_target_lacks(const struct mirror_params *p)
{
    return (p->bottom || p->only_new) && !p->is_commit &&
           node_can(p->target, NODE_CAN_HAVE_BACKING) &&
           !node_backing(p->target);
}

static uint32_t mirror_granularity(const struct mirror_params *p)
{
    uint32_t least = mirror_target_lacks(p)
                         ? node_get_limits(p->target)->cluster_size
                         : 0;

    return !p->granularity && least <= DIRTY_DEFAULT_GRANULARITY
               ? 0
               : MAX(p->granularity, least);
}

static void mirror_init(struct mirror *m, const struct mirror_params *p,
                        struct node *source)
{
    m->graph = node_graph(source);
    m->source = node_ref(source);
    m->target = node_ref(p->target);
    m->bottom = p->bottom ? node_ref(p->bottom) : NULL;
    m->replaces = p->replaces ? node_ref(p->replaces) : NULL;
    m->is_commit = p->is_commit;
    m->transfer = (struct transfer) { source, p->target,
                                      p->unmap ? IO_MAY_UNMAP : 0 };
    m->write_blocking = p->write_blocking;
    m->target_is_zero = p->target_is_zero;
    m->only_new = p->only_new;
    m->first = !p->only_new;
    m->source_below = p->source_below;
    if (mirror_target_lacks(p)) {
        m->whole = mirror_unit(m);
        m->no_zeroes = !node_header_backing(p->target, NULL);
    }
    m->buf_size = p->buf_size;
    m->on_source_error = p->on_source_error;
    m->on_target_error = p->on_target_error;
}

int mirror_co_start(struct jobs *js, const struct mirror_params *p,
                    struct job **ret_job, GError **err)
{
    struct node *source = p->is_commit ? node_image(p->node, NULL)
                                       : node_skip_filters(p->node);
    struct dirty_map *dirty;
    struct mirror *m;
    struct job *j;
    int ret = mirror_check(p, source, err);

    if (ret < 0) {
        return ret;
    }
    dirty = dirty_map_new(node_size(source), mirror_granularity(p), err);
    ret = dirty ? job_new(js,
                          p->is_commit ? &active_commit_driver : &mirror_driver,
                          &p->job, &j, err)
                : -EFBIG;
    if (ret < 0) {
        dirty_map_free(dirty);
        return ret;
    }
    m = (struct mirror *)j;
    m->dirty = dirty;
    mirror_init(m, p, source);
    j->background = background_new(m->graph, &j->limits);
    background_join_chain(j->background, source, NULL);
    background_join_chain(j->background, p->target, NULL);
    mirror_show_progress(m);
    ret = mirror_co_open_checkpoint(m, &p->job, err);
    if (ret == 0) {
        ret = mirror_co_hold(m, p->filter_node_name, err);
    }
    if (ret == 0) {
        ret = mirror_co_begin_checkpoint(m, err);
    }
    if (ret < 0) {
        mirror_co_release(m);
        job_drop(j);
        return ret;
    }
    checkpoint_keeper_start(&m->keeper, graph_loop(m->graph));
    job_start(j);
    *ret_job = j;
    return 0;
}
