/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes in memory that wait for their commit group (format/alloc/group.h).
 *
 * Each generation has a map from the index of a guest cluster to what the
 * format says of it: a value of pointer size, a number or memory of its own.
 * The format inserts; how generations come, are merged and go is the same for
 * all of them.  A structure of zeroes is one where nothing is pending.
 */
#pragma once
#include <glib.h>
#include <stdint.h>

enum {
    PENDING_GENERATIONS = 3, /* failed, open, and one being closed */
};

struct pending_gen {
    uint64_t gen;
    GTree *map;   /* cluster index -> value, ordered */
    uint64_t end; /* for the format; merging keeps the largest */
};

struct pending {
    struct pending_gen gens[PENDING_GENERATIONS]; /* oldest first */
    unsigned n;
};

/* The map of generation @gen, made if need be; @free_value, or NULL, is called
 * for each value that goes. Valid until the next call for @p. */
struct pending_gen *pending_of(struct pending *p, uint64_t gen,
                               GDestroyNotify free_value);
/* Make one of all generations up to @gen: @older(key, value, map) brings an
 * entry of an older generation into the map of a newer one, and returns FALSE.
 * The result, or NULL when nothing is pending. */
struct pending_gen *pending_merge(struct pending *p, uint64_t gen,
                                  GTraverseFunc older);
/* The generations up to @gen are in the file, or given up. */
void pending_drop(struct pending *p, uint64_t gen);
/* Entries of all generations. */
unsigned pending_count(const struct pending *p);

static inline uint64_t pending_idx(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

/* A walk over cluster indices, upwards, in step with all maps. Nothing may be
 * inserted meanwhile. */
struct pending_walk {
    const struct pending *p;
    GTreeNode *at[PENDING_GENERATIONS]; /* first node not below the index */
};
void pending_walk_init(struct pending_walk *w, const struct pending *p,
                       uint64_t idx);
/* The first index from @idx on for which something is pending, or
 * UINT64_MAX. */
uint64_t pending_walk_to(struct pending_walk *w, uint64_t idx);
/* What stands for @idx in map @i, which is older than map @i + 1; NULL:
 * nothing. After pending_walk_to(). */
static inline gpointer pending_walk_value(const struct pending_walk *w,
                                          unsigned i, uint64_t idx)
{
    return w->at[i] && pending_idx(w->at[i]) == idx
               ? g_tree_node_value(w->at[i])
               : NULL;
}
