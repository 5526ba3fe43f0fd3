/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests to an RBD image.  What is read passes through memory of the
 * request's own, because a request may be abandoned (rbd-op.h); so does what is
 * written.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "graph/io.h"
#include "storage/rbd/rbd-node.h"
#include "storage/trace.h"

#define MEMORY_ALIGNMENT 4096
#define GROW_STEP (UINT64_C(64) << 20)

struct request {
    struct rbd_op op;
    const struct rbd_lib *lib;
    rbd_completion_t completion;
    void *buf;
    uint64_t off;
    size_t len;
};

static void rbd_request_free(struct request *q)
{
    q->lib->rbd_aio_release(q->completion);
    free(q->buf);
    g_free(q);
}

static void request_discard(struct rbd_op *op)
{
    rbd_request_free(
        (struct request *)(void *)((char *)op - offsetof(struct request, op)));
}

/* On a thread of librbd. */
static void request_complete(rbd_completion_t c, void *arg)
{
    struct request *q = arg;

    rbd_op_finish(&q->op, q->lib->rbd_aio_get_return_value(c));
}

static int rbd_request_new(const struct rbd_state *s, enum rbd_op_kind kind,
                           uint64_t off, size_t len, bool has_data,
                           struct request **ret)
{
    struct request *q = g_new0(struct request, 1);
    int r = has_data ? -posix_memalign(&q->buf, MEMORY_ALIGNMENT, len) : 0;

    q->op.kind = kind;
    q->op.discard = request_discard;
    q->lib = s->image->lib;
    q->off = off;
    q->len = len;
    if (r == 0) {
        r = q->lib->rbd_aio_create_completion(q, request_complete,
                                              &q->completion);
    }
    if (r < 0) {
        free(q->buf);
        g_free(q);
        return r;
    }
    *ret = q;
    return 0;
}

/* Was it handed over (@r is 0)? Then wait. @q stays the caller's unless
 * *@ret_abandoned. */
static CO_FN int64_t request_co_finish(struct rbd_state *s, struct request *q,
                                       int r, bool *ret_abandoned)
{
    if (r < 0) {
        /* No completion comes. */
        rbd_op_finish(&q->op, r);
    }
    return rbd_op_co_wait(&q->op, ret_abandoned);
}

static int io_result(struct node *n, const char *what, uint64_t off,
                     uint64_t len, int64_t r)
{
    if (r >= 0) {
        return 0;
    }
    trace_rbd_io_error(n->filename, what, off, len, (int)r);
    return (int)r;
}

/* --- reading --- */

int rbd_io_co_preadv(struct node *n, uint64_t off, struct iov iov,
                     unsigned flags)
{
    struct rbd_state *s = n->state;
    struct request *q;
    bool abandoned;
    int64_t r = rbd_request_new(s, RBD_OP_READ, off, iov.len, true, &q);

    if (r < 0) {
        return (int)r;
    }
    rbd_op_begin(&s->waits, &q->op);
    r = s->image->lib->rbd_aio_read(s->image->image, off, q->len, q->buf,
                                    q->completion);
    r = request_co_finish(s, q, (int)r, &abandoned);
    if (!abandoned) {
        if (r >= 0) {
            /* It is shorter where the image was made shorter by others. */
            iov_from_buf(iov, 0, q->buf, MIN((size_t)r, iov.len));
            if ((size_t)r < iov.len) {
                iov_memset(iov, (size_t)r, 0, iov.len - (size_t)r);
            }
        }
        rbd_request_free(q);
    }
    return io_result(n, "read", off, iov.len, r);
}

/* --- size --- */

/* A change that nobody waits for any more may still happen: nothing may be
 * written that it could undo. */
static int check_lost_changes(const struct rbd_state *s)
{
    return rbd_waits_lost_changes(&s->waits) ? -EIO : 0;
}

struct resize {
    struct rbd_image *image; /* referenced */
    uint64_t size;
};

static void resize_free(void *arg)
{
    struct resize *z = arg;

    rbd_image_unref(z->image);
    g_free(z);
}

/* librbd calls it when it removes objects, whether there is one or not. */
static int resize_progress(uint64_t done, uint64_t all, void *arg)
{
    return 0;
}

static int64_t resize_now(void *arg)
{
    struct resize *z = arg;

    return z->image->lib->rbd_resize2(z->image->image, z->size, true,
                                      resize_progress, NULL);
}

static int64_t size_now(void *arg)
{
    struct resize *z = arg;

    return z->image->lib->rbd_get_size(z->image->image, &z->size);
}

static CO_FN int64_t size_co_call(struct node *n, enum rbd_op_kind kind,
                                  int64_t (*fn)(void *arg), uint64_t *size)
{
    struct rbd_state *s = n->state;
    struct resize *z = g_new0(struct resize, 1);
    bool abandoned;
    int64_t r;

    z->image = rbd_image_ref(s->image);
    z->size = *size;
    r = rbd_co_call(&s->waits, kind, 0, fn, resize_free, z, &abandoned);
    if (!abandoned) {
        *size = z->size;
        resize_free(z);
    } else if (kind == RBD_OP_CHANGE) {
        node_fail(n);
    }
    return r;
}

static CO_FN int size_co_set(struct node *n, uint64_t size)
{
    struct rbd_state *s = n->state;
    int64_t r = check_lost_changes(s);

    if (r == 0) {
        r = size_co_call(n, RBD_OP_CHANGE, resize_now, &size);
    }
    if (r == 0) {
        /* What was beyond a new end is gone; what is new was never asked
         * about. */
        extents_forget(&s->extents);
        s->extents.generation++;
        s->size = size;
    }
    return io_result(n, "resize", size, 0, r);
}

int rbd_io_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct rbd_state *s = n->state;
    int r;

    co_mutex_co_lock(&s->size_lock);
    r = size_co_set(n, size);
    co_mutex_unlock(&s->size_lock);
    return r < 0 ? err_set_errno(err, -r, "Failed to resize file") : 0;
}

int rbd_io_co_refresh_size(struct node *n)
{
    struct rbd_state *s = n->state;
    uint64_t size = 0;
    int64_t r = size_co_call(n, RBD_OP_READ, size_now, &size);

    if (r == 0 && size != s->size) { /* by somebody else */
        n->size = s->size = size;
    }
    return (int)r;
}

int rbd_io_co_settle_size(struct node *n)
{
    const struct rbd_state *s = n->state;

    return s->size > n->size ? rbd_io_co_truncate(n, n->size, NULL) : 0;
}

/* --- changing --- */

/* @q is handed over with result @r. */
static CO_FN int change_co_finish(struct node *n, const char *what,
                                  struct request *q, int r)
{
    struct rbd_state *s = n->state;
    uint64_t off = q->off, len = q->len;
    bool abandoned;
    int64_t ret = request_co_finish(s, q, r, &abandoned);

    extents_wrote(&s->extents, off, len);
    if (abandoned) {
        node_fail(n);
    } else {
        rbd_request_free(q);
    }
    return io_result(n, what, off, len, ret);
}

static int change_begin(struct node *n, uint64_t off, uint64_t len,
                        bool has_data, struct request **ret)
{
    struct rbd_state *s = n->state;
    int r = check_lost_changes(s);

    if (r == 0) {
        r = rbd_request_new(s, RBD_OP_CHANGE, off, len, has_data, ret);
    }
    if (r == 0) {
        extents_wrote(&s->extents, off, len);
        rbd_op_begin(&s->waits, &(*ret)->op);
    }
    return r;
}

/* librbd clips a write at the end of the image and says nothing.  To make it
 * longer takes as long as a dozen writes, and costs no space: so it is done in
 * large steps. */
static CO_FN int write_co_grow(struct node *n, uint64_t end)
{
    struct rbd_state *s = n->state;
    int r = 0;

    if (end <= s->size) {
        return 0;
    }
    co_mutex_co_lock(&s->size_lock);
    if (end > s->size) {
        r = size_co_set(n, end <= NODE_SIZE_MAX - GROW_STEP
                               ? (end + GROW_STEP - 1) / GROW_STEP * GROW_STEP
                               : end);
    }
    co_mutex_unlock(&s->size_lock);
    return r;
}

int rbd_io_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                      unsigned flags)
{
    struct rbd_state *s = n->state;
    struct request *q;
    int r = write_co_grow(n, off + iov.len);

    if (r == 0) {
        r = change_begin(n, off, iov.len, true, &q);
    }
    if (r < 0) {
        return r;
    }
    iov_to_buf(iov, 0, q->buf, iov.len);
    r = s->image->lib->rbd_aio_write(s->image->image, off, q->len, q->buf,
                                     q->completion);
    return change_co_finish(n, "write", q, r);
}

int rbd_io_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct rbd_state *s = n->state;
    bool may_unmap = flags & IO_MAY_UNMAP;
    struct request *q;
    int r;

    if (!may_unmap && (flags & IO_FAST)) {
        return -ENOTSUP; /* it would be written */
    }
    r = write_co_grow(n, off + len);
    if (r == 0) {
        r = change_begin(n, off, len, false, &q);
    }
    if (r < 0) {
        return r;
    }
    r = s->image->lib->rbd_aio_write_zeroes(
        s->image->image, off, len, q->completion,
        may_unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
    return change_co_finish(n, "zero", q, r);
}

int rbd_io_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct rbd_state *s = n->state;
    struct request *q;
    int r = change_begin(n, off, len, false, &q);

    if (r < 0) {
        return r;
    }
    r = s->image->lib->rbd_aio_discard(s->image->image, off, len,
                                       q->completion);
    return change_co_finish(n, "discard", q, r);
}

int rbd_io_co_flush(struct node *n)
{
    struct rbd_state *s = n->state;
    struct request *q;
    bool abandoned;
    int64_t r;

    r = rbd_request_new(s, RBD_OP_CHANGE, 0, 0, false, &q);
    if (r < 0) {
        return (int)r;
    }
    rbd_op_begin(&s->waits, &q->op);
    r = s->image->lib->rbd_aio_flush(s->image->image, q->completion);
    r = request_co_finish(s, q, (int)r, &abandoned);
    if (!abandoned) {
        rbd_request_free(q);
    }
    return io_result(n, "flush", 0, 0, r);
}
