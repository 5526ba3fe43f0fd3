/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Edges: attaching, replacing, detaching.
 *
 * Every change is all or nothing: the edges are moved, the permissions of the
 * nodes concerned are asked for anew, and if one is refused the edges are moved
 * back.  Nodes that requests can reach are drained meanwhile.
 */
#include <string.h>
#include "base/err.h"
#include "graph/model/model.h"
#include "graph/trace.h"

static int edge_check_cycle(const struct node *parent, const struct node *child,
                            const char *name, GError **err)
{
    if (parent && node_reaches(child, parent)) {
        return err_set(err, EINVAL,
                       "Making '%s' a %s child of '%s' would create a cycle",
                       child->name, name, parent->name);
    }
    return 0;
}

int edge_check_frozen(const struct edge *e, const struct node *to, GError **err)
{
    if (!e->frozen) {
        return 0;
    }
    err_set(err, EPERM, "Cannot change frozen '%s' link from '%s' to '%s'",
            e->name, e->parent ? e->parent->name : e->backend->name,
            to ? to->name : e->child->name);
    if (e->frozen_by) {
        err_hint(err, "The link is in use by %s.", e->frozen_by);
    }
    return -EPERM;
}

int edge_co_attach(struct node *parent, struct node *child, const char *name,
                   unsigned perm, unsigned shared, GError **err)
{
    struct graph *g = child->graph;
    struct edge *e;
    int ret;

    if (node_child(parent, name)) {
        return err_set(err, EEXIST, "Node '%s' already has a '%s' child",
                       parent->name, name);
    }
    ret = edge_check_cycle(parent, child, name, err);
    if (ret < 0) {
        return ret;
    }
    graph_co_lock(g);
    e = edge_link(parent, NULL, child, name, perm, shared);
    ret = perm_co_refresh(child, err);
    if (ret < 0) {
        edge_unlink(e);
        (void)perm_co_refresh(child, NULL);
    }
    graph_unlock(g);
    if (ret < 0) {
        node_co_unref(child);
        return ret;
    }
    node_refresh_limits(parent);
    trace_edge_change(parent->name, name, NULL, child->name);
    return 0;
}

/* The node above first: the permissions that it needs are passed to the one
 * below. So that one is asked once, with neither too much (the edges count
 * twice) nor too little (image locks are released for a moment). */
static CO_FN int edges_co_refresh(struct node *old, struct node *new_node,
                                  GError **err)
{
    bool old_first = node_reaches(old, new_node);
    int ret = perm_co_refresh(old_first ? old : new_node, err);

    return ret < 0 ? ret : perm_co_refresh(old_first ? new_node : old, err);
}

/* Move @edges from @old to @new_node; all or none. */
static CO_FN int edges_co_move(GPtrArray *edges, struct node *old,
                               struct node *new_node, GError **err)
{
    int ret;

    graph_co_lock(old->graph);
    for (unsigned i = 0; i < edges->len; i++) {
        edge_point_to(g_ptr_array_index(edges, i), new_node);
    }
    ret = edges_co_refresh(old, new_node, err);
    if (ret < 0) {
        for (unsigned i = 0; i < edges->len; i++) {
            edge_point_to(g_ptr_array_index(edges, i), old);
        }
        (void)edges_co_refresh(new_node, old, NULL);
    }
    graph_unlock(old->graph);
    return ret;
}

static void edges_refresh_parents(struct node *child)
{
    for (struct edge *e = child->parents; e; e = e->next_in_child) {
        if (e->parent) {
            node_refresh_limits(e->parent);
        }
    }
    node_notify_changed(child);
}

int edge_co_replace(struct edge *e, struct node *new_child, GError **err)
{
    struct node *old = e->child;
    GPtrArray *edges;
    int ret;

    if (old == new_child) {
        return 0;
    }
    ret = edge_check_frozen(e, new_child, err);
    if (ret == 0) {
        ret = edge_check_cycle(e->parent, new_child, e->name, err);
    }
    if (ret < 0) {
        return ret;
    }
    node_ref(old);
    node_ref(new_child);
    node_co_drain_requests_begin(old);
    edges = g_ptr_array_new();
    g_ptr_array_add(edges, e);
    ret = edges_co_move(edges, old, new_child, err);
    g_ptr_array_free(edges, TRUE);
    if (ret == 0) {
        edges_refresh_parents(new_child);
    }
    node_drain_end(old);
    node_co_unref(old);
    node_co_unref(new_child);
    return ret;
}

int edge_co_set_perms(struct edge *e, unsigned perm, unsigned shared,
                      GError **err)
{
    const struct edge old = *e;
    int ret;

    graph_co_lock(e->child->graph);
    e->own_perm = perm;
    e->own_shared = shared;
    edge_set_effective(e);
    ret = perm_co_refresh(e->child, err);
    if (ret < 0) {
        e->perm = old.perm;
        e->own_perm = old.own_perm;
        e->shared = old.shared;
        e->own_shared = old.own_shared;
        (void)perm_co_refresh(e->child, NULL);
    }
    graph_unlock(e->child->graph);
    return ret;
}

void edge_co_detach(struct edge *e)
{
    struct node *child = e->child;
    struct node *parent = e->parent;

    g_assert(!e->frozen);
    node_ref(child);
    node_co_drain_requests_begin(child);
    graph_co_lock(child->graph);
    trace_edge_change(parent ? parent->name : e->backend->name, e->name,
                      child->name, NULL);
    edge_unlink(e);
    (void)perm_co_refresh(child, NULL);
    graph_unlock(child->graph);
    if (parent) {
        node_refresh_limits(parent);
    }
    node_drain_end(child);
    node_co_unref(child); /* the edge's */
    node_co_unref(child);
}

/* The edges that lead to @old from elsewhere than @except and @new_node. */
static int replace_collect(struct node *old, struct node *new_node,
                           struct node *except, GPtrArray *edges, GError **err)
{
    for (struct edge *e = old->parents; e; e = e->next_in_child) {
        int ret;

        if (e->parent && (e->parent == except || e->parent == new_node ||
                          node_reaches(new_node, e->parent))) {
            continue;
        }
        ret = edge_check_frozen(e, new_node, err);
        if (ret < 0) {
            return ret;
        }
        g_ptr_array_add(edges, e);
    }
    return 0;
}

int node_co_replace(struct node *old, struct node *new_node,
                    struct node *except, GError **err)
{
    GPtrArray *edges;
    int ret;

    if (old == new_node) {
        return 0;
    }
    node_ref(old);
    node_ref(new_node);
    node_co_drain_requests_begin(old);
    edges = g_ptr_array_new();
    ret = replace_collect(old, new_node, except, edges, err);
    if (ret == 0) {
        ret = edges_co_move(edges, old, new_node, err);
    }
    g_ptr_array_free(edges, TRUE);
    if (ret == 0) {
        edges_refresh_parents(new_node);
    }
    node_drain_end(old);
    node_co_unref(new_node);
    node_co_unref(old);
    return ret;
}

int node_co_insert_filter(struct node *n, struct node *filter, GError **err)
{
    g_assert(node_is_filter(filter) && node_file(filter) == n);
    return node_co_replace(n, filter, NULL, err);
}

int node_co_remove_filter(struct node *filter, GError **err)
{
    struct node *n = node_file(filter);
    GPtrArray *edges;
    int ret;

    g_assert(node_is_filter(filter) && n);
    node_ref(n);
    node_ref(filter);
    node_co_drain_requests_begin(filter);
    edges = g_ptr_array_new();
    ret = replace_collect(filter, n, NULL, edges, err);
    if (ret == 0) {
        ret = edges_co_move(edges, filter, n, err);
    }
    g_ptr_array_free(edges, TRUE);
    if (ret == 0) {
        edges_refresh_parents(n);
    }
    node_drain_end(filter);
    node_co_unref(filter);
    node_co_unref(n);
    return ret;
}
