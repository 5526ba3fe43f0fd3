/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's read that populates.  It joins a read of the same clusters that is in
 * flight, or begins one; when too much is in flight it only reads.
 */
#include <string.h>
#include "graph/io.h"
#include "graph/io/dispatch.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/populate/populate-int.h"
#include "graph/trace.h"

static struct iov work_iov(const struct populate_work *w, uint64_t off,
                           uint64_t len)
{
    return iov_slice(*w->iov, off - w->off, len);
}

/* The copy of a range that a guest has read is optional: its failure is traced,
 * not reported. */
static CO_FN void read_co_keep(struct populate_work *w, uint64_t off,
                               uint64_t len, uint8_t *buf, uint64_t gen)
{
    int r = populate_co_write(w, off, len, buf, gen);

    if (r < 0) {
        trace_populate_read_not_mapped(w->n->name, off, len, r);
    }
}

/* Read the clusters of [@pos, @end), which the overlay lacked at @gen, and for
 * which no read is in flight or another request's read has failed. */
static CO_FN int read_co_below(struct populate_work *w, uint64_t pos,
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
        read_co_keep(w, start, len, f->buf, gen);
    }
    inflight_end(f);
    return r;
}

/* Bytes [@pos, @end) are in an in-flight read that another request has
 * begun. */
static CO_FN int read_co_take(struct populate_work *w, struct inflight *f,
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
        r = read_co_below(w, pos, end, gen);
    }
    inflight_unref(f);
    return r;
}

static CO_FN int read_co_copy(struct populate_work *w,
                              const struct populate_piece *p)
{
    uint64_t pos = p->off, end = p->off + p->len;
    int r = 0;

    while (pos < end && r == 0) {
        struct inflight *f = inflight_find(w->n, pos);
        uint64_t to;

        if (f) {
            to = MIN(end, f->off + f->len);
            r = read_co_take(w, f, pos, to, p->gen);
        } else {
            to = MIN(end, inflight_next(w->n, pos));
            r = read_co_below(w, pos, to, p->gen);
        }
        pos = to;
    }
    return r;
}

int populate_co_read_piece(struct populate_work *w,
                           const struct populate_piece *p)
{
    uint64_t off = cluster_down(w, p->off);

    switch (p->kind) {
    case PIECE_COPY: return read_co_copy(w, p);
    case PIECE_ZERO:
        iov_memset(work_iov(w, p->off, p->len), 0, 0, p->len);
        read_co_keep(w, off, cluster_up(w, p->off + p->len) - off, NULL,
                     p->gen);
        return 0;
    case PIECE_LOCAL:
        return read_co_mapped(w->n, p->off, work_iov(w, p->off, p->len),
                              &p->map, w->io_flags);
    default:
        return node_co_preadv(w->n, p->off, work_iov(w, p->off, p->len),
                              w->io_flags);
    }
}
