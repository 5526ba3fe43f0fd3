/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters whose bits wait for their commit group: runs in a tree a generation,
 * so that terabytes of zeroes are one entry and a random write is one, too.
 */
#include "base/math.h"
#include "format/cow/overlay.h"

static uint64_t cow_run_end(GTreeNode *t)
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

/* Insert [@first, @end), joined with what it meets. */
static void runs_insert(GTree *runs, uint64_t first, uint64_t end)
{
    GTreeNode *next, *at = cow_run_at(runs, first, &next);

    if (at && cow_run_end(at) >= first) {
        first = pending_idx(at);
        end = max_u64(end, cow_run_end(at));
    }
    while (next && pending_idx(next) <= end) {
        GTreeNode *gone = next;

        next = g_tree_node_next(next);
        end = max_u64(end, cow_run_end(gone));
        g_tree_remove(runs, g_tree_node_key(gone));
    }
    g_tree_replace(runs, GSIZE_TO_POINTER(first), GSIZE_TO_POINTER(end));
}

void cow_pending_add(struct overlay *o, uint64_t gen, uint64_t first,
                     uint64_t n)
{
    runs_insert(pending_of(&o->pending, gen, NULL)->map, first, first + n);
}

bool cow_pending_find(const struct overlay *o, uint64_t idx, uint64_t *end)
{
    uint64_t next_run = *end, here_end = idx;

    for (unsigned i = 0; i < o->pending.n; i++) {
        GTreeNode *next, *at = cow_run_at(o->pending.gens[i].map, idx, &next);

        if (at && cow_run_end(at) > idx) {
            here_end = max_u64(here_end, cow_run_end(at));
        }
        if (next) {
            next_run = min_u64(next_run, pending_idx(next));
        }
    }
    *end = here_end > idx ? min_u64(*end, here_end) : next_run;
    return here_end > idx;
}

static gboolean cow_pending_older(gpointer key, gpointer value, gpointer runs)
{
    runs_insert(runs, GPOINTER_TO_SIZE(key), GPOINTER_TO_SIZE(value));
    return FALSE;
}

struct pending_gen *cow_pending_merge(struct overlay *o, uint64_t gen)
{
    return pending_merge(&o->pending, gen, cow_pending_older);
}
