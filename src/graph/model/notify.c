/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a change of a node's size, limits or child means for those above it. */
#include "graph/model/model.h"
#include <string.h>
#include "graph/graph-int.h"

void node_refresh_limits(struct node *n)
{
    struct node *file = node_file(n);
    struct node_limits *l = &n->priv->limits;

    *l = (struct node_limits) { .request_alignment = 1, .mem_alignment = 1 };
    if (file) {
        l->mem_alignment = file->priv->limits.mem_alignment;
        if (node_is_filter(n)) {
            l->cluster_size = file->priv->limits.cluster_size;
            l->fast_zero = file->priv->limits.fast_zero;
            l->can_allocate = file->priv->limits.can_allocate;
            l->compressed_unit = file->priv->limits.compressed_unit;
        }
    }
    if (n->drv->limits) {
        n->drv->limits(n, l);
    }
    if (n->drv->supports_backing || l->request_alignment == 0) {
        l->request_alignment = 1;
    }
    l->mem_alignment = MAX(l->mem_alignment, 1);
    g_assert((l->request_alignment & (l->request_alignment - 1)) == 0);
    n->priv->mem_align = n->drv->kind == NODE_PROTOCOL ? l->mem_alignment : 1;
    n->priv->tracked = n->drv->supports_backing || l->request_alignment > 1;
}

void node_refresh_above(struct node *n)
{
    node_refresh_limits(n);
    for (struct edge *e = n->parents; e; e = e->next_in_child) {
        if (e->parent && e == e->parent->priv->file) {
            node_refresh_above(e->parent);
        }
    }
}

void node_set_path(struct node *n, const char *path)
{
    bool like_address = path[strcspn(path, ":/")] == ':';

    g_free(n->filename);
    n->filename = g_strconcat(like_address ? "./" : "", path, NULL);
}

void node_refresh_filename(struct node *n)
{
    if (n->drv->describe) {
        n->drv->describe(n);
    } else if (node_file(n)) {
        g_free(n->filename);
        n->filename = g_strdup(node_file(n)->filename);
    }
}

void node_notify_changed(struct node *n)
{
    for (struct edge *e = n->parents; e; e = e->next_in_child) {
        if (e->backend) {
            if (e->backend->ops && e->backend->ops->changed) {
                e->backend->ops->changed(e->backend->arg);
            }
        } else if (node_is_filter(e->parent)) {
            e->parent->size = n->size;
            node_refresh_limits(e->parent);
            node_notify_changed(e->parent);
        }
    }
}
