/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters whose bits wait for their commit group: runs in a tree a generation,
 * so that terabytes of zeroes are one entry and a random write is one, too.
 */
#include "base/math.h"
#include "format/cow/overlay.h"

G_STATIC_ASSERT(sizeof(gpointer) == sizeof(uint64_t));

static gint cow_compare_keys(gconstpointer a, gconstpointer b)
{
    uint64_t x = GPOINTER_TO_SIZE(a), y = GPOINTER_TO_SIZE(b);

    return x < y ? -1 : x > y;
}

static uint64_t cow_pending_run_first(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

static uint64_t cow_pending_run_end(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_value(t));
}

/* The last run that begins at or before @idx, or NULL; *@ret_next: the one
 * behind it. */
static GTreeNode *cow_run_at(GTree *runs, uint64_t idx, GTreeNode **ret_next)
{
    *ret_next = g_tree_upper_bound(runs, GSIZE_TO_POINTER(idx));
    return *ret_next ? g_tree_node_previous(*ret_next) : g_tree_node_last(runs);
}

static struct cow_pending *cow_pending_of(struct overlay *o, uint64_t gen)
{
    unsigned n = o->n_pending_gens;

    for (unsigned i = 0; i < n; i++) {
        if (o->pending[i].gen == gen) {
            return &o->pending[i];
        }
    }
    g_assert(n < OVERLAY_GENERATIONS);
    /* Two writers may enter runs of two generations in either order. */
    while (n > 0 && o->pending[n - 1].gen > gen) {
        o->pending[n] = o->pending[n - 1];
        n--;
    }
    o->n_pending_gens++;
    o->pending[n] = (struct cow_pending) {
        .gen = gen, .runs = g_tree_new(cow_compare_keys),
    };
    return &o->pending[n];
}

/* Insert [@first, @end), joined with what it meets. */
static void runs_insert(struct overlay *o, GTree *runs, uint64_t first,
                        uint64_t end)
{
    int before = g_tree_nnodes(runs);
    GTreeNode *next, *at = cow_run_at(runs, first, &next);

    if (at && cow_pending_run_end(at) >= first) {
        first = cow_pending_run_first(at);
        end = max_u64(end, cow_pending_run_end(at));
    }
    while (next && cow_pending_run_first(next) <= end) {
        GTreeNode *gone = next;

        next = g_tree_node_next(next);
        end = max_u64(end, cow_pending_run_end(gone));
        g_tree_remove(runs, g_tree_node_key(gone));
    }
    g_tree_replace(runs, GSIZE_TO_POINTER(first), GSIZE_TO_POINTER(end));
    o->n_pending += (unsigned)(g_tree_nnodes(runs) - before);
}

void cow_pending_add(struct overlay *o, uint64_t gen, uint64_t first,
                         uint64_t n)
{
    runs_insert(o, cow_pending_of(o, gen)->runs, first, first + n);
}

bool cow_pending_find(const struct overlay *o, uint64_t idx, uint64_t *end)
{
    uint64_t next_run = *end, here_end = idx;

    for (unsigned i = 0; i < o->n_pending_gens; i++) {
        GTreeNode *next, *at = cow_run_at(o->pending[i].runs, idx, &next);

        if (at && cow_pending_run_end(at) > idx) {
            here_end = max_u64(here_end, cow_pending_run_end(at));
        }
        if (next) {
            next_run = min_u64(next_run, cow_pending_run_first(next));
        }
    }
    *end = here_end > idx ? min_u64(*end, here_end) : next_run;
    return here_end > idx;
}

static void cow_pending_remove_at(struct overlay *o, unsigned i)
{
    o->n_pending -= (unsigned)g_tree_nnodes(o->pending[i].runs);
    g_tree_destroy(o->pending[i].runs);
    o->n_pending_gens--;
    for (; i < o->n_pending_gens; i++) {
        o->pending[i] = o->pending[i + 1];
    }
}

struct cow_pending *cow_pending_merge(struct overlay *o, uint64_t gen)
{
    while (o->n_pending_gens > 1 && o->pending[1].gen <= gen) {
        GTreeNode *t = g_tree_node_first(o->pending[0].runs);

        for (; t; t = g_tree_node_next(t)) {
            runs_insert(o, o->pending[1].runs, cow_pending_run_first(t), cow_pending_run_end(t));
        }
        cow_pending_remove_at(o, 0);
    }
    return o->n_pending_gens && o->pending[0].gen <= gen ? &o->pending[0]
                                                         : NULL;
}

void cow_pending_drop(struct overlay *o, uint64_t gen)
{
    while (o->n_pending_gens && o->pending[0].gen <= gen) {
        cow_pending_remove_at(o, 0);
    }
}
