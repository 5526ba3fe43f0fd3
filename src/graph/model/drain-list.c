/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The drains of a graph, and who comes and goes while they last. */
#include "graph/model/model.h"
#include "graph/graph-int.h"

void drain_forget_node(struct node *n)
{
    for (struct drain *d = n->graph->drains; d; d = d->next) {
        g_assert(d->node != n);
        g_ptr_array_remove(d->quiet, n);
    }
}

void drain_forget_backend(struct backend *u)
{
    for (struct drain *d = u->graph->drains; d; d = d->next) {
        g_ptr_array_remove(d->backends, u);
    }
}

/* A new backend above a drained node is stopped like the others. */
void drain_adopt_backend(struct backend *u)
{
    for (struct drain *d = u->graph->drains; d; d = d->next) {
        if (node_reaches(u->edge->child, d->node)) {
            g_ptr_array_add(d->backends, u);
            u->quiesced++;
        }
    }
}

bool graph_is_drained(const struct graph *g)
{
    for (const struct drain *d = g->drains; d; d = d->next) {
        if (d->begun && d->owner != co_self()) {
            return true;
        }
    }
    return false;
}

bool node_is_held_off(struct node *n)
{
    g_autoptr(GPtrArray) above = g_ptr_array_new();
    bool any = false;

    nodes_add_above(above, n);
    for (unsigned i = 0; i < above->len; i++) {
        const struct node *at = g_ptr_array_index(above, i);

        for (struct edge *e = at->parents; e; e = e->next_in_child) {
            if (e->backend && e->backend->quiesced > 0) {
                return true;
            }
            any = any || e->backend;
        }
    }
    return !any && n->graph->drains;
}
