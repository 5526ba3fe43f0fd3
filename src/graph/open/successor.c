/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that are gone because they ended as another file.
 *
 * The sidecar of a cow overlay is removed when nothing is missing any more; the
 * disk goes on under its final name.  Whoever names the sidecar afterwards, a
 * unit that starts the daemon again above all, means that disk.  Storage
 * drivers ask here when a name leads nowhere, open the other file in its place,
 * and the user is told.
 */
#include <stdarg.h>
#include "base/err.h"
#include "graph/open/open.h"
#include "graph/trace.h"

/* --- notices --- */

void graph_set_notice(struct graph *g, void (*fn)(const char *text))
{
    g->notice = fn;
}

/* An image may be opened several times on the way to its node: what was said
 * last is not said again. */
static void notice(struct graph *g, char *text)
{
    if (g->notice && g_strcmp0(text, g->last_notice) != 0) {
        g->notice(text);
    }
    g_free(g->last_notice);
    g->last_notice = text;
}

/* --- successors --- */

CO_FN int successor_co_find(struct graph *g, const char *path, char **ret_path,
                            const struct node_driver **ret_drv, GError **err)
{
    for (unsigned i = 0; g->drivers[i]; i++) {
        const struct node_driver *drv = g->drivers[i];
        int ret = drv->co_successor ? drv->co_successor(path, ret_path, err)
                                    : 0;

        if (ret != 0) {
            *ret_drv = drv;
            return ret;
        }
    }
    return 0;
}

int node_co_take_successor(struct node *n, const char *path, char **ret_path,
                           GError **err)
{
    const struct node_driver *drv = NULL;
    int ret = successor_co_find(n->graph, path, ret_path, &drv, err);

    if (ret > 0) {
        n->priv->ended = drv;
        n->priv->ended_name = g_strdup(path);
    }
    return ret;
}

const struct node_driver *node_ended(struct node *n)
{
    n = node_skip_filters(n);
    return n ? n->priv->ended : NULL;
}

void successor_tell(const struct node *n)
{
    if (n->priv->ended) {
        trace_node_successor(n->priv->ended_name, n->filename);
        notice(n->graph,
               g_strdup_printf("'%s' is finished: '%s' is the disk now",
                               n->priv->ended_name, n->filename));
    }
}
