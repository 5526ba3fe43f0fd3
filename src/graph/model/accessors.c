/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Questions about nodes and what is around them that need no other file: all of
 * graph/ asks them, so nothing here may call out of here.
 */
#include <string.h>
#include "graph/image.h"
#include "graph/model/model.h"

struct loop *graph_loop(struct graph *g)
{
    return g->loop;
}

struct device *device_find_any(struct graph *g, const char *id)
{
    for (unsigned i = 0; i < g->devices->len; i++) {
        struct device *d = g_ptr_array_index(g->devices, i);

        if ((d->backend || d->empty) && !strcmp(d->id, id)) {
            return d;
        }
    }
    return NULL;
}

struct device *device_find(struct graph *g, const char *id)
{
    struct device *d = device_find_any(g, id);

    return d && d->backend ? d : NULL;
}

bool device_is_empty(struct graph *g, const char *id)
{
    const struct device *d = device_find_any(g, id);

    return d && d->empty;
}

struct node *backend_node(const struct backend *u)
{
    return u->edge->child;
}

const char *node_name(const struct node *n)
{
    return n->name;
}

bool node_is_auto_named(const struct node *n)
{
    return n->auto_named;
}

struct graph *node_graph(const struct node *n)
{
    return n->graph;
}

uint64_t node_size(const struct node *n)
{
    return n->size;
}

const char *node_filename(const struct node *n)
{
    return n->filename;
}

const json_t *node_options(const struct node *n)
{
    return n->options;
}

unsigned node_flags(const struct node *n)
{
    return n->flags;
}

bool node_is_monitor_owned(const struct node *n)
{
    return n->monitor_owned;
}

void node_set_monitor_owned(struct node *n, bool owned)
{
    n->monitor_owned = owned;
}

bool node_is_implicit_filter(const struct node *n)
{
    return n->implicit_filter;
}

void node_set_implicit_filter(struct node *n, bool implicit)
{
    n->implicit_filter = implicit;
}

struct edge *node_first_parent(const struct node *n)
{
    return n->parents;
}

struct edge *edge_next_parent(const struct edge *e)
{
    return e->next_in_child;
}

struct node *edge_child(const struct edge *e)
{
    return e->child;
}

struct node *edge_parent(const struct edge *e)
{
    return e->parent;
}

struct backend *edge_backend(const struct edge *e)
{
    return e->backend;
}

const char *edge_name(const struct edge *e)
{
    return e->name;
}

void edge_get_perms(const struct edge *e, bool own, unsigned *ret_perm,
                    unsigned *ret_shared)
{
    *ret_perm = own ? e->own_perm : e->perm;
    *ret_shared = own ? e->own_shared : e->shared;
}

struct node *node_ref(struct node *n)
{
    n->refs++;
    return n;
}

bool node_is_writable(const struct node *n)
{
    return n->flags & NODE_RDWR;
}

bool node_is_filter(const struct node *n)
{
    return n->drv->kind == NODE_FILTER;
}

const struct node_limits *node_get_limits(const struct node *n)
{
    return &n->priv->limits;
}

struct node *node_file(const struct node *n)
{
    return n->priv->file ? n->priv->file->child : NULL;
}

const char *node_title(const struct node *n)
{
    /* While an image is being opened only its storage has a name. */
    for (const struct node *f = n; f && f->auto_named;) {
        const struct edge *e = node_child(f, "file");

        if (f->filename && *f->filename) {
            return f->filename;
        }
        f = e ? e->child : NULL;
    }
    return n->name;
}

struct edge *node_child(const struct node *n, const char *name)
{
    for (struct edge *e = n->children; e; e = e->next_in_parent) {
        if (!strcmp(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

struct node *node_filtered(const struct node *n)
{
    return node_is_filter(n) ? node_file(n) : NULL;
}

struct node *node_skip_filters(struct node *n)
{
    while (n && node_is_filter(n)) {
        n = node_file(n);
    }
    return n;
}

struct node *node_backing(struct node *n)
{
    n = node_skip_filters(n);
    return n && n->priv->backing ? n->priv->backing->child : NULL;
}

struct node *node_storage(struct node *n)
{
    while (n && n->drv->kind != NODE_PROTOCOL) {
        n = node_file(n);
    }
    return n;
}

bool node_reaches(const struct node *from, const struct node *to)
{
    if (from == to) {
        return true;
    }
    /* Along the last child without recursion: chains are long, not wide. */
    while (from && from != to) {
        const struct edge *e = from->children;

        if (!e) {
            return false;
        }
        for (; e->next_in_parent; e = e->next_in_parent) {
            if (node_reaches(e->child, to)) {
                return true;
            }
        }
        from = e->child;
    }
    return from == to;
}

char *edge_describe_parent(const struct edge *e)
{
    if (e->parent) {
        return g_strdup_printf("node '%s'", e->parent->name);
    }
    if (e->backend->ops && e->backend->ops->describe) {
        return e->backend->ops->describe(e->backend->arg);
    }
    return g_strdup(e->backend->name);
}

const char *driver_name(const struct node_driver *drv)
{
    return drv->name;
}

const char *node_driver_name(const struct node *n)
{
    return n->drv->name;
}

CO_FN_LOOKS bool node_can(const struct node *n, enum node_ability what)
{
    switch (what) {
    case NODE_CAN_HAVE_BACKING: return n->drv->supports_backing;
    case NODE_CAN_CHANGE_BACKING: return n->drv->co_change_backing;
    case NODE_CAN_SNAPSHOT: return n->drv->co_snapshot;
    case NODE_CAN_BITMAP: return n->drv->co_bitmap;
    case NODE_CAN_YANK: return n->drv->yank;
    case NODE_CAN_VIEW: return n->drv->view_offset;
    }
    g_assert_not_reached();
}

const struct create_option *driver_create_options(const struct node_driver *drv)
{
    return drv->create_options;
}

bool driver_is_storage(const struct node_driver *drv)
{
    return drv->kind == NODE_PROTOCOL;
}

bool driver_has_backing(const struct node_driver *drv)
{
    return drv->supports_backing;
}

bool driver_is_file_storage(const struct node_driver *drv)
{
    return drv->kind == NODE_PROTOCOL && !drv->name_prefixes;
}

bool driver_can_measure(const struct node_driver *drv)
{
    return drv->measure;
}

int driver_measure(const struct node_driver *drv, struct opts *o,
                   struct image_measure *ret, GError **err)
{
    return drv->measure(o, ret, err);
}

const struct stat *node_opened_as(struct node *n)
{
    struct node *storage = node_storage(n);

    for (const struct edge *e = n->children; e; e = e->next_in_parent) {
        if (strcmp(e->name, "file") != 0 && strcmp(e->name, "backing") != 0) {
            return NULL;
        }
    }
    return storage && storage->drv->opened_as ? storage->drv->opened_as(storage)
                                              : NULL;
}

bool node_was_written(const struct node *n)
{
    return n->priv->write_gen > 1; /* 1: as it was opened */
}
