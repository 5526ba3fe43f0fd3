/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sorted array: replies come in ascending order, so that nearly every run is
 * appended, and lookups are a binary search.
 */
#include "storage/extents.h"

#define RUNS_MAX (256u * 1024) /* 6 MiB */

void extents_init(struct extents *x)
{
    x->runs = g_array_new(FALSE, FALSE, sizeof(struct extents_run));
    x->generation = 0;
}

void extents_clear(struct extents *x)
{
    if (x->runs) {
        g_array_unref(x->runs);
        x->runs = NULL;
    }
}

void extents_forget(struct extents *x)
{
    g_array_set_size(x->runs, 0);
}

static struct extents_run *extents_run_at(const struct extents *x, unsigned i)
{
    return &g_array_index(x->runs, struct extents_run, i);
}

/* Index of the first run that ends after @off. */
static unsigned first_after(const struct extents *x, uint64_t off)
{
    unsigned lo = 0, hi = x->runs->len;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        if (extents_run_at(x, mid)->end > off) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return lo;
}

const struct extents_run *extents_find(const struct extents *x, uint64_t off)
{
    unsigned i = first_after(x, off);
    if (i == x->runs->len || extents_run_at(x, i)->start > off) {
        return NULL;
    }
    return extents_run_at(x, i);
}

/* Join the run at @i to its left neighbour when they say the same. */
static void join_left(struct extents *x, unsigned i)
{
    if (i == 0 || i >= x->runs->len) {
        return;
    }
    struct extents_run *left = extents_run_at(x, i - 1),
                       *r = extents_run_at(x, i);
    if (left->end == r->start && left->zero == r->zero) {
        left->end = r->end;
        g_array_remove_index(x->runs, i);
    }
}

/* Make room: nothing is known of [@start, @end) afterwards. Returns where a
 * run beginning at @start belongs. */
static unsigned carve(struct extents *x, uint64_t start, uint64_t end)
{
    unsigned i = first_after(x, start);
    if (i < x->runs->len && extents_run_at(x, i)->start < start) {
        struct extents_run right = *extents_run_at(x, i);
        extents_run_at(x, i)->end = start;
        i++;
        if (right.end > end) {
            right.start = end;
            g_array_insert_val(x->runs, i, right);
            return i;
        }
    }
    unsigned last = i;
    while (last < x->runs->len && extents_run_at(x, last)->end <= end) {
        last++;
    }
    if (last > i) {
        g_array_remove_range(x->runs, i, last - i);
    }
    if (i < x->runs->len && extents_run_at(x, i)->start < end) {
        extents_run_at(x, i)->start = end;
    }
    return i;
}

void extents_set(struct extents *x, uint64_t start, uint64_t end, bool zero)
{
    if (start >= end) {
        return;
    }
    if (x->runs->len >= RUNS_MAX) {
        g_array_set_size(x->runs, 0);
    }
    struct extents_run run = { start, end, zero };
    unsigned i = carve(x, start, end);
    g_array_insert_val(x->runs, i, run);
    join_left(x, i + 1);
    join_left(x, i);
}

void extents_wrote(struct extents *x, uint64_t off, uint64_t len)
{
    uint64_t end = off + len;
    x->generation++;
    /* What is not known stays not known. */
    while (off < end) {
        unsigned i = first_after(x, off);
        if (i == x->runs->len || extents_run_at(x, i)->start >= end) {
            return;
        }
        uint64_t start = MAX(off, extents_run_at(x, i)->start);
        uint64_t stop = MIN(end, extents_run_at(x, i)->end);
        if (extents_run_at(x, i)->zero) {
            extents_set(x, start, stop, false);
        }
        off = stop;
    }
}
