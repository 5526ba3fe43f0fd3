/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The graph itself: its drivers, its settings, its nodes by name. */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "base/suggest.h"
#include "graph/demand.h"
#include "graph/graph-int.h"
#include "graph/memory.h"
#include "graph/model/model.h"
#include "graph/registry.h"
#include "graph/trace.h"
#include "loop/loop.h"

#define CHAIN_DEPTH_DEFAULT 4096

struct graph *graph_new(struct loop *l,
                        const struct node_driver *const *drivers)
{
    struct graph *g = g_new0(struct graph, 1);

    g->loop = l;
    g->drivers = drivers;
    g->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    g->nodes = g_ptr_array_new();
    g->devices = g_ptr_array_new();
    g->controls = g_ptr_array_new();
    g->registry = registry_new();
    graph_memory_begin(g);
    g->max_depth = CHAIN_DEPTH_DEFAULT;
    g->policy = BACKING_FOLLOW;
    return g;
}

void graph_share(struct graph *g, struct graph *with)
{
    g_assert(g->nodes->len == 0);
    registry_unref(g->registry);
    g->registry = registry_ref(with->registry);
    memory_budget_share(g->memory, with->memory);
}

bool graph_is_empty(const struct graph *g)
{
    return g->nodes->len == 0 && g->devices->len == 0;
}

void graph_set_names(struct graph *g, struct names *names, void *owner)
{
    g_assert(g->nodes->len == 0);
    g->names = names;
    g->names_owner = owner;
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
    /* Nobody needs what is still being copied. */
    if (g->detached.count > 0) {
        graph_interrupt(g);
        co_latch_co_wait(&g->detached);
    }
    g_assert(g->nodes->len == 0);
    g_assert(!g->drains);
    graph_memory_end(g);
    g_ptr_array_free(g->nodes, TRUE);
    g_ptr_array_free(g->devices, TRUE);
    demands_free(&g->demands);
    g_assert(g->controls->len == 0);
    g_ptr_array_free(g->controls, TRUE);
    g_hash_table_destroy(g->by_name);
    registry_unref(g->registry);
    g_free(g->beneath);
    g_free(g->last_notice);
    g_free(g);
}

void graph_set_events(struct graph *g,
                      void (*fn)(const char *name, json_t *data, void *arg),
                      void *arg)
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
    g->max_depth = MAX(depth, 1);
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

/* --- what others ask about a node --- */

/* A node that is still being opened cannot be used yet. */
static struct node *node_lookup(struct graph *g, const char *name)
{
    struct node *n = g_hash_table_lookup(g->by_name, name);

    return n && n->priv->ready ? n : NULL;
}

/* Which node or device was probably meant. */
static void hint_nodes(struct graph *g, const char *name, GError **err)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (unsigned i = 0; i < g->nodes->len; i++) {
        const struct node *n = g_ptr_array_index(g->nodes, i);

        if (!n->auto_named) {
            g_ptr_array_add(names, n->name);
        }
    }
    for (unsigned i = 0; i < g->devices->len; i++) {
        const struct device *d = g_ptr_array_index(g->devices, i);

        g_ptr_array_add(names, d->id);
    }
    g_ptr_array_add(names, NULL);
    near = suggest_word(name, (const char *const *)names->pdata);
    if (near) {
        err_hint(err, "Did you mean '%s'?", near);
    }
}

struct node *node_find(struct graph *g, const char *name, GError **err)
{
    struct node *n = node_lookup(g, name);

    if (!n) {
        err_set(err, ENOENT, "Cannot find device='' nor node-name='%s'", name);
        hint_nodes(g, name, err);
    }
    return n;
}

struct node *node_find_any(struct graph *g, const char *name, GError **err)
{
    struct device *d = device_find(g, name);
    struct node *n = d ? backend_node(d->backend) : node_lookup(g, name);

    if (!n && device_is_empty(g, name)) {
        err_set(err, ENOMEDIUM, "Device '%s' has no medium", name);
    } else if (!n) {
        err_set(err, ENOENT, "Cannot find device='%s' nor node-name='%s'", name,
                name);
        hint_nodes(g, name, err);
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

void graph_notice(struct graph *g, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (g->notice) {
        g->notice(text);
    }
}

int node_corrupt(struct node *n, GError **err, uint64_t offset, const char *fmt,
                 ...)
{
    va_list ap;
    char *what;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_node_corrupt(n->name, offset, what);
    err_set(err, EINVAL, "Image '%s' is corrupt at offset %" PRIu64 ": %s",
            n->filename ? n->filename : node_title(n), offset, what);
    g_free(what);
    return -EINVAL;
}
