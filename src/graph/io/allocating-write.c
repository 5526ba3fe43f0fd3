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
#include "graph/io/early.h"
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
    bool keeps; /* what is not in the driver yet may take a part of it */
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

/* Into a cluster that is held and not in the driver yet: all of it, or a part
 * of what is kept. */
static CO_FN int alloc_write_co_early(struct alloc_write *c, uint64_t pos,
                                      const struct mapping *m)
{
    struct early *e = m->early;
    struct iov iov = iov_slice(c->iov, pos - c->off, m->len);
    int ret;

    if (pos == e->start && m->len == e->end - e->start) {
        ret = write_co_driver(c->n, pos, iov, c->flags);
        if (ret == 0) {
            early_drop(e);
        }
        return ret;
    }
    if (!c->keeps || !early_fits(c->n, pos, m->len)) {
        return ALLOC_WRITE_AGAIN;
    }
    early_put(e, pos, iov);
    return 0;
}

/* The clusters are held. */
static CO_FN int alloc_write_co_write_held(struct alloc_write *c)
{
    uint64_t pos = c->off;
    int ret = 0;

    while (pos < c->end && ret == 0) {
        struct mapping m;
        uint64_t end;

        ret = node_co_map_begin(c->n, pos, c->end - pos, 0, &m);
        if (ret < 0) {
            return ret;
        }
        end = pos + m.len;
        if (m.early) {
            ret = alloc_write_co_early(c, pos, &m);
            node_map_end(c->n, &m);
            pos = end;
            continue;
        }
        node_map_end(c->n, &m);
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

/* What of the two ends cannot be kept waits until it is in the driver. */
static CO_FN int alloc_write_co_settle(struct alloc_write *c)
{
    uint64_t last = c->end - 1;
    int ret = 0;

    if (!c->keeps || !early_fits(c->n, c->off, c->iov.len)) {
        ret = early_co_settle(c->n, c->off);
        if (ret == 0) {
            ret = early_co_settle(c->n, last);
        }
    }
    return ret;
}

static CO_FN int alloc_write_co_allocating(struct alloc_write *c)
{
    struct tracked t;
    int ret = alloc_write_co_settle(c);

    if (ret == 0) {
        ret = alloc_write_co_read_rest(c);
    }

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

/* Within one cluster of which the base is still to be read, or is from now on
 * read behind the write. No yield. */
static bool alloc_write_keep(struct alloc_write *c, const struct mapping *m)
{
    if (!c->keeps || m->len < c->iov.len) {
        return false;
    }
    if (m->kind == MAP_ABSENT) {
        return early_begin_write(c->n, c->off, c->iov, c->flags);
    }
    if (!m->early || !early_fits(c->n, c->off, c->iov.len) ||
        c->iov.len == m->early->end - m->early->start) {
        return false; /* all of it: nothing is needed of the base */
    }
    early_put(m->early, c->off, c->iov);
    return true;
}

/* A write that stays within data; else *@ret_done is false and nothing was
 * written. */
static CO_FN int alloc_write_co_write_data(struct alloc_write *c,
                                           bool *ret_done)
{
    struct mapping m;
    struct tracked t;
    bool all_data, kept;
    int ret;

    track_co_begin(&t, c->n, c->off, c->iov.len, TRACK_WRITE);
    ret = node_co_map_begin(c->n, c->off, c->iov.len, MAP_WRITE, &m);
    kept = ret == 0 && alloc_write_keep(c, &m);
    all_data = ret == 0 && m.kind == MAP_DATA && !m.early &&
               m.len == c->iov.len;
    if (all_data && m.in_place && !(c->flags & IO_COMPRESSED)) {
        ret = write_co_in_place(c->n, &m, c->off, c->iov, c->flags);
        node_map_end(c->n, &m);
    } else if (ret == 0) {
        node_map_end(c->n, &m);
        ret = all_data ? write_co_driver(c->n, c->off, c->iov, c->flags) : 0;
    }
    track_end(&t);
    *ret_done = ret < 0 || all_data || kept;
    return ret;
}

/* One part of a write, or all of it: *@ret_done bytes; less when the rest is to
 * be written by itself. */
static CO_FN int alloc_write_co_part(struct node *n, uint64_t off,
                                     struct iov iov, unsigned flags,
                                     size_t *ret_done)
{
    struct alloc_write c = {
        .n = n,
        .off = off,
        .end = off + iov.len,
        .iov = iov,
        .flags = flags & ~(unsigned)IO_FUA,
        .keeps = !(flags & (IO_FUA | IO_COMPRESSED)),
        .head.flags = flags & IO_DEMAND,
        .tail.flags = flags & IO_DEMAND,
    };
    bool done;
    int ret = alloc_write_co_write_data(&c, &done);

    *ret_done = iov.len;
    if (!done) {
        *ret_done = early_split(n, off, iov.len, flags);
        if (*ret_done < iov.len) {
            return alloc_write_co_part(n, off, iov_slice(iov, 0, *ret_done),
                                       flags, ret_done);
        }
    }
    while (!done) {
        ret = alloc_write_co_allocating(&c);
        done = ret != ALLOC_WRITE_AGAIN;
    }
    return ret;
}

int alloc_write_co_write(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags)
{
    size_t pos = 0, done;
    int ret = 0;

    while (pos < iov.len && ret == 0) {
        ret = alloc_write_co_part(
            n, off + pos, iov_slice(iov, pos, iov.len - pos), flags, &done);
        pos += done;
    }
    if (ret == 0 && (flags & IO_FUA)) {
        ret = BARRIER(COW_FUA, flush_co_written(n));
    }
    return ret;
}
