/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/watch.h"
#include "graph/graph-int.h"

void node_set_watch(struct node *n, const struct watch_ops *ops, void *arg)
{
    g_assert(n->drv->set_watch);
    n->drv->set_watch(n, ops, arg);
}

int watched_co_do(const struct watched *w)
{
    struct node *file = w->filter->priv->file->child;

    switch (w->kind) {
    case WATCHED_WRITE: return node_co_pwritev(file, w->off, w->iov, w->flags);
    case WATCHED_ZERO: return node_co_zero(file, w->off, w->len, w->flags);
    case WATCHED_DISCARD: break;
    }
    return node_co_discard(file, w->off, w->len);
}
