/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a node.
 *
 * A node is in the registry from node_new() until its last reference goes;
 * from then on no name finds it, although its driver may still be closing.
 */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "base/names.h"
#include "base/text.h"
#include "graph/model/chain-map.h"
#include "graph/model/early.h"
#include "graph/model/in-flight.h"
#include "graph/demand.h"
#include "graph/model/bitmap.h"
#include "graph/model/model.h"
#include "graph/trace.h"

#define NODE_NAME_MAX 31

/* Is the name free, here and in all graphs? Then it is taken. */
static int node_take_name(struct graph *g, const char *name, GError **err)
{
    if (!text_is_id(name)) {
        return err_set(err, EINVAL, "Invalid node-name: '%s'", name);
    }
    if (strlen(name) > NODE_NAME_MAX) {
        return err_set(err, EINVAL, "Node name too long");
    }
    if (device_find(g, name) || device_is_empty(g, name)) {
        return err_set(err, EEXIST,
                       "node-name=%s is conflicting with a device id", name);
    }
    if (g_hash_table_lookup(g->by_name, name) ||
        !names_take(g->names, NAME_BLOCK, name, g->names_owner)) {
        return err_set(err, EEXIST, "Duplicate nodes with node-name='%s'",
                       name);
    }
    return 0;
}

static char *node_auto_name(struct graph *g)
{
    for (;;) {
        char *name = g_strdup_printf("#block%03u", g->next_auto_name++);

        if (!g_hash_table_lookup(g->by_name, name) &&
            names_take(g->names, NAME_BLOCK, name, g->names_owner)) {
            return name;
        }
        g_free(name);
    }
}

struct node *node_new(struct graph *g, const struct node_driver *drv,
                      const char *name, unsigned flags, GError **err)
{
    struct node *n;

    if (name && node_take_name(g, name, err) < 0) {
        return NULL;
    }
    n = g_new0(struct node, 1);
    n->name = name ? g_strdup(name) : node_auto_name(g);
    n->auto_named = !name;
    n->graph = g;
    n->drv = drv;
    n->state = g_malloc0(MAX(drv->state_size, 1));
    n->flags = flags;
    n->refs = 1;
    n->debuggers = &g->debuggers;
    g->debuggers += drv->debug_control ? 1 : 0;
    n->priv = g_new0(struct node_int, 1);
    n->priv->shared = PERM_ALL;
    n->priv->serial = ++g->last_serial;
    n->priv->limits = (struct node_limits) {
        .request_alignment = 1,
        .mem_alignment = 1,
    };
    g_ptr_array_add(g->nodes, n);
    g_hash_table_insert(g->by_name, n->name, n);
    return n;
}

void backing_request_free(struct backing_request *r)
{
    if (r) {
        g_free(r->header_name);
        g_free(r->format);
        json_decref(r->options);
        g_free(r);
    }
}

static void node_unregister(struct node *n)
{
    struct graph *g = n->graph;

    g_ptr_array_remove(g->nodes, n);
    if (g_hash_table_lookup(g->by_name, n->name) == n) {
        g_hash_table_remove(g->by_name, n->name);
        names_drop(g->names, NAME_BLOCK, n->name, g->names_owner);
    }
}

void node_free(struct node *n)
{
    g_assert(!n->children && !n->parents && !n->priv->blockers);
    g_assert(!n->priv->chain_map && !n->priv->chain_maps);
    g_assert(!n->priv->track.writes && !n->priv->track.allocs);
    node_unregister(n);
    n->graph->debuggers -= n->drv->debug_control ? 1 : 0;
    drain_forget_node(n);
    storage_control_release(n);
    backing_request_free(n->priv->pending);
    node_bitmaps_free(n);
    json_decref(n->options);
    g_free(n->priv->followed);
    g_free(n->filename);
    g_free(n->state);
    g_free(n->priv->ended_name);
    g_free(n->priv);
    g_free(n->name);
    g_free(n);
}

/* Close @n; its children, no longer attached, are added to @orphans. */
static CO_FN void node_co_close(struct node *n, GPtrArray *orphans)
{
    trace_node_close(n->name);
    early_co_close(n);
    inflight_co_wait_idle(n);
    if (n->priv->open && n->drv->co_close) {
        n->drv->co_close(n);
    }
    n->priv->open = false;
    chain_maps_drop(n);
    graph_co_lock(n->graph);
    while (n->children) {
        struct node *child = edge_unlink(n->children);

        /* Fewer parents: nothing can be refused. */
        (void)perm_co_refresh(child, NULL);
        g_ptr_array_add(orphans, child);
    }
    graph_unlock(n->graph);
    node_free(n);
}

void node_co_unref(struct node *n)
{
    GPtrArray *work;

    if (!n) {
        return;
    }
    g_assert(n->refs > 0);
    if (--n->refs > 0) {
        return;
    }
    /* A loop, not a recursion: chains may be long. */
    work = g_ptr_array_new();
    node_unregister(n);
    node_co_close(n, work);
    while (work->len > 0) {
        struct node *next = g_ptr_array_steal_index(work, work->len - 1);

        g_assert(next->refs > 0);
        if (--next->refs == 0) {
            node_unregister(next);
            node_co_close(next, work);
        }
    }
    g_ptr_array_free(work, TRUE);
}
