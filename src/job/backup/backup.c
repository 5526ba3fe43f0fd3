/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/backup/backup.h"
#include <errno.h>
#include <inttypes.h>
#include "base/barrier.h"
#include "base/err.h"
#include "graph/background.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/backup/backup-int.h"
#include "job/copy/copy-job.h"
#include "job/result.h"
#include "loop/co.h"
#include "loop/loop.h"

#define WORKERS 64u
/* What failed, and was to be ignored, is tried again after that long. */
#define AGAIN_NS UINT64_C(1000000000)

static void backup_show_progress(struct backup *b)
{
    uint64_t left = dirty_map_bytes(before_todo(b->before));

    b->job.len = b->todo;
    job_progress(&b->job, b->todo - MIN(left, b->todo));
}

/* --- the copy engine's view --- */

/* Has @ret come because of node_let_go(), and is the work to go on? */
static bool backup_restarts(const struct backup *b, int ret)
{
    return ret == -ERESTART && !b->ending;
}

/* Zeroes, and what is not copied at all, cost nothing. */
static CO_FN int backup_co_look(struct backup *b, uint64_t off, uint64_t max,
                                bool *ret_zero, uint64_t *ret_len)
{
    struct node *base = b->sync == BACKUP_TOP ? node_backing(b->source) : NULL;
    struct extent ext;
    int ret;

    do {
        backend_co_enter(b->source_backend);
        ret = node_co_status_above(b->source, base, off, max, &ext);
        backend_leave(b->source_backend);
    } while (backup_restarts(b, ret));
    if (ret == 0) {
        *ret_zero = ext.flags & STATUS_ZERO || (base && ext.depth == 0);
        *ret_len = ext.len;
    }
    return ret;
}

static CO_FN int backup_co_scan(void *arg, uint64_t off, uint64_t max,
                                bool *ret_need, bool *ret_zero,
                                uint64_t *ret_len)
{
    struct backup *b = arg;

    *ret_zero = false;
    *ret_need = dirty_map_run(before_todo(b->before), off, max, ret_len);
    return *ret_need ? backup_co_look(b, off, *ret_len, ret_zero, ret_len) : 0;
}

/* The backend is entered before a range is taken, for which guests wait, who
 * are waited for by a drain. */
static CO_FN int backup_co_copy(void *arg, uint64_t off, uint64_t len,
                                bool zero, struct copy_result *res)
{
    struct backup *b = arg;
    int ret;

    do {
        *res = (struct copy_result) { 0 };
        backend_co_enter(b->source_backend);
        ret = before_co_copy(b->before, off, len, res);
        backend_leave(b->source_backend);
    } while (backup_restarts(b, ret));
    return ret < 0 ? ret : before_error(b->before);
}

static void backup_progress(void *arg, uint64_t offset)
{
    backup_show_progress(arg);
}

static CO_FN int backup_co_error(void *arg, uint64_t off, bool is_read,
                                 int errnum)
{
    struct backup *b = arg;
    enum on_error policy = is_read ? b->on_source_error : b->on_target_error;
    int ret;

    if (before_error(b->before)) {
        return before_error(b->before);
    }
    job_set_fault(&b->job, is_read ? b->source : b->target, off, is_read,
                  errnum);
    ret = job_apply_policy(&b->job, policy, is_read, errnum);
    b->skipped = b->skipped || ret == 0;
    return ret;
}

static const struct copy_ops backup_copy_ops = {
    .co_scan = backup_co_scan,
    .co_copy = backup_co_copy,
    .progress = backup_progress,
    .co_error = backup_co_error,
    .co_pause_point = job_copy_co_pause_point,
};

/* --- the work --- */

static CO_FN int backup_co_round(struct backup *b)
{
    uint32_t cluster = before_cluster(b->before);
    uint64_t chunk = MAX(b->max_chunk ? b->max_chunk : 1 << 20, cluster);
    struct copy_params params = {
        .end = node_size(b->source),
        .cluster = cluster,
        .chunk = (uint32_t)(MIN(chunk, 64 << 20) / cluster * cluster),
        .is_far = node_is_remote(b->source) || node_is_remote(b->target),
    };

    if (b->max_workers && b->max_workers < WORKERS) {
        params.window_max = (uint64_t)b->max_workers * params.chunk;
    }
    b->skipped = false;
    return job_co_copy(&b->job, b->graph, &backup_copy_ops, params);
}

/* Until @until, or a verb. */
static CO_FN int backup_co_wait(struct backup *b, uint64_t until)
{
    while (!b->job.backend_paused && !job_is_cancelled(&b->job) &&
           !before_error(b->before) &&
           co_queue_co_wait_until(&b->wake, until)) {
    }
    return job_co_pause_point(&b->job);
}

static CO_FN int backup_co_copy_all(struct backup *b)
{
    int ret = backup_co_round(b);

    while (ret == 0 && b->skipped) {
        ret = backup_co_wait(b, loop_clock_ns(graph_loop(b->graph)) + AGAIN_NS);
        if (ret == 0) {
            ret = backup_co_round(b);
        }
    }
    return ret;
}

/* Guests alone copy; it ends when it is cancelled, or the copy is no good. */
static CO_FN int backup_co_serve(struct backup *b)
{
    struct loop *loop = graph_loop(b->graph);
    int ret = 0;

    while (ret == 0 && before_error(b->before) == 0) {
        b->job.busy = false;
        ret = backup_co_wait(b, loop_clock_ns(loop) + AGAIN_NS);
        b->job.busy = true;
        backup_show_progress(b);
    }
    return ret;
}

static CO_FN int backup_co_run(struct job *j, GError **err)
{
    struct backup *b = (struct backup *)j;
    int ret = job_co_pause_point(j);

    if (ret == 0) {
        ret = b->sync == BACKUP_NONE ? backup_co_serve(b)
                                     : backup_co_copy_all(b);
    }
    backup_show_progress(b);
    if (ret == 0) {
        ret = before_error(b->before);
    }
    if (before_error(b->before) && ret != -ECANCELED) {
        err_set_errno(err, -ret,
                      "What a guest overwrote could not be copied "
                      "to node '%s'",
                      node_name(b->target));
    }
    return ret;
}

/* What was copied is durable from here on (B3). */
static CO_FN int backup_co_flush(struct backup *b)
{
    int ret = BARRIER(BACKUP_TARGET, node_co_flush(b->target));

    b->durable = ret == 0;
    return ret;
}

static CO_FN int backup_co_prepare(struct job *j, GError **err)
{
    struct backup *b = (struct backup *)j;
    int ret = backup_co_flush(b);

    return ret < 0 ? err_set_errno(err, -ret, "Could not flush node '%s'",
                                   node_name(b->target))
                   : 0;
}

static CO_FN void backup_co_clean(struct job *j)
{
    struct backup *b = (struct backup *)j;

    if (b->bitmap_node && b->bitmap_mode == BACKUP_ALWAYS && !b->durable) {
        (void)backup_co_flush(b);
    }
    backup_co_release(b, j->result == 0);
}

/* --- verbs --- */

static void backup_kick(struct job *j)
{
    struct backup *b = (struct backup *)j;

    job_copy_kick(j);
    co_queue_wake_all(&b->wake);
}

static void backup_let_go(struct job *j)
{
    struct backup *b = (struct backup *)j;

    b->ending = true;
    if (b->source) {
        node_let_go(b->source);
        node_let_go(b->target);
    }
}

static const struct job_driver backup_driver = {
    .type = "backup",
    .job_size = sizeof(struct backup),
    .co_run = backup_co_run,
    .co_prepare = backup_co_prepare,
    .co_clean = backup_co_clean,
    .set_speed = job_copy_set_speed,
    .kick = backup_kick,
    .held_by = job_copy_held_by,
    .let_go = backup_let_go,
};

/* --- start --- */

static int backup_check_perf(const struct backup_params *p, GError **err)
{
    uint32_t cluster = MAX(MAX(node_get_limits(p->target)->cluster_size, 65536),
                           p->min_cluster);

    if (p->max_chunk && p->max_chunk < cluster) {
        return err_set(err, EINVAL,
                       "Required max-chunk (%" PRIu64
                       ") is less than backup cluster size (%" PRIu32 ")",
                       p->max_chunk, cluster);
    }
    return 0;
}

static int backup_check(const struct backup_params *p, struct node *source,
                        GError **err)
{
    int ret;

    if (source == p->target || p->node == p->target) {
        return err_set(err, EINVAL, "Source and target cannot be the same");
    }
    ret = node_check_op(p->node, BLOCK_OP_BACKUP, err);
    if (ret == 0) {
        ret = node_check_op(source, BLOCK_OP_BACKUP, err);
    }
    if (ret == 0) {
        ret = node_check_op(p->target, BLOCK_OP_BACKUP, err);
    }
    if (ret == 0 && p->compress &&
        node_get_limits(p->target)->compressed_unit == 0) {
        ret = err_set(err, ENOTSUP,
                      "Compression is not supported for this drive %s",
                      node_name(p->target));
    }
    if (ret == 0 && node_size(source) != node_size(p->target)) {
        ret = err_set(err, EINVAL,
                      "Source and target image have different sizes");
    }
    if (ret == 0 && !node_is_writable(p->target)) {
        ret = err_set(err, EACCES,
                      "Could not create node: Block node is read-only");
    }
    return ret < 0 ? ret : backup_check_perf(p, err);
}

static void backup_init(struct backup *b, const struct backup_params *p,
                        struct node *source)
{
    b->graph = node_graph(source);
    b->source = node_ref(source);
    b->target = node_ref(p->target);
    b->sync = p->sync;
    b->on_source_error = p->on_source_error;
    b->on_target_error = p->on_target_error;
    b->max_workers = p->max_workers;
    b->max_chunk = p->max_chunk;
}

CO_FN int backup_co_create(struct jobs *js, const struct backup_params *p,
                           struct job **ret_job, GError **err)
{
    struct node *source = node_skip_filters(p->node);
    struct backup *b;
    struct job *j;
    int ret = backup_check(p, source, err);

    if (ret == 0) {
        ret = job_new(js, &backup_driver, &p->job, &j, err);
    }
    if (ret < 0) {
        return ret;
    }
    b = (struct backup *)j;
    backup_init(b, p, source);
    j->background = background_new(b->graph, &j->limits);
    background_join_chain(j->background, source, NULL);
    background_join_chain(j->background, p->target, NULL);
    node_ref(source);
    node_co_drain_requests_begin(source);
    ret = backup_co_hold(b, p, err);
    node_drain_end(source);
    node_co_unref(source);
    if (ret < 0) {
        backup_co_drop(j);
        return ret;
    }
    b->todo = dirty_map_bytes(before_todo(b->before));
    backup_show_progress(b);
    job_join(j, p->group);
    *ret_job = j;
    return 0;
}

CO_FN void backup_co_drop(struct job *j)
{
    backup_co_release((struct backup *)j, false);
    job_drop(j);
}
