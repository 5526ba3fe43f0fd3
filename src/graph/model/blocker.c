/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Op blockers: which jobs hold a node, and the error text for operations that
 * they block. */
#include "base/err.h"
#include "graph/graph-int.h"

struct blocker {
    struct node *node;
    unsigned ops;
    char *reason;
};

struct blocker *node_block(struct node *n, unsigned ops, const char *reason)
{
    struct blocker *b = g_new0(struct blocker, 1);

    b->node = n;
    b->ops = ops;
    b->reason = g_strdup(reason);
    n->priv->blockers = g_slist_append(n->priv->blockers, b);
    return b;
}

void node_unblock(struct blocker *b)
{
    if (b) {
        b->node->priv->blockers = g_slist_remove(b->node->priv->blockers, b);
        g_free(b->reason);
        g_free(b);
    }
}

/* The device that stands right on @n gives its name, else the node. */
static const char *node_public_name(struct node *n)
{
    struct device *d = device_of_node(n);

    return d && backend_node(d->backend) == n ? d->id : n->name;
}

int node_check_op(struct node *n, enum block_op op, GError **err)
{
    for (GSList *l = n->priv->blockers; l; l = l->next) {
        const struct blocker *b = l->data;

        if (b->ops & (1u << op)) {
            return err_set(err, EBUSY, "Node '%s' is busy: %s",
                           node_public_name(n), b->reason);
        }
    }
    return 0;
}

static int err_is_backing(struct node *n, const struct node *overlay,
                          GError **err)
{
    return err_set(err, EBUSY,
                   "Node '%s' is busy: node is used as backing hd of '%s'",
                   node_public_name(n), overlay->name);
}

/* An image, other than @except, that stands on @n; NULL: none. */
static struct node *overlay_besides(const struct node *n,
                                    const struct node *except)
{
    for (const struct edge *e = n->parents; e; e = e->next_in_child) {
        struct node *above = e->parent, *found = NULL;

        if (above && e == above->priv->backing) {
            found = above != except ? above : NULL;
        } else if (above && e == above->priv->file &&
                   (node_is_filter(above) || above->drv->view_offset)) {
            found = overlay_besides(above, except);
        }
        if (found) {
            return found;
        }
    }
    return NULL;
}

int node_check_no_overlay(struct node *n, GError **err)
{
    struct node *overlay = overlay_besides(n, NULL);

    return overlay ? err_is_backing(n, overlay, err) : 0;
}

int chain_check_no_other_overlay(struct node *top, struct node *base,
                                 GError **err)
{
    struct node *above = top;

    while (above != base) {
        struct node *n = node_skip_filters(node_backing(above));
        struct node *overlay = overlay_besides(n, above);

        if (overlay) {
            return err_is_backing(n, overlay, err);
        }
        above = n;
    }
    return 0;
}

int node_check_deletable(struct node *n, GError **err)
{
    int ret;

    if (!n->monitor_owned) {
        return err_set(err, EPERM, "Node %s is not owned by the monitor",
                       n->name);
    }
    ret = node_check_op(n, BLOCK_OP_DELETE, err);
    if (ret < 0) {
        return ret;
    }
    for (const struct edge *e = n->parents; e; e = e->next_in_child) {
        if (e->parent && e == e->parent->priv->backing) {
            return err_is_backing(n, e->parent, err);
        }
    }
    if (n->parents || n->refs > 1) {
        return err_set(err, EBUSY, "Block device %s is in use",
                       node_public_name(n));
    }
    return 0;
}
