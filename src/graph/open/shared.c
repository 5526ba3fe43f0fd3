/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images whose headers name one base far away share its node, and so its
 * connections and what is being fetched.
 */
#include "graph/open/open.h"

/* Was @n opened by a header, as @options and @flags would open it again? */
static bool is_same(struct node *n, const json_t *options, unsigned flags)
{
    if (!n->priv->followed || !n->priv->ready || node_is_writable(n) ||
        !json_equal(n->options, options) ||
        ((n->flags ^ flags) & (FLAGS_INHERITED | NODE_IMPLICIT))) {
        return false;
    }
    return node_is_remote(n);
}

struct node *shared_find(struct graph *g, const json_t *options, unsigned flags)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (is_same(n, options, flags)) {
            return node_ref(n);
        }
    }
    return NULL;
}
