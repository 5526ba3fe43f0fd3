/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * block-stream: the job and its one-step form.
 *
 * The job populates the overlay by the copy engine (stream-chain.h), checks
 * that nothing is missing, and pivots when it is finalized.  The work is in the
 * overlay's own mapping: a job that was cancelled, or lost with its daemon,
 * goes on where it was when it is started again.
 */
#include "job/stream/stream.h"
#include <inttypes.h>
#include "base/err.h"
#include "graph/io.h"
#include "job/copy/copy-job.h"
#include "job/result.h"
#include "job/stream/stream-chain.h"
#include "job/job-int.h"
#include "loop/co.h"

/* Passes over the image. The second finds nothing unless somebody meddles. */
#define ATTEMPTS 3
/* What one step copies, at least a cluster. */
#define STEP (UINT64_C(512) << 10)

struct stream_job {
    struct job job; /* first */
    struct graph *graph;
    struct stream_chain stream_chain;
    char *backing_file;
    enum on_error on_error;
    bool noop;
    bool resumed;
    int ignored; /* first error that was passed over, -errno */
};

/* --- the copy engine's view --- */

static CO_FN int stream_co_scan(void *arg, uint64_t off, uint64_t max,
                                bool *ret_need, bool *ret_zero,
                                uint64_t *ret_len)
{
    struct stream_job *s = arg;

    return stream_chain_co_scan(&s->stream_chain, off, max, ret_need, ret_zero,
                                ret_len);
}

static CO_FN int stream_co_copy(void *arg, uint64_t off, uint64_t len,
                                bool zero, struct copy_result *res)
{
    struct stream_job *s = arg;
    struct populate_result pr = { 0 };
    int ret = stream_chain_co_copy(&s->stream_chain, off, len, zero, &pr);

    res->copied = pr.copied;
    res->shared = pr.shared;
    res->read_ns = pr.read_ns;
    res->write_ns = pr.write_ns;
    res->is_read = pr.read_error != 0;
    return ret;
}

static void stream_progress(void *arg, uint64_t offset)
{
    struct stream_job *s = arg;

    job_progress(&s->job, offset);
}

static CO_FN void stream_co_note_fault(struct stream_job *s, uint64_t off,
                                       bool is_read, int errnum)
{
    struct stream_chain *sc = &s->stream_chain;
    struct node *n = sc->top;

    if (is_read) {
        /* Storage that does not answer is not asked once more. */
        n = has_given_up(-errnum) ? sc->bottom
                                  : stream_chain_co_holder(sc, off);
    }
    job_set_fault(&s->job, n, off, is_read, errnum);
}

static CO_FN int stream_co_error(void *arg, uint64_t off, bool is_read,
                                 int errnum)
{
    struct stream_job *s = arg;
    int ret;

    /* Of those that are ignored the first is what the job fails with. */
    if (!s->ignored) {
        stream_co_note_fault(s, off, is_read, errnum);
    }
    ret = job_apply_policy(&s->job, s->on_error, is_read, errnum);
    if (ret == 0 && !s->ignored) {
        s->ignored = -errnum;
    }
    return ret;
}

static const struct copy_ops stream_copy_ops = {
    .co_scan = stream_co_scan,
    .co_copy = stream_co_copy,
    .progress = stream_progress,
    .co_error = stream_co_error,
    .co_pause_point = job_copy_co_pause_point,
};

/* --- the job --- */

/* The first image of the chain that goes and that is far away, or NULL. */
static struct node *find_remote(const struct stream_chain *p)
{
    struct node *n = p->top;

    while (n && n != p->bottom) {
        n = node_skip_filters(node_backing(n));
        if (n && node_is_remote(n)) {
            return n;
        }
    }
    return NULL;
}

static CO_FN int stream_co_attempt(struct stream_job *s)
{
    struct copy_params params = {
        .end = s->job.len,
        .cluster = node_get_limits(s->stream_chain.top)->cluster_size,
        .is_far = find_remote(&s->stream_chain) != NULL,
    };
    int ret;

    ret = job_co_copy(&s->job, s->graph, &stream_copy_ops, params);
    return ret;
}

static CO_FN int stream_co_run(struct job *j, GError **err)
{
    struct stream_job *s = (struct stream_job *)j;
    uint64_t missing = 0;
    int ret = s->noop ? job_co_pause_point(j) : -EAGAIN;

    for (unsigned i = 0; i < ATTEMPTS && ret == -EAGAIN; i++) {
        ret = stream_co_attempt(s);
        if (ret == 0) {
            /* What was passed over must never lose its base (S7). */
            ret = s->ignored
                      ? s->ignored
                      : stream_chain_co_verify(&s->stream_chain, &missing);
        }
    }
    if (ret == -EAGAIN) {
        return err_set(err, EIO,
                       "'%s' still needs its backing file at offset "
                       "%" PRIu64,
                       node_title(s->stream_chain.top), missing);
    }
    if (ret < 0 && ret != -ECANCELED) {
        /* If a source is not what it was, say so in words. */
        (void)stream_chain_co_check_sources(&s->stream_chain, err);
    }
    return ret;
}

/* No byte of the disk depends on @base any more, durably.  @base NULL: an
 * earlier daemon let go of it, and ended before it could say so. */
static void send_released(struct job *j, const char *node, const char *base)
{
    json_t *data = json_pack("{s:s, s:s}", "device", j->device, "node-name",
                             node);

    if (base) {
        json_object_set_new(data, "base", json_string(base));
    }
    job_send(j, "BLOCK_BASE_RELEASED", data);
}

static CO_FN int stream_co_prepare(struct job *j, GError **err)
{
    struct stream_job *s = (struct stream_job *)j;
    struct node *remote = find_remote(&s->stream_chain);
    g_autofree char *base = !remote ? NULL
                            : node_filename(remote)
                                ? g_strdup(node_filename(remote))
                                : g_strdup(node_name(remote));
    int ret = stream_chain_co_pivot(&s->stream_chain, s->backing_file, err);

    if (ret == 0 && (base || (s->noop && s->resumed))) {
        send_released(j, node_name(s->stream_chain.top), base);
    }
    return ret;
}

static CO_FN void stream_co_clean(struct job *j)
{
    struct stream_job *s = (struct stream_job *)j;

    stream_chain_co_release(&s->stream_chain);
    g_clear_pointer(&s->backing_file, g_free);
}

static void stream_let_go(struct job *j)
{
    struct stream_job *s = (struct stream_job *)j;

    stream_chain_let_go(&s->stream_chain);
}

static const struct job_driver stream_driver = {
    .type = "stream",
    .job_size = sizeof(struct stream_job),
    .co_run = stream_co_run,
    .co_prepare = stream_co_prepare,
    .co_clean = stream_co_clean,
    .set_speed = job_copy_set_speed,
    .held_by = job_copy_held_by,
    .kick = job_copy_kick,
    .let_go = stream_let_go,
};

/* --- start --- */

/* The lowest node to copy, by `base` or `bottom`. */
static int stream_find_bottom(const struct stream_params *p, struct node *top,
                              struct node **ret_bottom, GError **err)
{
    const char *device = p->device ? p->device : node_name(p->node);

    if (p->base && p->bottom) {
        return err_set(err, EINVAL,
                       "'base-node' and 'bottom' cannot be "
                       "specified at the same time");
    }
    if (p->base) {
        *ret_bottom = node_overlay_of(top, p->base);
        if (!*ret_bottom) {
            return err_set(err, EINVAL,
                           "Node '%s' is not a backing image of '%s'",
                           node_name(p->base), device);
        }
        return 0;
    }
    if (p->bottom) {
        if (node_is_filter(p->bottom)) {
            return err_set(err, EINVAL,
                           "Node '%s' is a filter, use a "
                           "non-filter node as 'bottom'",
                           node_name(p->bottom));
        }
        if (!node_chain_contains(top, p->bottom)) {
            return err_set(err, EINVAL,
                           "Node '%s' is not in a chain starting from '%s'",
                           node_name(p->bottom), device);
        }
        *ret_bottom = p->bottom;
        return 0;
    }
    *ret_bottom = stream_chain_lowest(top);
    return 0;
}

static CO_FN int stream_co_check(const struct stream_params *p,
                                 struct node *top, struct node **ret_bottom,
                                 GError **err)
{
    int ret = stream_find_bottom(p, top, ret_bottom, err);

    if (ret < 0) {
        return ret;
    }
    if (p->backing_file && !node_backing(*ret_bottom)) {
        return err_set(err, EINVAL,
                       "backing file specified, but streaming "
                       "the entire chain");
    }
    ret = stream_chain_check(p->node, *ret_bottom, err);
    if (ret < 0) {
        return ret;
    }
    if (node_backing(top) && !node_can(top, NODE_CAN_HAVE_BACKING)) {
        return err_set(err, ENOTSUP,
                       "'%s' cannot be streamed: its driver '%s' "
                       "has no backing files",
                       node_title(top), node_driver_name(top));
    }
    return stream_chain_co_check_name(top, *ret_bottom, p->backing_file, err);
}

CO_FN int stream_co_start(struct jobs *js, const struct stream_params *p,
                          struct job **ret_job, GError **err)
{
    struct node *top = node_image(p->node, NULL), *bottom = NULL;
    g_autofree char *by = NULL;
    struct stream_job *s;
    struct job *j;
    int ret;

    ret = stream_co_check(p, top, &bottom, err);
    if (ret < 0) {
        return ret;
    }
    ret = job_new(js, &stream_driver, &p->job, &j, err);
    if (ret < 0) {
        return ret;
    }
    s = (struct stream_job *)j;
    s->graph = node_graph(top);
    s->on_error = p->on_error;
    s->backing_file = g_strdup(p->backing_file);
    s->noop = bottom == top;
    s->resumed = p->resumed;
    j->len = s->noop ? 0 : node_size(top);
    by = g_strdup_printf("stream job '%s'", j->id);
    ret = stream_chain_co_hold(&s->stream_chain, top, bottom, by, err);
    if (ret == 0 && !s->noop) {
        ret = stream_chain_co_add_filter(&s->stream_chain, p->filter_node_name,
                                         err);
    }
    if (ret < 0) {
        stream_co_clean(j);
        job_drop(j);
        return ret;
    }
    j->background = background_new(s->graph, &j->limits);
    background_join_chain(j->background, top, node_backing(bottom));
    job_start(j);
    *ret_job = j;
    return 0;
}

/* --- one step --- */

/* A step is one chunk: it waits like any other, and its caller with it. */
static CO_FN int step_co_copy(struct stream_chain *p, uint64_t off,
                              uint64_t len, bool zero,
                              struct populate_result *res)
{
    static const struct background_limits limits = BACKGROUND_LIMITS;
    struct background *b;
    int ret;

    if (zero) {
        return stream_chain_co_copy(p, off, len, zero, res);
    }
    b = background_new(node_graph(p->top), &limits);
    background_join_chain(b, p->top, node_backing(p->bottom));
    background_co_wait(b);
    background_begin(b, len);
    ret = stream_chain_co_copy(p, off, len, zero, res);
    background_end(b, len, res->copied - res->shared);
    background_free(b);
    return ret;
}

/* Populate from @off until something was; *@ret_end is where that ends. */
static CO_FN int step_co_populate(struct stream_chain *p, uint64_t off,
                                  uint64_t *ret_end)
{
    uint64_t size = node_size(p->top);
    uint64_t step = MAX(STEP, node_get_limits(p->top)->cluster_size);
    int ret = 0;

    while (off < size) {
        struct populate_result res = { 0 };
        bool need = false, zero = false;
        uint64_t len = 0;

        ret = stream_chain_co_scan(p, off, size - off, &need, &zero, &len);
        if (ret < 0) {
            return ret;
        }
        if (need) {
            len = MIN(len, step - off % step);
            ret = step_co_copy(p, off, len, zero, &res);
        }
        if (ret < 0) {
            return ret;
        }
        off += len;
        if (res.copied || res.zeroed) {
            break;
        }
        co_relax();
    }
    *ret_end = off;
    return 0;
}

/* At the end of the device: let go of the base if nothing is missing. */
static CO_FN int step_co_finish(struct stream_chain *p, bool *ret_done,
                                GError **err)
{
    uint64_t missing;
    int ret = stream_chain_co_verify(p, &missing);

    if (ret == -EAGAIN) {
        *ret_done = false; /* the caller began in the middle */
        return 0;
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not check '%s'",
                             node_title(p->top));
    }
    *ret_done = true;
    return stream_chain_co_pivot(p, NULL, err);
}

static CO_FN int step_co_run(struct stream_chain *p, uint64_t *cursor,
                             uint64_t *ret_offset, bool *ret_done, GError **err)
{
    uint64_t end = 0;
    int ret = step_co_populate(p, *cursor, &end);

    *ret_done = false;
    if (ret < 0) {
        return err_set_errno(err, -ret,
                             "Could not copy into '%s' at or after "
                             "offset %" PRIu64,
                             node_title(p->top), *cursor);
    }
    if (end >= node_size(p->top)) {
        ret = step_co_finish(p, ret_done, err);
        if (ret < 0) {
            return ret;
        }
    }
    *ret_offset = end;
    *cursor = end >= node_size(p->top) && !*ret_done ? 0 : end;
    return 0;
}

CO_FN int stream_co_step(struct jobs *js, struct node *top, const char *device,
                         uint64_t *cursor, uint64_t *ret_len,
                         uint64_t *ret_offset, GError **err)
{
    struct node *image = node_image(top, NULL),
                *bottom = stream_chain_lowest(image);
    uint64_t len = node_size(image);
    struct stream_chain stream_chain;
    bool done = false;
    int ret;

    *cursor = MIN(*cursor, len);
    if (bottom == image) {
        *ret_len = *ret_offset = len; /* nothing is missing */
        return 0;
    }
    ret = stream_chain_check(top, bottom, err);
    if (ret == 0) {
        ret = stream_chain_co_hold(&stream_chain, image, bottom, "block_stream",
                                   err);
    }
    if (ret != 0) {
        return ret;
    }
    ret = step_co_run(&stream_chain, cursor, ret_offset, &done, err);
    stream_chain_co_release(&stream_chain);
    if (ret < 0) {
        return ret;
    }
    *ret_len = len;
    if (done) {
        jobs_send_completed(js, "stream", device, len, len);
    }
    return 0;
}
