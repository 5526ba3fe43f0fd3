/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes that wait, by generation: see format/alloc/pending.h. */
#include "base/math.h"
#include "format/alloc/pending.h"

G_STATIC_ASSERT(sizeof(gpointer) == sizeof(uint64_t));

static gint pending_compare(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t x = GPOINTER_TO_SIZE(a), y = GPOINTER_TO_SIZE(b);

    return x < y ? -1 : x > y;
}

struct pending_gen *pending_of(struct pending *p, uint64_t gen,
                               GDestroyNotify free_value)
{
    unsigned n = p->n;

    for (unsigned i = 0; i < n; i++) {
        if (p->gens[i].gen == gen) {
            return &p->gens[i];
        }
    }
    g_assert(n < PENDING_GENERATIONS);
    /* Two writers may enter changes of two generations in either order. */
    while (n > 0 && p->gens[n - 1].gen > gen) {
        p->gens[n] = p->gens[n - 1];
        n--;
    }
    p->n++;
    p->gens[n] = (struct pending_gen) {
        .gen = gen,
        .map = g_tree_new_full(pending_compare, NULL, NULL, free_value),
    };
    return &p->gens[n];
}

static void remove_oldest(struct pending *p)
{
    g_tree_destroy(p->gens[0].map);
    p->n--;
    for (unsigned i = 0; i < p->n; i++) {
        p->gens[i] = p->gens[i + 1];
    }
}

struct pending_gen *pending_merge(struct pending *p, uint64_t gen,
                                  GTraverseFunc older)
{
    while (p->n > 1 && p->gens[1].gen <= gen) {
        g_tree_foreach(p->gens[0].map, older, p->gens[1].map);
        p->gens[1].end = max_u64(p->gens[1].end, p->gens[0].end);
        remove_oldest(p);
    }
    return p->n && p->gens[0].gen <= gen ? &p->gens[0] : NULL;
}

void pending_drop(struct pending *p, uint64_t gen)
{
    while (p->n && p->gens[0].gen <= gen) {
        remove_oldest(p);
    }
}

unsigned pending_count(const struct pending *p)
{
    unsigned n = 0;

    for (unsigned i = 0; i < p->n; i++) {
        n += (unsigned)g_tree_nnodes(p->gens[i].map);
    }
    return n;
}

void pending_walk_init(struct pending_walk *w, const struct pending *p,
                       uint64_t idx)
{
    *w = (struct pending_walk) { .p = p };
    for (unsigned i = 0; i < p->n; i++) {
        w->at[i] = g_tree_lower_bound(p->gens[i].map, GSIZE_TO_POINTER(idx));
    }
}

uint64_t pending_walk_to(struct pending_walk *w, uint64_t idx)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < w->p->n; i++) {
        while (w->at[i] && pending_idx(w->at[i]) < idx) {
            w->at[i] = g_tree_node_next(w->at[i]);
        }
        if (w->at[i]) {
            next = min_u64(next, pending_idx(w->at[i]));
        }
    }
    return next;
}
