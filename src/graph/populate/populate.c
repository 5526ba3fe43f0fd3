/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populate and read-and-populate: a planner cuts the range into pieces of one
 * kind, workers take them in turn and carry them out.  A request that is one
 * piece is carried out where it stands, without a further coroutine.
 *
 * What keeps guest data safe (S1, S2): the base is read with nothing locked;
 * then map_co_range() takes the clusters with TRACK_ALLOC, asks again which of
 * them the overlay lacks, and writes those alone.  A guest write that came in
 * between has allocated its cluster, so the copy of it is dropped.  Clusters
 * never lose their allocation (S3, G8), so a cluster found allocated stays so.
 *
 * The overlay is not asked again where nothing has changed it since it was
 * asked first: ->write_gen counts all changes, and each has counted before the
 * range that it held is let go.  So a read of a disk at rest asks once.
 */
#include "graph/populate.h"
#include <glib.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/io/dispatch.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/node.h"
#include "graph/populate/copy-offload.h"
#include "graph/trace.h"
#include "graph/track.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

/* Coroutines that carry out the pieces of one request. */
#define MAX_WORKERS 16
/* Clusters of a run of zeroes that are mapped in one go. Bytes. */
#define ZERO_RUN_MAX (1ull << 30)

enum piece_kind {
    PIECE_NONE,
    PIECE_LOCAL, /* the overlay has it */
    PIECE_ZERO,  /* the chain below reads as zeroes */
    PIECE_COPY,  /* the chain above base has some of it */
    PIECE_SKIP,  /* only base or deeper has it */
};

struct piece {
    enum piece_kind kind;
    uint64_t off, len;
    uint64_t gen;       /* ->write_gen of the overlay when it was asked */
    struct mapping map; /* begun; of a PIECE_LOCAL that is read */
};

/* One request: shared by its workers, on the stack of the first. */
struct work {
    struct node *n, *base;
    uint64_t off, end; /* of the request, not past the end of @n */
    uint64_t cluster;
    uint64_t piece_max; /* of a copy; cluster multiple */
    unsigned io_flags;
    const struct iov *iov; /* a read's; NULL: populate only */
    bool know_data;        /* what the overlay lacks is PIECE_COPY */

    struct co_mutex plan_lock; /* @next, @first, @below_* */
    uint64_t next;
    struct mapping first; /* begun; what the overlay said of @off; len 0: not
                           * asked */
    uint64_t first_gen;   /* ... and ->write_gen before that */
    struct extent below;  /* last answer about the chain below */
    uint64_t below_off;

    unsigned workers;
    struct co_latch running;
    int result;
    struct populate_result res;
};

static uint64_t cluster_down(const struct work *w, uint64_t off)
{
    return off - off % w->cluster;
}

/* The end of the last cluster that [.., @off) touches; not past the node. */
static uint64_t cluster_up(const struct work *w, uint64_t off)
{
    uint64_t rest = off % w->cluster;

    return MIN(rest ? off - rest + w->cluster : off, w->n->size);
}

static void work_init(struct work *w, struct node *n, struct node *base,
                      uint64_t off, uint64_t end, unsigned io_flags)
{
    const struct node_limits *limits = node_get_limits(n);

    *w = (struct work) {
        .n = n,
        .base = base,
        .off = off,
        .end = end,
        .next = off,
        .io_flags = io_flags & (IO_BACKGROUND | IO_DEMAND),
        .know_data = io_flags & IO_KNOWN_DATA,
    };
    w->cluster = limits->cluster_size ? limits->cluster_size
                                      : MAX(limits->request_alignment, 1);
    w->piece_max = MAX(w->cluster,
                       INFLIGHT_READ_MAX - INFLIGHT_READ_MAX % w->cluster);
}

/* --- map --- */

/* Where the zeroes (or the other bytes) that begin at @buf end, in whole
 * clusters; the last cluster may be short. */
static size_t same_run(const uint8_t *buf, size_t len, size_t cluster,
                       bool *ret_zero)
{
    size_t at = 0;

    do {
        size_t step = MIN(cluster, len - at);
        bool zero = buf[at] == 0 && !memcmp(buf + at, buf + at + 1, step - 1);

        if (at == 0) {
            *ret_zero = zero;
        } else if (zero != *ret_zero) {
            break;
        }
        at += step;
    } while (at < len);
    return at;
}

/* Write zeroes where the overlay has no zero clusters. */
static CO_FN int map_co_write_zeroes(struct work *w, uint64_t off, uint64_t len)
{
    size_t size = MIN(len, w->piece_max);
    void *buf = io_buf_get(size);
    int r = 0;

    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, size);
    while (len > 0 && r == 0) {
        struct iovec store;
        size_t step = MIN(len, size);

        r = node_co_pwritev(w->n, off, iov_one(&store, buf, step),
                            w->io_flags | IO_POPULATE);
        off += step;
        len -= step;
    }
    io_buf_put(buf, size);
    return r;
}

static CO_FN int map_co_zero(struct work *w, uint64_t off, uint64_t len)
{
    int r = node_co_zero(w->n, off, len,
                         w->io_flags | IO_POPULATE | IO_MAY_UNMAP);

    if (r == -ENOTSUP) {
        r = map_co_write_zeroes(w, off, len);
    }
    if (r == 0) {
        w->res.zeroed += len;
    }
    return r;
}

/* Map clusters that the overlay lacks; the range is held. @buf: their bytes,
 * NULL: zeroes. */
static CO_FN int populate_map_co_run(struct work *w, uint64_t off, uint64_t len,
                                     uint8_t *buf)
{
    size_t at = 0;
    int r = 0;

    if (!buf) {
        return map_co_zero(w, off, len);
    }
    while (at < len && r == 0) {
        bool zero;
        size_t step = same_run(buf + at, len - at, w->cluster, &zero);

        if (zero) {
            r = map_co_zero(w, off + at, step);
        } else {
            struct iovec store;

            node_co_debug_event(node_file(w->n), DEBUG_COR_WRITE);
            r = node_co_pwritev(w->n, off + at, iov_one(&store, buf + at, step),
                                w->io_flags | IO_POPULATE);
            w->res.copied += r == 0 ? step : 0;
        }
        at += step;
    }
    return r;
}

/* What the overlay says of [@pos, @end), all of which it lacked at @gen.  It is
 * asked only where it has changed since. */
static CO_FN int map_co_ask_again(const struct work *w, uint64_t gen,
                                  uint64_t pos, uint64_t end,
                                  struct mapping *ret_map)
{
    if (w->n->priv->write_gen == gen) {
        *ret_map = (struct mapping) { .kind = MAP_ABSENT, .len = end - pos };
        return 0;
    }
    return node_co_map(w->n, pos, end - pos, ret_map);
}

/* Map those clusters of [@off, @off+@len) that the overlay still lacks, as it
 * lacked all of them at @gen.  The range is whole clusters; @buf holds its
 * bytes, NULL: zeroes. */
static CO_FN int map_co_range(struct work *w, uint64_t off, uint64_t len,
                              uint8_t *buf, uint64_t gen)
{
    struct tracked t;
    uint64_t pos = off, end;
    int r = 0;

    track_co_begin(&t, w->n, off, len, TRACK_ALLOC);
    end = MIN(off + len, w->n->size);
    if (!node_is_writable(w->n)) {
        r = -EPERM;
    }
    while (pos < end && r == 0) {
        struct mapping m;

        r = map_co_ask_again(w, gen, pos, end, &m);
        if (r < 0) {
            break;
        }
        if (m.kind == MAP_ABSENT) {
            r = populate_map_co_run(w, pos, m.len,
                                    buf ? buf + (pos - off) : NULL);
        }
        pos += m.len;
    }
    track_end(&t);
    trace_populate_map(w->n->name, off, len, r);
    return r;
}

/* --- plan --- */

static enum piece_kind kind_of_below(const struct extent *ext)
{
    if (ext->flags & STATUS_ZERO) {
        return PIECE_ZERO;
    }
    return ext->depth == 0 ? PIECE_SKIP : PIECE_COPY;
}

/* What the chain between the overlay and base says of @pos. The last answer is
 * kept: a chain far away is asked once a run. */
static CO_FN int plan_co_ask_below(struct work *w, uint64_t pos,
                                   enum piece_kind *ret_kind, uint64_t *ret_end)
{
    struct node *below = node_backing(w->n);
    int r;

    if (!below || pos >= below->size) {
        *ret_kind = PIECE_ZERO;
        *ret_end = UINT64_MAX;
        return 0;
    }
    if (w->below.len == 0 || pos < w->below_off ||
        pos - w->below_off >= w->below.len) {
        uint64_t ask = MIN(MAX(w->end, cluster_up(w, pos + 1)), below->size);

        w->below.len = 0;
        r = node_co_status_above(below, w->base, pos, ask - pos, &w->below);
        if (r < 0) {
            w->below.len = 0;
            return r;
        }
        w->below_off = pos;
    }
    *ret_kind = kind_of_below(&w->below);
    *ret_end = w->below_off + w->below.len;
    return 0;
}

/* The kind of the clusters from @pos (a cluster boundary) that the overlay
 * lacks; *@ret_end is a cluster boundary at most @end. A cluster whose parts
 * differ is copied. */
static CO_FN int plan_co_missing_run(struct work *w, uint64_t pos, uint64_t end,
                                     enum piece_kind *ret_kind,
                                     uint64_t *ret_end)
{
    uint64_t first_end = cluster_up(w, pos + 1);
    uint64_t at;
    bool mixed = false;
    int r;

    r = plan_co_ask_below(w, pos, ret_kind, &at);
    while (r == 0 && at < first_end) {
        enum piece_kind kind = PIECE_NONE;

        r = plan_co_ask_below(w, at, &kind, &at);
        mixed = mixed || kind != *ret_kind;
    }
    if (r < 0) {
        w->res.read_error = r;
        return r;
    }
    if (mixed) {
        *ret_kind = PIECE_COPY;
        *ret_end = first_end;
    } else {
        *ret_end = at >= end ? end : MAX(cluster_down(w, at), first_end);
    }
    return 0;
}

static uint64_t kind_max(const struct work *w, enum piece_kind kind)
{
    switch (kind) {
    case PIECE_COPY: return w->piece_max;
    case PIECE_ZERO:
        return node_get_limits(w->n)->fast_zero
                   ? MAX(ZERO_RUN_MAX - ZERO_RUN_MAX % w->cluster, w->cluster)
                   : w->piece_max;
    default: return UINT64_MAX;
    }
}

/* Runs of one kind from @pos, which the overlay lacks up to @end, joined up to
 * the size of a piece. */
static CO_FN int plan_co_missing(struct work *w, uint64_t pos, uint64_t end,
                                 struct piece *p)
{
    uint64_t start = cluster_down(w, pos), at = start;

    end = cluster_up(w, end);
    if (w->know_data) {
        p->kind = PIECE_COPY;
        at = end;
    }
    while (at < end) {
        enum piece_kind kind;
        uint64_t run_end;
        int r = plan_co_missing_run(w, at, end, &kind, &run_end);

        if (r < 0) {
            return r;
        }
        if (at == start) {
            p->kind = kind;
        } else if (kind != p->kind) {
            break;
        }
        at = run_end;
        if (at - start >= kind_max(w, kind)) {
            break;
        }
    }
    if (at - start > kind_max(w, p->kind)) {
        at = start + kind_max(w, p->kind);
    }
    p->off = pos;
    p->len = MIN(at, w->end) - pos;
    return 0;
}

/* Begin the map of @next in the overlay; and ->write_gen before that. */
static CO_FN int plan_co_ask_overlay(struct work *w, struct mapping *ret_map,
                                     uint64_t *ret_gen)
{
    if (w->first.len > 0) {
        *ret_map = w->first;
        *ret_gen = w->first_gen;
        w->first.len = 0;
        return 0;
    }
    *ret_gen = w->n->priv->write_gen;
    return node_co_map_begin(w->n, w->next, w->end - w->next, 0, ret_map);
}

/* Take the next piece; PIECE_NONE at the end. */
static CO_FN int plan_co_next(struct work *w, struct piece *p)
{
    struct mapping m;
    int r = 0;

    *p = (struct piece) { PIECE_NONE };
    co_mutex_co_lock(&w->plan_lock);
    if (w->next < w->end && w->result == 0) {
        r = plan_co_ask_overlay(w, &m, &p->gen);
        if (r < 0) {
            w->res.write_error = r;
        } else if (m.kind != MAP_ABSENT && w->iov) {
            *p = (struct piece) { PIECE_LOCAL, w->next, m.len, .map = m };
        } else if (m.kind != MAP_ABSENT) {
            *p = (struct piece) { PIECE_LOCAL, w->next, m.len };
            node_map_end(w->n, &m);
        } else {
            node_map_end(w->n, &m);
            r = plan_co_missing(w, w->next, w->next + m.len, p);
        }
        w->next += p->len;
    }
    co_mutex_unlock(&w->plan_lock);
    return r;
}

/* --- populate --- */

/* Read and map [@off, @end), which the overlay lacked at @gen. */
static CO_FN int populate_co_read_below(struct work *w, uint64_t off,
                                        uint64_t end, uint64_t gen)
{
    uint64_t len = end - off, begun, read;
    struct inflight *f;
    int r;

    inflight_co_wait_room(w->n, len);
    begun = read = loop_clock_ns(graph_loop(w->n->graph));
    f = inflight_begin(w->n, off, len);
    if (!f) {
        w->res.read_error = -ENOMEM;
        return -ENOMEM;
    }
    r = inflight_co_read(f, w->io_flags);
    read = loop_clock_ns(graph_loop(w->n->graph));
    trace_populate_read(w->n->name, off, len, r);
    if (r < 0) {
        w->res.read_error = r;
    } else {
        r = map_co_range(w, off, len, f->buf, gen);
        if (r < 0) {
            w->res.write_error = r;
        }
    }
    w->res.read_ns += read - begun;
    w->res.write_ns += loop_clock_ns(graph_loop(w->n->graph)) - read;
    inflight_end(f);
    return r;
}

/* Copy a piece. An in-flight read of another request is waited for; if a
 * cluster is still absent then (that read or its write failed), it is read
 * here. */
static CO_FN int populate_co_copy(struct work *w, const struct piece *p)
{
    uint64_t pos = cluster_down(w, p->off);
    uint64_t end = cluster_up(w, p->off + p->len);
    uint64_t joined = 0; /* up to here other requests have made their attempt */
    int r = 0;

    while (pos < end && r == 0) {
        struct mapping m;
        struct inflight *f;
        uint64_t to;

        r = map_co_ask_again(w, p->gen, pos, end, &m);
        if (r < 0) {
            w->res.write_error = r;
            break;
        }
        to = pos + m.len;
        f = pos < joined ? NULL : inflight_find(w->n, pos);
        if (m.kind != MAP_ABSENT) {
            pos = to;
        } else if (f) {
            joined = f->off + f->len;
            inflight_ref(f);
            inflight_co_wait_end(f);
            inflight_unref(f);
        } else {
            to = MIN(cluster_up(w, to),
                     pos < joined ? joined : inflight_next(w->n, pos));
            r = populate_co_read_below(w, pos, to, p->gen);
            pos = to;
        }
    }
    return r;
}

static CO_FN int populate_co_piece(struct work *w, const struct piece *p)
{
    uint64_t off = cluster_down(w, p->off);
    int r = 0;

    if (p->kind == PIECE_ZERO) {
        r = map_co_range(w, off, cluster_up(w, p->off + p->len) - off, NULL,
                         p->gen);
        if (r < 0) {
            w->res.write_error = r;
        }
    } else if (p->kind == PIECE_COPY) {
        r = populate_co_copy(w, p);
    }
    return r;
}

/* --- share --- */

/* Take over what can be had of [@pos, @end), which the overlay lacks; the range
 * is held. *@ret_len: how far this went, shared or not. */
static CO_FN int share_co_run(struct work *w, uint64_t pos, uint64_t end,
                              uint64_t *ret_len)
{
    struct host_range at;
    uint64_t len;
    int r = node_co_locate(node_backing(w->n), w->base, pos, end - pos, &at);

    if (r < 0) {
        return r;
    }
    len = copy_offload_whole(w->n, pos, &at);
    *ret_len = len;
    if (len == 0 || !node_can_copy_in(w->n, at.node)) {
        *ret_len = MIN(cluster_up(w, pos + at.len), end) - pos;
        return 0;
    }
    r = node_co_copy_in(w->n, pos, at.node, at.off, len,
                        w->io_flags | IO_POPULATE);
    if (r == 0) {
        w->res.copied += len;
        /* The first attempt may have shown that nothing can be shared here:
         * then the bytes were copied. */
        w->res.shared += node_can_copy_in(w->n, at.node) ? len : 0;
    }
    return r;
}

/* Before anything is read: let the file system share what it can.  Whatever is
 * left, errors included, is for the ordinary way.  Nothing slow happens under
 * the range: status comes from memory or from local files. */
static CO_FN void work_co_share(struct work *w)
{
    uint64_t pos = w->off, left = 0;
    struct tracked t;
    int r = 0;

    track_co_begin(&t, w->n, w->off, w->end - w->off, TRACK_ALLOC);
    while (pos < w->end && r == 0) {
        struct mapping m;

        r = node_co_map(w->n, pos, w->end - pos, &m);
        if (r == 0 && m.kind == MAP_ABSENT) {
            uint64_t copied = w->res.copied;

            r = share_co_run(w, pos, pos + m.len, &m.len);
            left += copied == w->res.copied;
        }
        pos += m.len;
    }
    track_end(&t);
    trace_populate_share(w->n->name, w->off, w->end - w->off, w->res.shared, r);
    if (r == 0 && left == 0) {
        w->next = w->end;
    }
}

/* Is an attempt useful? Asks the first byte. */
static CO_FN bool work_co_may_share(struct work *w)
{
    struct node *below = node_backing(w->n);
    struct host_range at;

    return below && w->n->drv->can_copy_in &&
           node_co_locate(below, w->base, w->off, w->cluster, &at) == 0 &&
           at.node && node_can_copy_in(w->n, at.node);
}

/* --- read and populate --- */

static struct iov work_iov(const struct work *w, uint64_t off, uint64_t len)
{
    return iov_slice(*w->iov, off - w->off, len);
}

/* The copy of a range that a guest has read is optional: its failure is traced,
 * not reported. */
static CO_FN void read_co_map(struct work *w, uint64_t off, uint64_t len,
                              uint8_t *buf, uint64_t gen)
{
    int r = map_co_range(w, off, len, buf, gen);

    if (r < 0) {
        trace_populate_read_not_mapped(w->n->name, off, len, r);
    }
}

/* Read the clusters of [@pos, @end), which the overlay lacked at @gen, and for
 * which no read is in flight or another request's read has failed. */
static CO_FN int read_co_populate_below(struct work *w, uint64_t pos,
                                        uint64_t end, uint64_t gen)
{
    uint64_t start = cluster_down(w, pos);
    uint64_t len = cluster_up(w, end) - start;
    struct inflight *f;
    int r;

    f = inflight_has_room(w->n, len) ? inflight_begin(w->n, start, len) : NULL;
    if (!f) {
        return node_co_preadv(w->n, pos, work_iov(w, pos, end - pos),
                              w->io_flags);
    }
    r = inflight_co_read(f, w->io_flags);
    trace_populate_read(w->n->name, start, len, r);
    if (r == 0) {
        iov_from_buf(work_iov(w, pos, end - pos), 0, f->buf + (pos - start),
                     end - pos);
        read_co_map(w, start, len, f->buf, gen);
    }
    inflight_end(f);
    return r;
}

/* Bytes [@pos, @end) are in an in-flight read that another request has
 * begun. */
static CO_FN int populate_co_join_read(struct work *w, struct inflight *f,
                                       uint64_t pos, uint64_t end, uint64_t gen)
{
    int r;

    inflight_ref(f);
    r = inflight_co_wait_ready(f);
    if (r == 0) {
        iov_from_buf(work_iov(w, pos, end - pos), 0, f->buf + (pos - f->off),
                     end - pos);
    } else if (!has_given_up(r)) {
        /* An attempt of our own. */
        r = read_co_populate_below(w, pos, end, gen);
    }
    inflight_unref(f);
    return r;
}

static CO_FN int read_co_copy(struct work *w, const struct piece *p)
{
    uint64_t pos = p->off, end = p->off + p->len;
    int r = 0;

    while (pos < end && r == 0) {
        struct inflight *f = inflight_find(w->n, pos);
        uint64_t to;

        if (f) {
            to = MIN(end, f->off + f->len);
            r = populate_co_join_read(w, f, pos, to, p->gen);
        } else {
            to = MIN(end, inflight_next(w->n, pos));
            r = read_co_populate_below(w, pos, to, p->gen);
        }
        pos = to;
    }
    return r;
}

static CO_FN int populate_read_co_piece(struct work *w, const struct piece *p)
{
    uint64_t off = cluster_down(w, p->off);

    switch (p->kind) {
    case PIECE_COPY: return read_co_copy(w, p);
    case PIECE_ZERO:
        iov_memset(work_iov(w, p->off, p->len), 0, 0, p->len);
        read_co_map(w, off, cluster_up(w, p->off + p->len) - off, NULL, p->gen);
        return 0;
    case PIECE_LOCAL:
        return read_co_mapped(w->n, p->off, work_iov(w, p->off, p->len),
                              &p->map, w->io_flags);
    default:
        return node_co_preadv(w->n, p->off, work_iov(w, p->off, p->len),
                              w->io_flags);
    }
}

/* --- workers --- */

static CO_FN void work_co_run(struct work *w);

static CO_FN void worker_entry(void *arg)
{
    struct work *w = arg;

    work_co_run(w);
    co_latch_done(&w->running);
}

static void work_spawn(struct work *w)
{
    if (w->next < w->end && w->workers < MAX_WORKERS) {
        w->workers++;
        co_latch_add(&w->running);
        co_start(graph_loop(w->n->graph), worker_entry, w);
    }
}

static CO_FN void work_co_run(struct work *w)
{
    for (;;) {
        struct piece p;
        int r = plan_co_next(w, &p);

        if (r == 0 && p.kind == PIECE_NONE) {
            return;
        }
        if (r == 0) {
            if (p.kind == PIECE_COPY || w->iov) {
                work_spawn(w);
            }
            r = w->iov ? populate_read_co_piece(w, &p)
                       : populate_co_piece(w, &p);
        }
        if (r < 0) {
            w->result = w->result ? w->result : r;
            return;
        }
    }
}

/* Run to the end, all workers. */
static CO_FN int work_co_finish(struct work *w)
{
    w->workers = 1;
    work_co_run(w);
    co_latch_co_wait(&w->running);
    return w->result;
}

/* Is there anything between @n and @base? Filters do not count. */
static bool anything_above(struct node *n, struct node *base)
{
    struct node *below = node_skip_filters(node_backing(n));

    return below && below != node_skip_filters(base);
}

int node_co_populate(struct node *n, struct node *base, uint64_t off,
                     uint64_t len, unsigned io_flags,
                     struct populate_result *ret)
{
    struct work w;
    uint64_t end;
    int r = 0;

    if (ret) {
        *ret = (struct populate_result) { 0 };
    }
    if (off >= n->size || len == 0 || !anything_above(n, base)) {
        return 0;
    }
    if (!node_is_writable(n)) {
        if (ret) {
            ret->write_error = -EPERM;
        }
        return -EPERM;
    }
    end = off + MIN(len, n->size - off);
    work_init(&w, n, base, off, end, io_flags);
    w.off = w.next = cluster_down(&w, off);
    w.end = cluster_up(&w, end);
    if (work_co_may_share(&w)) {
        work_co_share(&w);
    }
    r = work_co_finish(&w);
    if (ret) {
        *ret = w.res;
    }
    return r;
}

int node_co_read_populate(struct node *n, struct node *base, uint64_t off,
                          struct iov iov, unsigned io_flags)
{
    uint64_t have = off < n->size ? MIN(iov.len, n->size - off) : 0;
    struct mapping m;
    struct work w;
    uint64_t gen = n->priv->write_gen;
    int r;

    if (have == 0 || !anything_above(n, base) || !node_is_writable(n)) {
        return node_co_preadv(n, off, iov, io_flags);
    }
    if (have < iov.len) {
        iov_memset(iov, have, 0, iov.len - have);
    }
    r = node_co_map_begin(n, off, have, 0, &m);
    if (r < 0) {
        return r;
    }
    if (m.kind != MAP_ABSENT && m.len == have) {
        return read_co_mapped(n, off, iov_slice(iov, 0, have), &m, io_flags);
    }
    work_init(&w, n, base, off, off + have, io_flags);
    w.first = m;
    w.first_gen = gen;
    w.iov = &iov;
    /* Without a base to stop at all of the chain is copied: a question to a
     * base far away would cost as much as the answer. */
    w.know_data = !base;
    return work_co_finish(&w);
}
