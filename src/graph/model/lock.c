/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lock of the graph: one coroutine changes edges and permissions at a time;
 * the same one may take it again. */
#include "graph/model/model.h"
#include "graph/graph-int.h"

void graph_co_lock(struct graph *g)
{
    if (g->lock_owner == co_self()) {
        g->lock_depth++;
        return;
    }
    co_mutex_co_lock(&g->lock);
    g->lock_owner = co_self();
    g->lock_depth = 1;
}

void graph_unlock(struct graph *g)
{
    g_assert(g->lock_owner == co_self() && g->lock_depth > 0);
    if (--g->lock_depth == 0) {
        g->lock_owner = NULL;
        co_mutex_unlock(&g->lock);
    }
}
