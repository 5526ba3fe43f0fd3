/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests that wait for storage that does not answer: at the end of the daemon
 * they fail; where somebody waits for them to end, they come back to where they
 * entered the graph.
 */
#include <errno.h>
#include "graph/model/model.h"
#include "graph/trace.h"

void graph_interrupt(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->drv->interrupt) {
            trace_node_interrupt(n->name);
            n->drv->interrupt(n);
        }
    }
}

void graph_interrupt_bases(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->drv->interrupt && !(n->flags & NODE_RDWR)) {
            trace_node_interrupt(n->name);
            n->drv->interrupt(n);
        }
    }
}

void node_let_go(struct node *n)
{
    g_autoptr(GPtrArray) below = g_ptr_array_new();

    nodes_add_below(below, n);
    for (unsigned i = 0; i < below->len; i++) {
        struct node *at = g_ptr_array_index(below, i);

        if (at->drv->end_requests) {
            trace_node_let_go(at->name);
            at->drv->end_requests(at, -ERESTART);
        }
    }
}

void node_yank(struct node *n)
{
    if (n->drv->yank) {
        n->drv->yank(n);
    }
}

void node_set_hang(struct node *n, uint64_t timeout_ns, bool fail)
{
    g_autoptr(GPtrArray) below = g_ptr_array_new();

    nodes_add_below(below, n);
    for (unsigned i = 0; i < below->len; i++) {
        struct node *at = g_ptr_array_index(below, i);

        if (at->drv->set_hang) {
            at->drv->set_hang(at, timeout_ns, fail);
        }
    }
}
