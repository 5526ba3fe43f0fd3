/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The export table.
 *
 * An export holds one reference on itself from its creation until someone
 * removes it, and one for each client.  Removal is in two steps: it leaves the
 * reach of new clients at once (->shutting_down), and is deleted, by a
 * coroutine of its own, when the last reference goes.  While an export is
 * being created it stands in the table as ->starting: its id is taken, nothing
 * else may touch it.
 */
#include "export/export.h"
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "base/names.h"
#include "base/text.h"
#include "export/export-int.h"
#include "export/nbd/hub.h"
#include "export/nbd/nbd-int.h"
#include "export/trace.h"
#include "graph/io.h"
#include "loop/loop.h"

/* How long block-export-del waits for clients it has thrown out, so that the
 * node is free when the command returns.  Deletion goes on beyond it. */
#define DELETE_WAIT_NS (2 * 1000 * 1000 * 1000ull)

struct exports *
exports_new(struct graph *g,
            void (*event)(const char *name, json_t *data, void *arg), void *arg)
{
    struct exports *es = g_new0(struct exports, 1);

    es->graph = g;
    es->event = event;
    es->event_arg = arg;
    es->list = g_ptr_array_new();
    es->hub = nbd_hub_new();
    return es;
}

void exports_share(struct exports *es, struct exports *with)
{
    g_assert(es->list->len == 0 && !es->nbd);
    nbd_hub_unref(es->hub);
    es->hub = nbd_hub_ref(with->hub);
}

void exports_set_names(struct exports *es, struct names *names, void *owner)
{
    es->names = names;
    es->names_owner = owner;
}

void exports_free(struct exports *es)
{
    if (!es) {
        return;
    }
    g_assert(es->list->len == 0 && !es->nbd);
    g_assert(!es->arriving);
    nbd_hub_unref(es->hub);
    g_ptr_array_free(es->list, TRUE);
    g_free(es);
}

void exports_arrived(struct exports *es)
{
    (void)!g_atomic_int_dec_and_test(&es->arriving);
    co_queue_wake_all(&es->gone);
}

/* @e has been deleted, or could not be made. */
static void exports_forget(struct exports *es, struct export *e)
{
    g_ptr_array_remove(es->list, e);
    names_drop(es->names, NAME_EXPORT, e->id, es->names_owner);
}

static struct export *exports_find(struct exports *es, const char *id)
{
    for (guint i = 0; i < es->list->len; i++) {
        struct export *e = g_ptr_array_index(es->list, i);
        if (strcmp(e->id, id) == 0) {
            return e;
        }
    }
    return NULL;
}

/* --- references and deletion --- */

void export_ref(struct export *e)
{
    g_assert(e->refs > 0);
    e->refs++;
}

static CO_FN void export_delete_entry(void *arg)
{
    struct export *e = arg;
    struct exports *es = e->exports;
    struct backend *u = e->backend;

    trace_export_delete(e->id);
    e->drv->co_delete(e);
    e->backend = NULL; /* nobody may look through it while it goes */
    backend_co_free(u);
    exports_forget(es, e);
    if (es->event) {
        json_t *data = json_pack("{s:s}", "id", e->id);
        es->event("BLOCK_EXPORT_DELETED", data, es->event_arg);
        json_decref(data);
    }
    g_free(e->id);
    g_free(e);
    co_queue_wake_all(&es->gone);
}

void export_unref(struct export *e)
{
    g_assert(e->refs > 0);
    if (--e->refs == 0) {
        g_assert(e->shutting_down);
        co_start(graph_loop(e->exports->graph), export_delete_entry, e);
    }
}

void export_begin_delete(struct export *e)
{
    if (e->shutting_down) {
        return;
    }
    e->shutting_down = true;
    e->drv->request_shutdown(e);
    export_unref(e);
}

/* --- creation --- */

static char *export_describe_backend(void *arg)
{
    struct export *e = arg;

    return g_strdup_printf("block export '%s'", e->id);
}

static const struct backend_ops export_backend_ops = {
    .describe = export_describe_backend,
};

struct export_args {
    int type;
    char *id, *node_name;
    bool writable, writethrough;
};

static void export_args_done(struct export_args *a)
{
    g_free(a->id);
    g_free(a->node_name);
}

/* A missing string is an error. */
static int take_required(struct opts *o, const char *name, char **ret,
                         GError **err)
{
    int taken = opts_take_str(o, name, ret, err);

    return taken == 0 ? opts_missing(name, err) : taken;
}

static int export_take_type(struct opts *o, int *ret, GError **err)
{
    const char *names[8];
    unsigned n = 0;
    int taken;

    for (; export_drivers[n]; n++) {
        g_assert(n + 1 < G_N_ELEMENTS(names));
        names[n] = export_drivers[n]->type;
    }
    names[n] = NULL;
    taken = opts_take_enum(o, "type", names, ret, err);
    return taken == 0 ? opts_missing("type", err) : taken;
}

static int export_id_in_use(const char *id, GError **err)
{
    return err_set(err, EEXIST, "Block export id '%s' is already in use", id);
}

static int export_take_args(struct exports *es, struct opts *o,
                            struct export_args *a, GError **err)
{
    if (export_take_type(o, &a->type, err) < 0 ||
        take_required(o, "id", &a->id, err) < 0 ||
        take_required(o, "node-name", &a->node_name, err) < 0 ||
        opts_take_bool(o, "writable", &a->writable, err) < 0 ||
        opts_take_bool(o, "writethrough", &a->writethrough, err) < 0) {
        return -EINVAL;
    }
    if (!text_is_id(a->id)) {
        return err_set(err, EINVAL, "Invalid block export id");
    }
    if (exports_find(es, a->id)) {
        return export_id_in_use(a->id, err);
    }
    return 0;
}

/* By node name, as QEMU's tools give it, or by the id of a device. */
static struct node *export_find_node(struct graph *g, const char *name,
                                     GError **err)
{
    struct device *d = device_find(g, name);

    if (device_is_empty(g, name)) {
        err_set(err, ENOMEDIUM, "Device '%s' has no medium", name);
        return NULL;
    }
    return d ? backend_node(d->backend) : node_find(g, name, err);
}

static CO_FN int export_co_start(struct export *e, struct node *n,
                                 struct opts *o, GError **err)
{
    unsigned perm = PERM_CONSISTENT_READ | (e->writable ? PERM_WRITE : 0);
    int ret = backend_co_new(n, e->id, perm, PERM_ALL, &export_backend_ops, e,
                             &e->backend, err);

    if (ret < 0) {
        return ret;
    }
    ret = e->drv->co_create(e, o, err);
    if (ret >= 0) {
        ret = opts_finish(o, err);
        if (ret < 0) {
            e->drv->co_delete(e);
        }
    }
    if (ret < 0) {
        backend_co_free(e->backend);
    }
    return ret;
}

static CO_FN int exports_co_add_opts(struct exports *es, struct opts *o,
                                     struct export_args *a, GError **err)
{
    const struct export_driver *drv;
    struct export *e;
    struct node *n;
    int ret = export_take_args(es, o, a, err);

    if (ret < 0) {
        return ret;
    }
    n = export_find_node(es->graph, a->node_name, err);
    if (!n) {
        return -ENODEV;
    }
    if (a->writable && !node_is_writable(n)) {
        return err_set(err, EACCES, "Cannot export read-only node as writable");
    }
    if (!names_take(es->names, NAME_EXPORT, a->id, es->names_owner)) {
        return export_id_in_use(a->id, err);
    }
    drv = export_drivers[a->type];
    e = g_malloc0(drv->export_size);
    e->id = g_strdup(a->id);
    e->drv = drv;
    e->exports = es;
    e->writable = a->writable;
    e->writethrough = a->writethrough;
    e->refs = 1;
    e->starting = true;
    g_ptr_array_add(es->list, e);
    node_ref(n); /* it might go while backend_co_new() waits for the graph */
    ret = export_co_start(e, n, o, err);
    node_co_unref(n);
    if (ret < 0) {
        exports_forget(es, e);
        g_free(e->id);
        g_free(e);
        co_queue_wake_all(&es->gone);
        return ret;
    }
    e->starting = false;
    if (drv->ready) {
        drv->ready(e);
    }
    trace_export_add(e->id, drv->type, a->node_name, e->writable);
    return 0;
}

int exports_co_add(struct exports *es, const json_t *options, GError **err)
{
    struct opts *o = opts_new(options);
    struct export_args a = { 0 };
    int ret = exports_co_add_opts(es, o, &a, err);

    export_args_done(&a);
    opts_free(o);
    return ret;
}

/* --- removal --- */

int exports_co_del(struct exports *es, const char *id, bool hard, GError **err)
{
    struct export *e = exports_find(es, id);
    uint64_t deadline;

    if (!e || e->starting) {
        return err_set(err, ENOENT, "Export '%s' is not found", id);
    }
    if (e->shutting_down) {
        return err_set(err, EBUSY, "Export '%s' is already shutting down", id);
    }
    if (!hard && e->refs > 1) {
        err_set(err, EBUSY, "export '%s' still in use", id);
        err_hint(err, "Use mode='hard' to force client disconnect");
        return -EBUSY;
    }
    export_begin_delete(e);
    deadline = loop_clock_ns(graph_loop(es->graph)) + DELETE_WAIT_NS;
    while (g_ptr_array_find(es->list, e, NULL) &&
           co_queue_co_wait_until(&es->gone, deadline)) {
        continue;
    }
    return 0;
}

bool exports_are_any(const struct exports *es)
{
    return es->list->len > 0;
}

static bool exports_any(struct exports *es, const struct export_driver *drv)
{
    for (guint i = 0; i < es->list->len; i++) {
        struct export *e = g_ptr_array_index(es->list, i);
        if (!drv || e->drv == drv) {
            return true;
        }
    }
    return false;
}

void exports_co_delete_all(struct exports *es, const struct export_driver *drv)
{
    while (exports_any(es, drv)) {
        for (guint i = 0; i < es->list->len; i++) {
            struct export *e = g_ptr_array_index(es->list, i);
            if ((!drv || e->drv == drv) && !e->starting) {
                export_begin_delete(e);
            }
        }
        co_queue_co_wait(&es->gone);
    }
}

void exports_co_shutdown(struct exports *es)
{
    if (nbd_server_is_home(es)) {
        (void)nbd_server_begin_end(es, NULL);
        nbd_server_co_end(es);
    } else {
        nbd_server_co_leave(es);
    }
    exports_co_delete_all(es, NULL);
    while (g_atomic_int_get(&es->arriving)) {
        co_queue_co_wait(&es->gone);
    }
}

json_t *exports_describe(struct exports *es)
{
    json_t *list = json_array();

    for (guint i = 0; i < es->list->len; i++) {
        struct export *e = g_ptr_array_index(es->list, i);
        if (e->starting || !e->backend) {
            continue;
        }
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:s, s:s}", "node-name",
                                        node_name(backend_node(e->backend)),
                                        "shutting-down", e->shutting_down,
                                        "type", e->drv->type, "id", e->id));
    }
    return list;
}
