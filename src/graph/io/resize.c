/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Resize the disk of a node that may be in use: no job blocks it, no image
 * stands on it, and no request is in flight meanwhile. */
#include "graph/graph-int.h"

static CO_FN int resize_co_alone(struct node *n, const char *by, uint64_t size,
                                 GError **err)
{
    struct backend *u;
    int ret = node_check_op(n, BLOCK_OP_RESIZE, err);

    if (ret == 0) {
        ret = node_check_no_overlay(n, err);
    }
    if (ret == 0) {
        ret = backend_co_new(n, by, PERM_RESIZE, PERM_ALL, NULL, NULL, &u, err);
    }
    if (ret != 0) {
        return ret;
    }
    /* A write on its way could bring back what is cut off, a read see a longer
     * base before it is covered. */
    node_co_drain_requests_begin(n);
    ret = node_co_truncate(n, size, err);
    node_drain_end(n);
    backend_co_free(u);
    return ret;
}

int node_co_resize(struct node *n, const char *by, uint64_t size, GError **err)
{
    int ret;

    node_ref(n);
    co_mutex_co_lock(&n->priv->changing);
    ret = resize_co_alone(n, by, size, err);
    co_mutex_unlock(&n->priv->changing);
    node_co_unref(n);
    return ret;
}
