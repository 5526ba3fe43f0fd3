/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populate and read-and-populate: a planner cuts the range into pieces of one
 * kind, workers take them in turn and carry them out.  A request that is one
 * piece is carried out where it stands, without a further coroutine.
 */
#include "graph/populate.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/io/dispatch.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/populate/populate-int.h"
#include "graph/trace.h"
#include "loop/loop.h"

/* Coroutines that carry out the pieces of one request. */
#define MAX_WORKERS 16

static void work_init(struct populate_work *w, struct node *n,
                      struct node *base, uint64_t off, uint64_t end,
                      unsigned io_flags)
{
    const struct node_limits *limits = node_get_limits(n);

    *w = (struct populate_work) {
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

/* --- a piece --- */

/* Read and map [@off, @end), which the overlay lacked at @gen. */
static CO_FN int copy_co_read_below(struct populate_work *w, uint64_t off,
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
        r = populate_co_write(w, off, len, f->buf, gen);
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
static CO_FN int copy_co_piece(struct populate_work *w,
                               const struct populate_piece *p)
{
    uint64_t pos = cluster_down(w, p->off);
    uint64_t end = cluster_up(w, p->off + p->len);
    uint64_t joined = 0; /* up to here other requests have made their attempt */
    int r = 0;

    while (pos < end && r == 0) {
        struct mapping m;
        struct inflight *f;
        uint64_t to;

        r = populate_co_ask_again(w, p->gen, pos, end, &m);
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
            r = copy_co_read_below(w, pos, to, p->gen);
            pos = to;
        }
    }
    return r;
}

static CO_FN int piece_co_populate(struct populate_work *w,
                                   const struct populate_piece *p)
{
    uint64_t off = cluster_down(w, p->off);
    int r = 0;

    if (p->kind == PIECE_ZERO) {
        r = populate_co_write(w, off, cluster_up(w, p->off + p->len) - off,
                              NULL, p->gen);
        if (r < 0) {
            w->res.write_error = r;
        }
    } else if (p->kind == PIECE_COPY) {
        r = copy_co_piece(w, p);
    }
    return r;
}

/* --- workers --- */

static CO_FN void work_co_run(struct populate_work *w);

static CO_FN void worker_entry(void *arg)
{
    struct populate_work *w = arg;

    work_co_run(w);
    co_latch_done(&w->running);
}

static void work_spawn(struct populate_work *w)
{
    if (w->next < w->end && w->workers < MAX_WORKERS) {
        w->workers++;
        co_latch_add(&w->running);
        co_start(graph_loop(w->n->graph), worker_entry, w);
    }
}

static CO_FN void work_co_run(struct populate_work *w)
{
    for (;;) {
        struct populate_piece p;
        int r = populate_co_plan(w, &p);

        if (r == 0 && p.kind == PIECE_NONE) {
            return;
        }
        if (r == 0) {
            if (p.kind == PIECE_COPY || w->iov) {
                work_spawn(w);
            }
            r = w->iov ? populate_co_read_piece(w, &p)
                       : piece_co_populate(w, &p);
        }
        if (r < 0) {
            w->result = w->result ? w->result : r;
            return;
        }
    }
}

/* Run to the end, all workers. */
static CO_FN int work_co_finish(struct populate_work *w)
{
    w->workers = 1;
    work_co_run(w);
    co_latch_co_wait(&w->running);
    return w->result;
}

/* --- entry points --- */

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
    struct populate_work w;
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
    if (populate_co_may_share(&w)) {
        populate_co_share(&w);
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
    struct populate_work w;
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
