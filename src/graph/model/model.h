/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of model/ offer to the rest of graph/, beside node.h. */
#pragma once
#include "graph/graph-int.h"

/* The same coroutine may take it again. lock.c */
CO_FN void graph_co_lock(struct graph *g);
void graph_unlock(struct graph *g);

/* The memory budget, graph/memory.h. memory.c */
void graph_memory_begin(struct graph *g);
void graph_memory_end(struct graph *g);

struct node *node_new(struct graph *g, const struct node_driver *drv,
                      const char *name, unsigned flags, GError **err);
/* Of a node that never opened or has closed: no edges are left. */
void node_free(struct node *n);
/* After a child, an option or the driver's state has changed. notify.c */
void node_refresh_limits(struct node *n);
void node_refresh_filename(struct node *n);
void backing_request_free(struct backing_request *r);

/* Is @n a view (raw) of an overlay? Then the node below it, and @off, an offset
 * in @n, becomes the offset there; else NULL. chain.c */
struct node *view_step(struct node *n, uint64_t *off);

/* walk.c: @n and all below, or above, added to @nodes; each once. */
void nodes_add_below(GPtrArray *nodes, struct node *n);
void nodes_add_above(GPtrArray *nodes, struct node *n);

/* edge-list.c, perm.c; under the graph's lock, no drain. */
struct edge *edge_link(struct node *parent, struct backend *backend,
                       struct node *child, const char *name, unsigned perm,
                       unsigned shared);
/* Unlink and free; the child's reference passes to the caller. */
struct node *edge_unlink(struct edge *e);
void edge_point_to(struct edge *e, struct node *child);
/* Is @to @from, or below it? */
bool node_reaches(const struct node *from, const struct node *to);
/* Check what the parents of @n want, tell its driver, and pass it on through
 * filters. On failure the caller restores the edges and calls again. */
CO_FN int perm_co_refresh(struct node *n, GError **err);
/* What @e wants and shares now, from what it says itself and from what its
 * parent is used for: a filter passes on what its parents want; an image that
 * nobody uses leaves its backing file alone. */
void edge_set_effective(struct edge *e);
/* What format @n takes from its children, but "backing", as it becomes writable
 * or ends to be. All or none. */
CO_FN int children_co_set_perms(struct node *n, bool writable, GError **err);
/* edge-move.c: changes of several edges, all or none. The parents are drained;
 * requests that other parents make of the children go on. */
struct edge_move {
    struct node *parent;
    const char *name;       /* "file", "backing"; static */
    struct node *from, *to; /* references; NULL: none */
    unsigned perm, shared;  /* of a new edge */
};
CO_FN int edges_co_change(struct edge_move *moves, unsigned n, GError **err);
CO_FN void edges_co_change_back(struct edge_move *moves, unsigned n);
/* edge.c: -EPERM when @e is frozen; @to may be NULL. */
int edge_check_frozen(const struct edge *e, const struct node *to,
                      GError **err);
/* The limits of @n and of all that depend on them. */
void node_refresh_above(struct node *n);
/* For error texts; owned. */
char *edge_describe_parent(const struct edge *e);
/* The size or the node below changed: filters above follow, backends are
 * notified. */
void node_notify_changed(struct node *n);

/* drain-list.c */
/* Are requests held off that would go to @n? */
bool node_is_held_off(struct node *n);
/* Has anybody else drained a node, and may be changing edges? */
bool graph_is_drained(const struct graph *g);
void drain_forget_node(struct node *n);
void drain_forget_backend(struct backend *u);
void drain_adopt_backend(struct backend *u);

/* account.c */
void account_done(struct backend *u, enum acct_kind kind, uint64_t off,
                  uint64_t bytes, uint64_t start_ns, int ret);
