/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The planner cuts a request into pieces of one kind.  The overlay's map says
 * what is absent; of that the status of the chain below says whether it is to be
 * copied.
 */
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/io/read-below.h"
#include "graph/node.h"
#include "graph/populate/populate-int.h"

/* Clusters of a run of zeroes that are mapped in one go. Bytes. */
#define ZERO_RUN_MAX (1ull << 30)

static enum piece_kind kind_of_below(const struct extent *ext)
{
    if (ext->flags & STATUS_ZERO) {
        return PIECE_ZERO;
    }
    return ext->depth == 0 ? PIECE_SKIP : PIECE_COPY;
}

/* What the chain between the overlay and base says of @pos. The last answer is
 * kept: a chain far away is asked once a run. */
static CO_FN int plan_co_ask_below(struct populate_work *w, uint64_t pos,
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
static CO_FN int plan_co_missing_run(struct populate_work *w, uint64_t pos,
                                     uint64_t end, enum piece_kind *ret_kind,
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

static uint64_t kind_max(const struct populate_work *w, enum piece_kind kind)
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
static CO_FN int plan_co_missing(struct populate_work *w, uint64_t pos,
                                 uint64_t end, struct populate_piece *p)
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
static CO_FN int plan_co_ask_overlay(struct populate_work *w,
                                     struct mapping *ret_map, uint64_t *ret_gen)
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

int populate_co_plan(struct populate_work *w, struct populate_piece *p)
{
    struct mapping m;
    int r = 0;

    *p = (struct populate_piece) { PIECE_NONE };
    co_mutex_co_lock(&w->plan_lock);
    if (w->next < w->end && w->result == 0) {
        r = plan_co_ask_overlay(w, &m, &p->gen);
        if (r < 0) {
            w->res.write_error = r;
        } else if (m.kind != MAP_ABSENT && w->iov) {
            *p = (struct populate_piece) { PIECE_LOCAL, w->next, m.len,
                                           .map = m };
        } else if (m.kind != MAP_ABSENT) {
            *p = (struct populate_piece) { PIECE_LOCAL, w->next, m.len };
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
