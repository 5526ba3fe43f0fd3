/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All nodes below or above one, each once, without recursion: chains are
 * long. */
#include "graph/model/model.h"

static void walk_add(struct graph *g, GPtrArray *nodes, struct node *n)
{
    if (n->priv->walk != g->walk) {
        n->priv->walk = g->walk;
        g_ptr_array_add(nodes, n);
    }
}

/* Those that are in @nodes already count as seen. */
static void walk_begin(struct graph *g, const GPtrArray *nodes)
{
    g->walk++;
    for (unsigned i = 0; i < nodes->len; i++) {
        ((struct node *)g_ptr_array_index(nodes, i))->priv->walk = g->walk;
    }
}

void nodes_add_below(GPtrArray *nodes, struct node *n)
{
    unsigned i = nodes->len;

    walk_begin(n->graph, nodes);
    walk_add(n->graph, nodes, n);
    for (; i < nodes->len; i++) {
        const struct node *at = g_ptr_array_index(nodes, i);

        for (struct edge *e = at->children; e; e = e->next_in_parent) {
            walk_add(n->graph, nodes, e->child);
        }
    }
}

void nodes_add_above(GPtrArray *nodes, struct node *n)
{
    unsigned i = nodes->len;

    walk_begin(n->graph, nodes);
    walk_add(n->graph, nodes, n);
    for (; i < nodes->len; i++) {
        const struct node *at = g_ptr_array_index(nodes, i);

        for (struct edge *e = at->parents; e; e = e->next_in_child) {
            if (e->parent) {
                walk_add(n->graph, nodes, e->parent);
            }
        }
    }
}
