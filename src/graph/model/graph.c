/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The graph itself: its drivers, its nodes by name, the life of a node.
 *
 * A node is in the registry from node_new() until its last reference goes;
 * from then on no name finds it, although its driver may still be closing.
 */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "graph/populate/in-flight.h"
#include "graph/graph-int.h"
#include "graph/trace.h"
#include "loop/loop.h"

#define CHAIN_DEPTH_DEFAULT 64
#define CHAIN_DEPTH_MAX 256
#define NODE_NAME_MAX 31

struct graph *graph_new(struct loop *l,
                        const struct node_driver *const *drivers)
{
    struct graph *g = g_new0(struct graph, 1);

    g->loop = l;
    g->drivers = drivers;
    g->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    g->nodes = g_ptr_array_new();
    g->devices = g_ptr_array_new();
    g->max_depth = CHAIN_DEPTH_DEFAULT;
    g->policy = BACKING_FOLLOW;
    return g;
}

static struct node *first_monitor_owned(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->monitor_owned) {
            return n;
        }
    }
    return NULL;
}

void graph_co_free(struct graph *g)
{
    struct node *n;

    if (!g) {
        return;
    }
    while (g->devices->len > 0) {
        device_co_free(g_ptr_array_index(g->devices, 0));
    }
    g_assert(!g->backends);
    while ((n = first_monitor_owned(g)) != NULL) {
        n->monitor_owned = false;
        node_co_unref(n);
    }
    g_assert(g->nodes->len == 0);
    g_assert(!g->drains);
    g_ptr_array_free(g->nodes, TRUE);
    g_ptr_array_free(g->devices, TRUE);
    g_hash_table_destroy(g->by_name);
    g_clear_pointer(&g->secrets, g_hash_table_destroy);
    g_free(g->beneath);
    g_free(g->last_notice);
    g_free(g);
}

struct loop *graph_loop(struct graph *g)
{
    return g->loop;
}

void graph_interrupt(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->drv->interrupt) {
            trace_node_interrupt(n->name);
            n->drv->interrupt(n);
        }
    }
}

void graph_interrupt_bases(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->drv->interrupt && !(n->flags & NODE_RDWR)) {
            trace_node_interrupt(n->name);
            n->drv->interrupt(n);
        }
    }
}

void node_let_go(struct node *n)
{
    if (n->drv->end_requests) {
        trace_node_let_go(n->name);
        n->drv->end_requests(n, -ERESTART);
    }
    for (struct edge *e = n->children; e; e = e->next_in_parent) {
        node_let_go(e->child);
    }
}

void graph_set_events(struct graph *g, void (*fn)(const char *name, json_t *data,
                                                  void *arg), void *arg)
{
    g->event_fn = fn;
    g->event_arg = arg;
}

void node_event(const struct node *n, const char *name, json_t *data)
{
    if (n->graph->event_fn) {
        n->graph->event_fn(name, data, n->graph->event_arg);
    }
}

void graph_set_backing_policy(struct graph *g, enum backing_policy p,
                              const char *beneath)
{
    g_assert(p != BACKING_BENEATH || beneath);
    g->policy = p;
    g_free(g->beneath);
    g->beneath = g_strdup(beneath);
}

void graph_set_max_depth(struct graph *g, unsigned depth)
{
    g->max_depth = CLAMP(depth, 1, CHAIN_DEPTH_MAX);
}

const struct node_driver *graph_find_driver(struct graph *g, const char *name)
{
    for (unsigned i = 0; g->drivers[i]; i++) {
        if (!strcmp(g->drivers[i]->name, name)) {
            return g->drivers[i];
        }
    }
    return NULL;
}

void graph_co_lock(struct graph *g)
{
    if (g->lock_owner == co_self()) {
        g->lock_depth++;
        return;
    }
    co_mutex_co_lock(&g->lock);
    g->lock_owner = co_self();
    g->lock_depth = 1;
}

void graph_unlock(struct graph *g)
{
    g_assert(g->lock_owner == co_self() && g->lock_depth > 0);
    if (--g->lock_depth == 0) {
        g->lock_owner = NULL;
        co_mutex_unlock(&g->lock);
    }
}

/* --- nodes --- */

bool name_wellformed(const char *name)
{
    if (!g_ascii_isalpha(name[0])) {
        return false;
    }
    for (const char *p = name; *p; p++) {
        if (!g_ascii_isalnum(*p) && !strchr("-._", *p)) {
            return false;
        }
    }
    return true;
}

static int node_check_name(struct graph *g, const char *name, GError **err)
{
    if (!name_wellformed(name)) {
        return err_set(err, EINVAL, "Invalid node-name: '%s'", name);
    }
    if (strlen(name) > NODE_NAME_MAX) {
        return err_set(err, EINVAL, "Node name too long");
    }
    if (device_find(g, name)) {
        return err_set(err, EEXIST,
                       "node-name=%s is conflicting with a device id", name);
    }
    if (g_hash_table_lookup(g->by_name, name)) {
        return err_set(err, EEXIST, "Duplicate nodes with node-name='%s'",
                       name);
    }
    return 0;
}

static char *node_auto_name(struct graph *g)
{
    for (;;) {
        char *name = g_strdup_printf("#block%03u", g->next_auto_name++);

        if (!g_hash_table_lookup(g->by_name, name)) {
            return name;
        }
        g_free(name);
    }
}

struct node *node_new(struct graph *g, const struct node_driver *drv,
                      const char *name, unsigned flags, GError **err)
{
    struct node *n;

    if (name && node_check_name(g, name, err) < 0) {
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
    n->priv->limits = (struct node_limits) {
        .request_alignment = 1, .mem_alignment = 1,
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
    }
}

void node_free(struct node *n)
{
    g_assert(!n->children && !n->parents && !n->priv->blockers);
    g_assert(!n->priv->track.writes && !n->priv->track.allocs);
    node_unregister(n);
    n->graph->debuggers -= n->drv->debug_control ? 1 : 0;
    drain_forget_node(n);
    backing_request_free(n->priv->pending);
    json_decref(n->options);
    g_free(n->priv->followed);
    g_free(n->filename);
    g_free(n->state);
    g_free(n->priv->ended_name);
    g_free(n->priv);
    g_free(n->name);
    g_free(n);
}

struct node *node_ref(struct node *n)
{
    n->refs++;
    return n;
}

/* Close @n; its children, no longer attached, are added to @orphans. */
static CO_FN void node_co_close(struct node *n, GPtrArray *orphans)
{
    trace_node_close(n->name);
    inflight_co_wait_idle(n);
    if (n->priv->open && n->drv->co_close) {
        n->drv->co_close(n);
    }
    n->priv->open = false;
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

/* --- what others ask about a node --- */

/* A node that is still opening is nobody's yet. */
static struct node *node_lookup(struct graph *g, const char *name)
{
    struct node *n = g_hash_table_lookup(g->by_name, name);

    return n && n->priv->ready ? n : NULL;
}

struct node *node_find(struct graph *g, const char *name, GError **err)
{
    struct node *n = node_lookup(g, name);

    if (!n) {
        err_set(err, ENOENT, "Cannot find device='' nor node-name='%s'", name);
    }
    return n;
}

struct node *node_find_any(struct graph *g, const char *name, GError **err)
{
    struct device *d = device_find(g, name);
    struct node *n = d ? backend_node(d->backend) : node_lookup(g, name);

    if (!n) {
        err_set(err, ENOENT, "Cannot find device='%s' nor node-name='%s'",
                name, name);
    }
    return n;
}

void graph_foreach_node(struct graph *g, void (*fn)(struct node *n, void *arg),
                        void *arg)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->priv->ready) {
            fn(n, arg);
        }
    }
}

bool node_is_writable(const struct node *n)
{
    return n->flags & NODE_RDWR;
}

bool node_is_filter(const struct node *n)
{
    return n->drv->kind == NODE_FILTER;
}

struct node *node_file(const struct node *n)
{
    return n->priv->file ? n->priv->file->child : NULL;
}

const struct node_limits *node_get_limits(const struct node *n)
{
    return &n->priv->limits;
}

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

void node_refresh_filename(struct node *n)
{
    if (n->drv->describe) {
        n->drv->describe(n);
    } else if (node_file(n)) {
        g_free(n->filename);
        n->filename = g_strdup(node_file(n)->filename);
    }
}

void node_notice(const struct node *n, const char *fmt, ...)
{
    g_autofree char *what = NULL, *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_node_notice(n->name, what);
    if (n->graph->notice) {
        text = g_strdup_printf("'%s': %s", n->filename ? n->filename : n->name,
                               what);
        n->graph->notice(text);
    }
}

int node_corrupt(struct node *n, GError **err, uint64_t offset,
                 const char *fmt, ...)
{
    va_list ap;
    char *what;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_node_corrupt(n->name, offset, what);
    err_set(err, EINVAL, "Image '%s' is corrupt at offset %" PRIu64 ": %s",
            n->filename ? n->filename : n->name, offset, what);
    g_free(what);
    return -EINVAL;
}
