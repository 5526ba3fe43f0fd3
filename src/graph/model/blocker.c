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
            return err_set(err, EBUSY,
                           "Node '%s' is busy: node is used as backing hd of "
                           "'%s'",
                           node_public_name(n), e->parent->name);
        }
    }
    if (n->parents || n->refs > 1) {
        return err_set(err, EBUSY, "Block device %s is in use",
                       node_public_name(n));
    }
    return 0;
}
