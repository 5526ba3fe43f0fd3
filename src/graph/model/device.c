/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices: stable names of backends whose node may change below them. */
#include <string.h>
#include "base/err.h"
#include "base/names.h"
#include "base/text.h"
#include "graph/model/model.h"

static char *device_describe(void *arg)
{
    struct device *d = arg;

    return g_strdup_printf("block device '%s'", d->id);
}

static const struct backend_ops device_backend_ops = {
    .describe = device_describe,
};

/* Is the id free, here and in all graphs? Then it is taken. */
static int device_take_id(struct graph *g, const char *id, GError **err)
{
    if (!text_is_id(id)) {
        return err_set(err, EINVAL, "Invalid device name '%s'", id);
    }
    if (device_find(g, id) || device_is_empty(g, id)) {
        return err_set(err, EEXIST, "Device with id '%s' already exists", id);
    }
    if (g_hash_table_lookup(g->by_name, id)) {
        return err_set(err, EEXIST,
                       "Device name '%s' conflicts with an existing node name",
                       id);
    }
    if (!names_take(g->names, NAME_BLOCK, id, g->names_owner)) {
        return err_set(err, EEXIST, "Device with id '%s' already exists", id);
    }
    return 0;
}

static struct device *device_register(struct graph *g, const char *id)
{
    struct device *d = g_new0(struct device, 1);

    d->id = g_strdup(id);
    d->graph = g;
    g_ptr_array_add(g->devices, d);
    return d;
}

int device_new_empty(struct graph *g, const char *id, GError **err)
{
    int ret = device_take_id(g, id, err);
    struct device *d;

    if (ret == 0) {
        d = device_register(g, id);
        d->empty = d->removable = true;
    }
    return ret;
}

/* Those that do I/O (exports) have backends of their own. */
static CO_FN int device_co_use(struct device *d, struct node *n, GError **err)
{
    return backend_co_new(n, "root", PERM_CONSISTENT_READ, PERM_ALL,
                          &device_backend_ops, d, &d->backend, err);
}

int device_co_new(struct graph *g, const char *id, struct node *n,
                  struct device **ret_dev, GError **err)
{
    struct device *d;
    int ret = device_take_id(g, id, err);

    if (ret < 0) {
        return ret;
    }
    d = device_register(g, id);
    ret = device_co_use(d, n, err);
    if (ret < 0) {
        device_co_free(d);
        return ret;
    }
    *ret_dev = d;
    return 0;
}

void device_co_free(struct device *d)
{
    if (d) {
        g_ptr_array_remove(d->graph->devices, d);
        names_drop(d->graph->names, NAME_BLOCK, d->id, d->graph->names_owner);
        backend_co_free(d->backend);
        g_free(d->id);
        g_free(d);
    }
}

struct device *device_of_node(struct node *n)
{
    struct graph *g = n->graph;

    for (unsigned i = 0; i < g->devices->len; i++) {
        struct device *d = g_ptr_array_index(g->devices, i);
        struct node *at = d->backend ? backend_node(d->backend) : NULL;

        while (at && at != n && node_is_filter(at)) {
            at = node_file(at);
        }
        if (at == n) {
            return d;
        }
    }
    return NULL;
}

void graph_foreach_device(struct graph *g,
                          void (*fn)(struct device *d, void *arg), void *arg)
{
    for (unsigned i = 0; i < g->devices->len; i++) {
        struct device *d = g_ptr_array_index(g->devices, i);

        if (d->backend || d->empty) {
            fn(d, arg);
        }
    }
}

struct device *device_find_removable(struct graph *g, const char *id)
{
    for (unsigned i = 0; i < g->devices->len; i++) {
        struct device *d = g_ptr_array_index(g->devices, i);

        if (d->removable && strcmp(d->id, id) == 0) {
            return d;
        }
    }
    return NULL;
}

CO_FN int device_co_set_medium(struct device *d, struct node *n, GError **err)
{
    struct node *old = d->empty ? NULL : node_ref(backend_node(d->backend));
    int ret;

    if (!old) {
        ret = device_co_use(d, n, err);
        d->empty = ret < 0;
        return ret;
    }
    ret = node_co_replace(old, n, NULL, err);
    node_co_unref(old);
    return ret;
}
