/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sorted array: replies come in ascending order, so that nearly every run is
 * appended, and lookups are a binary search.
 */
#include "storage/nbd/nbd-extents.h"

#define RUNS_MAX (256u * 1024) /* 6 MiB */

void nbd_extents_init(struct nbd_extents *x)
{
    x->runs = g_array_new(FALSE, FALSE, sizeof(struct nbd_run));
    x->generation = 0;
}

void nbd_extents_clear(struct nbd_extents *x)
{
    if (x->runs) {
        g_array_unref(x->runs);
        x->runs = NULL;
    }
}

void nbd_extents_forget(struct nbd_extents *x)
{
    g_array_set_size(x->runs, 0);
}

static struct nbd_run *nbd_extents_run_at(const struct nbd_extents *x,
                                          unsigned i)
{
    return &g_array_index(x->runs, struct nbd_run, i);
}

/* Index of the first run that ends after @off. */
static unsigned first_after(const struct nbd_extents *x, uint64_t off)
{
    unsigned lo = 0, hi = x->runs->len;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        if (nbd_extents_run_at(x, mid)->end > off) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return lo;
}

const struct nbd_run *nbd_extents_find(const struct nbd_extents *x,
                                       uint64_t off)
{
    unsigned i = first_after(x, off);
    if (i == x->runs->len || nbd_extents_run_at(x, i)->start > off) {
        return NULL;
    }
    return nbd_extents_run_at(x, i);
}

/* Join the run at @i to its left neighbour when they say the same. */
static void join_left(struct nbd_extents *x, unsigned i)
{
    if (i == 0 || i >= x->runs->len) {
        return;
    }
    struct nbd_run *left = nbd_extents_run_at(x, i - 1),
                   *r = nbd_extents_run_at(x, i);
    if (left->end == r->start && left->zero == r->zero) {
        left->end = r->end;
        g_array_remove_index(x->runs, i);
    }
}

/* Make room: nothing is known of [@start, @end) afterwards. Returns where a
 * run beginning at @start belongs. */
static unsigned carve(struct nbd_extents *x, uint64_t start, uint64_t end)
{
    unsigned i = first_after(x, start);
    if (i < x->runs->len && nbd_extents_run_at(x, i)->start < start) {
        struct nbd_run right = *nbd_extents_run_at(x, i);
        nbd_extents_run_at(x, i)->end = start;
        i++;
        if (right.end > end) {
            right.start = end;
            g_array_insert_val(x->runs, i, right);
            return i;
        }
    }
    unsigned last = i;
    while (last < x->runs->len && nbd_extents_run_at(x, last)->end <= end) {
        last++;
    }
    if (last > i) {
        g_array_remove_range(x->runs, i, last - i);
    }
    if (i < x->runs->len && nbd_extents_run_at(x, i)->start < end) {
        nbd_extents_run_at(x, i)->start = end;
    }
    return i;
}

void nbd_extents_set(struct nbd_extents *x, uint64_t start, uint64_t end,
                     bool zero)
{
    if (start >= end) {
        return;
    }
    if (x->runs->len >= RUNS_MAX) {
        g_array_set_size(x->runs, 0);
    }
    struct nbd_run run = { start, end, zero };
    unsigned i = carve(x, start, end);
    g_array_insert_val(x->runs, i, run);
    join_left(x, i + 1);
    join_left(x, i);
}

void nbd_extents_wrote(struct nbd_extents *x, uint64_t off, uint64_t len)
{
    uint64_t end = off + len;
    x->generation++;
    /* What is not known stays not known. */
    while (off < end) {
        unsigned i = first_after(x, off);
        if (i == x->runs->len || nbd_extents_run_at(x, i)->start >= end) {
            return;
        }
        uint64_t start = MAX(off, nbd_extents_run_at(x, i)->start);
        uint64_t stop = MIN(end, nbd_extents_run_at(x, i)->end);
        if (nbd_extents_run_at(x, i)->zero) {
            nbd_extents_set(x, start, stop, false);
        }
        off = stop;
    }
}
