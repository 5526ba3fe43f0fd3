/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing to a node that may have a backing file.
 *
 * What is allocated is written in place.  For the rest:
 *
 *   read   with nothing held, read from the chain below what the clusters at
 *          the two ends hold besides the guest's bytes
 *   take   the clusters (TRACK_ALLOC)
 *   ask    again what is allocated: another writer or a populate may have been
 *          there; its clusters are written in place, with the guest's bytes
 *          alone, so both survive
 *   write  clusters still absent as a whole: the bytes from below and the
 *          guest's in one call
 *
 * So a write that covers its clusters waits neither for a slow base nor for
 * another request that waits for it.  Where the rest of a cluster is zeroes,
 * that is left to the driver, which makes the rest of a new cluster read as
 * zeroes (M8: past the base's end included).
 */
#include <string.h>
#include "base/barrier.h"
#include "graph/io/dispatch.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/trace.h"
#include "loop/io.h"

#define STACK_VECS 16
/* The state under the lock is not the one that was read for: try again. */
#define ALLOC_WRITE_AGAIN 1

enum merge_state {
    MERGE_NONE, /* the cluster was allocated, or is covered */
    MERGE_ZERO, /* the rest of it reads as zeroes */
    MERGE_BYTES,
};

/* The rest of one partly written cluster. */
struct merge {
    uint64_t start, end;       /* the cluster, up to the end of the disk */
    uint8_t *buf;              /* of all of it; the guest's part is undefined */
    struct inflight *inflight; /* NULL: @buf is our own */
    bool owns_read;
    unsigned flags; /* of what is read for it: IO_DEMAND or none */
    enum merge_state state;
};

struct alloc_write {
    struct node *n;
    uint64_t off, end; /* the guest's */
    struct iov iov;
    unsigned flags;
    struct merge head, tail; /* the same cluster: head is used */
};

/* From an in-flight read if there is one, else from the chain below. */
static CO_FN int merge_co_read(struct node *n, struct merge *f, uint64_t from,
                               uint64_t to)
{
    struct iovec store;

    return inflight_co_read_below(
        n, from, iov_one(&store, f->buf + (from - f->start), to - from),
        f->flags);
}

static bool merge_is_zero(const struct merge *f, uint64_t from, uint64_t to)
{
    struct iovec store;

    return from == to ||
           iov_is_zero(iov_one(&store, f->buf + (from - f->start), to - from));
}

/* Read just what the guest does not write. */
static CO_FN int merge_co_read_parts(struct node *n, struct merge *f,
                                     uint64_t from, uint64_t to)
{
    int ret = 0;

    f->buf = io_buf_get(f->end - f->start);
    if (!f->buf) {
        return -ENOMEM;
    }
    if (from > f->start) {
        ret = merge_co_read(n, f, f->start, from);
    }
    if (ret == 0 && to < f->end) {
        ret = merge_co_read(n, f, to, f->end);
    }
    return ret;
}

/* Many small writes may want the same cluster: one of them, or a populate,
 * reads it for all. -EAGAIN: the read that was joined failed. */
static CO_FN int merge_co_share(struct node *n, struct merge *f)
{
    struct inflight *inflight = inflight_find(n, f->start);
    int ret;

    f->owns_read = !inflight;
    if (inflight) {
        inflight_ref(inflight);
        f->inflight = inflight;
        ret = inflight_co_wait_ready(inflight) < 0 ? -EAGAIN : 0;
    } else {
        f->inflight = inflight = inflight_begin(n, f->start, f->end - f->start);
        if (!inflight) {
            return -ENOMEM;
        }
        ret = inflight_co_read(inflight, f->flags);
    }
    f->buf = inflight->buf + (f->start - inflight->off);
    return ret;
}

static void merge_done(struct merge *f)
{
    if (f->inflight && f->owns_read) {
        inflight_end(f->inflight);
    } else if (f->inflight) {
        inflight_unref(f->inflight);
    } else if (f->buf) {
        io_buf_put(f->buf, f->end - f->start);
    }
    f->inflight = NULL;
    f->buf = NULL;
}

/* Get the bytes of @f's cluster outside [@from, @to). */
static CO_FN int merge_co_read_below(struct node *n, struct merge *f,
                                     uint64_t from, uint64_t to)
{
    struct node *backing = node_backing(n);
    struct mapping m;
    int ret = node_co_map(n, f->start, f->end - f->start, &m);

    if (ret < 0) {
        return ret;
    }
    if (m.kind != MAP_ABSENT) {
        f->state = MERGE_NONE;
        return 0;
    }
    f->state = MERGE_ZERO;
    if (!backing || backing->size <= f->start) {
        return 0;
    }
    node_co_debug_event(node_file(n), DEBUG_COW_READ);
    node_co_debug_event(node_file(n), DEBUG_READ_BACKING_AIO);
    ret = -EAGAIN;
    if (to - from < (f->end - f->start) / 2) {
        ret = merge_co_share(n, f);
    }
    if (ret == -EAGAIN) {
        merge_done(f);
        ret = merge_co_read_parts(n, f, from, to);
    }
    trace_alloc_write_read_below(n->name, f->start, f->end - f->start, ret);
    if (ret == 0 &&
        !(merge_is_zero(f, f->start, from) && merge_is_zero(f, to, f->end))) {
        f->state = MERGE_BYTES;
    }
    return ret;
}

static void merge_init(struct merge *f, const struct node *n, uint64_t at)
{
    uint32_t cluster = MAX(n->priv->limits.cluster_size, 1);

    f->start = round_down(at, cluster);
    f->end = MIN(f->start + cluster, n->size);
    f->buf = NULL;
    f->inflight = NULL;
    f->owns_read = false;
    f->state = MERGE_NONE;
}

static bool head_is_partial(const struct alloc_write *c)
{
    return c->off > c->head.start || c->end < c->head.end;
}

static bool tail_is_partial(const struct alloc_write *c)
{
    return c->tail.start != c->head.start && c->end < c->tail.end;
}

static CO_FN int alloc_write_co_read_rest(struct alloc_write *c)
{
    int ret = 0;

    merge_init(&c->head, c->n, c->off);
    merge_init(&c->tail, c->n, c->end - 1);
    if (head_is_partial(c)) {
        ret = merge_co_read_below(c->n, &c->head, c->off,
                                  MIN(c->end, c->head.end));
    }
    if (ret == 0 && tail_is_partial(c)) {
        ret = merge_co_read_below(c->n, &c->tail, c->tail.start, c->end);
    }
    return ret;
}

/* One driver call for [@pos, @end) of the guest, with what stands before and
 * after it in the first and last cluster. */
static CO_FN int alloc_write_co_write_merged(struct alloc_write *c,
                                             uint64_t pos, uint64_t end,
                                             struct iovec pre,
                                             struct iovec post)
{
    struct iov guest = iov_slice(c->iov, pos - c->off, end - pos);
    struct iovec stack[STACK_VECS], *v = stack;
    unsigned count = 0;
    size_t len;
    int ret;

    if (pre.iov_len + post.iov_len == 0) {
        return write_co_driver(c->n, pos, guest, c->flags);
    }
    node_co_debug_event(node_file(c->n), DEBUG_COW_WRITE);
    if (guest.n + 2 > STACK_VECS) {
        v = g_new(struct iovec, guest.n + 2);
    }
    if (pre.iov_len > 0) {
        v[count++] = pre;
    }
    count += iov_export(guest, v + count, guest.n, &len);
    g_assert(len == guest.len);
    if (post.iov_len > 0) {
        v[count++] = post;
    }
    ret = write_co_driver(
        c->n, pos - pre.iov_len,
        (struct iov) { v, count, 0, pre.iov_len + len + post.iov_len },
        c->flags);
    if (v != stack) {
        g_free(v);
    }
    return ret;
}

/* [@pos, @end) is not allocated and is the guest's; allocate it. */
static CO_FN int alloc_write_co_allocate(struct alloc_write *c, uint64_t pos,
                                         uint64_t end)
{
    struct merge *last = c->tail.start == c->head.start ? &c->head : &c->tail;
    struct iovec pre = { 0 }, post = { 0 };

    if (head_is_partial(c) && pos < c->head.end) {
        if (c->head.state == MERGE_NONE) {
            return ALLOC_WRITE_AGAIN;
        }
        if (c->head.state == MERGE_BYTES) {
            pre = (struct iovec) { c->head.buf, c->off - c->head.start };
        }
    }
    if (end == c->end && end < last->end) {
        if (last->state == MERGE_NONE) {
            return ALLOC_WRITE_AGAIN;
        }
        if (last->state == MERGE_BYTES) {
            post = (struct iovec) { last->buf + (end - last->start),
                                    last->end - end };
        }
    }
    return alloc_write_co_write_merged(c, pos, end, pre, post);
}

/* The clusters are held. */
static CO_FN int alloc_write_co_write_held(struct alloc_write *c)
{
    uint64_t pos = c->off;
    int ret = 0;

    while (pos < c->end && ret == 0) {
        struct mapping m;
        uint64_t end;

        ret = node_co_map(c->n, pos, c->end - pos, &m);
        if (ret < 0) {
            return ret;
        }
        end = pos + m.len;
        if (m.kind != MAP_ABSENT) {
            ret = write_co_driver(
                c->n, pos, iov_slice(c->iov, pos - c->off, m.len), c->flags);
        } else {
            ret = alloc_write_co_allocate(c, pos, end);
        }
        pos = end;
    }
    return ret;
}

static CO_FN int alloc_write_co_allocating(struct alloc_write *c)
{
    struct tracked t;
    int ret = alloc_write_co_read_rest(c);

    if (ret == 0) {
        uint64_t start = c->head.start;

        track_co_begin(&t, c->n, start, c->tail.end - start, TRACK_ALLOC);
        ret = alloc_write_co_write_held(c);
        track_end(&t);
    }
    merge_done(&c->head);
    merge_done(&c->tail);
    return ret;
}

/* A write that stays within data; else *@ret_done is false and nothing was
 * written. */
static CO_FN int alloc_write_co_write_data(struct alloc_write *c,
                                           bool *ret_done)
{
    struct mapping m;
    struct tracked t;
    bool all_data;
    int ret;

    track_co_begin(&t, c->n, c->off, c->iov.len, TRACK_WRITE);
    ret = node_co_map_begin(c->n, c->off, c->iov.len, MAP_WRITE, &m);
    all_data = ret == 0 && m.kind == MAP_DATA && m.len == c->iov.len;
    if (all_data && m.in_place && !(c->flags & IO_COMPRESSED)) {
        ret = write_co_in_place(c->n, &m, c->off, c->iov, c->flags);
        node_map_end(c->n, &m);
    } else if (ret == 0) {
        node_map_end(c->n, &m);
        ret = all_data ? write_co_driver(c->n, c->off, c->iov, c->flags) : 0;
    }
    track_end(&t);
    *ret_done = ret < 0 || all_data;
    return ret;
}

int alloc_write_co_write(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags)
{
    struct alloc_write c = {
        .n = n,
        .off = off,
        .end = off + iov.len,
        .iov = iov,
        .flags = flags & ~(unsigned)IO_FUA,
        .head.flags = flags & IO_DEMAND,
        .tail.flags = flags & IO_DEMAND,
    };
    bool done;
    int ret = alloc_write_co_write_data(&c, &done);

    while (!done) {
        ret = alloc_write_co_allocating(&c);
        done = ret != ALLOC_WRITE_AGAIN;
    }
    if (ret == 0 && (flags & IO_FUA)) {
        ret = BARRIER(COW_FUA, node_co_flush(n));
    }
    return ret;
}
