/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An edge stands in two lists: its parent's children and its child's parents.
 * Nobody is asked here whether an edge may be there: see edge.c.
 */
#include <string.h>
#include "graph/model/chain-map.h"
#include "graph/model/in-flight.h"
#include "graph/model/model.h"
#include "graph/trace.h"

static void edge_list_parent(struct edge *e)
{
    struct edge **p = &e->parent->children;

    while (*p) {
        p = &(*p)->next_in_parent;
    }
    *p = e;
    if (!strcmp(e->name, "file")) {
        e->parent->priv->file = e;
    } else if (!strcmp(e->name, "backing")) {
        e->parent->priv->backing = e;
    }
}

/* An in-flight read reads what the backing edge leads to; whoever changes the
 * edge has drained. */
static void edge_check_in_flight(const struct edge *e)
{
    g_assert(!e->parent || e->parent->priv->backing != e ||
             !inflight_any(e->parent));
}

/* What is known of the chain below @e holds no longer. */
static void edge_forget_chain(const struct edge *e)
{
    if (e->parent) {
        chain_maps_drop(e->parent);
    }
}

static void edge_unlist_parent(struct edge *e)
{
    struct edge **p = &e->parent->children;

    while (*p != e) {
        p = &(*p)->next_in_parent;
    }
    *p = e->next_in_parent;
    if (e->parent->priv->file == e) {
        e->parent->priv->file = NULL;
    } else if (e->parent->priv->backing == e) {
        e->parent->priv->backing = NULL;
    }
}

static void edge_list_child(struct edge *e)
{
    struct edge **p = &e->child->parents;

    while (*p) {
        p = &(*p)->next_in_child;
    }
    e->next_in_child = NULL;
    *p = e;
}

static void edge_unlist_child(struct edge *e)
{
    struct edge **p = &e->child->parents;

    while (*p != e) {
        p = &(*p)->next_in_child;
    }
    *p = e->next_in_child;
}

void edge_set_effective(struct edge *e)
{
    const struct node *n = e->parent;

    e->perm = e->own_perm;
    e->shared = e->own_shared;
    if (n && node_is_filter(n) && n->priv->file == e) {
        e->perm |= n->priv->perm;
        e->shared &= n->priv->shared;
    } else if (n && n->priv->backing == e && n->priv->perm == 0) {
        e->perm = 0;
        e->shared = PERM_ALL;
    }
}

struct edge *edge_link(struct node *parent, struct backend *backend,
                       struct node *child, const char *name, unsigned perm,
                       unsigned shared)
{
    struct edge *e = g_new0(struct edge, 1);

    e->parent = parent;
    e->backend = backend;
    e->child = node_ref(child);
    e->name = g_intern_string(name);
    e->own_perm = perm;
    e->own_shared = shared;
    if (parent) {
        edge_list_parent(e);
    }
    edge_forget_chain(e);
    edge_set_effective(e);
    edge_list_child(e);
    return e;
}

struct node *edge_unlink(struct edge *e)
{
    struct node *child = e->child;

    edge_check_in_flight(e);
    edge_forget_chain(e);
    if (e->parent) {
        edge_unlist_parent(e);
    }
    edge_unlist_child(e);
    g_free(e->frozen_by);
    g_free(e);
    return child;
}

/* References do not move: the caller holds both nodes. */
void edge_point_to(struct edge *e, struct node *child)
{
    trace_edge_change(e->parent ? e->parent->name : e->backend->name, e->name,
                      e->child->name, child->name);
    edge_check_in_flight(e);
    edge_forget_chain(e);
    edge_unlist_child(e);
    e->child->refs--;
    g_assert(e->child->refs > 0);
    e->child = node_ref(child);
    edge_list_child(e);
}
