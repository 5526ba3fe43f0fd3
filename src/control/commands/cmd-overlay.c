/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * External snapshots: blockdev-snapshot, blockdev-snapshot-sync, block_switch,
 * and transactions of them.  Each is an action: it is prepared (the overlay is
 * made and opened), all are switched at one point in time, and what was made
 * for one that came to nothing is taken back.
 */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "graph/image.h"
#include "graph/node.h"
#include "graph/overlay.h"
#include "graph/reference.h"

struct action {
    struct overlay_step step;
    bool opened; /* by us: ours until it stands above the disk */
    bool made;   /* the file, too */
};

/* The disk that guests use under the name @device or @node_name. */
static struct node *find_disk(struct control *c, const char *device,
                              const char *node_name, GError **err)
{
    struct node *n = device ? node_find_any(c->graph, device, NULL)
                            : node_find(c->graph, node_name, NULL);

    if (!n) {
        err_set(err, ENOENT, "Cannot find device='%s' nor node-name='%s'",
                device ? device : "", node_name ? node_name : "");
        return NULL;
    }
    /* A job blocks its filter, too. */
    return node_check_op(n, BLOCK_OP_SNAPSHOT, err) == 0 ? node_skip_filters(n)
                                                         : NULL;
}

/* --- making and opening the overlay --- */

/* Open @file as an image without its backing file, by @format or, NULL, by
 * what it begins with. */
static CO_FN int overlay_co_open(struct action *a, const char *file,
                                 const char *format, const char *node_name,
                                 GError **err)
{
    struct graph *g = a->step.disk->graph;
    const unsigned inherited = NODE_CACHE_DIRECT | NODE_NO_FLUSH;
    unsigned flags = NODE_RDWR | (a->step.disk->flags & inherited);
    json_t *o = json_pack("{s:s, s:n}", "filename", file, "backing");
    const struct node_driver *drv = NULL;
    int r = 0;

    if (!format) {
        json_object_del(o, "backing");
        r = image_co_probe(g, o, flags, "Parameter 'format'", &drv, err);
        json_object_set_new(o, "backing", json_null());
        format = drv ? driver_name(drv) : "raw";
    }
    json_object_set_new(o, "driver", json_string(format));
    if (node_name) {
        json_object_set_new(o, "node-name", json_string(node_name));
    }
    if (r == 0) {
        r = node_co_open(g, o, flags, &a->step.overlay, err);
    }
    json_decref(o);
    a->opened = r == 0;
    return r;
}

/* Write into the new overlay's header what it is going to stand on. */
static CO_FN int overlay_co_name_disk(const struct overlay_step *s,
                                      GError **err)
{
    g_autofree char *name = NULL;
    const char *fmt = NULL;
    int r = reference_co_make(s->overlay, s->overlay, s->disk, &name, &fmt,
                              err);

    return r < 0 ? r : node_co_change_backing(s->overlay, name, fmt, err);
}

static CO_FN int overlay_co_make(struct action *a, const char *file,
                                 const char *format, const char *node_name,
                                 GError **err)
{
    struct graph *g = a->step.disk->graph;
    const struct node_driver *drv = graph_find_driver(g, format);
    json_t *o;
    int r;

    if (!drv || !driver_create_options(drv)) {
        return err_set(err, EINVAL, "Unknown file format '%s'", format);
    }
    if (!driver_has_backing(drv)) {
        return err_set(err, EINVAL,
                       "The overlay does not support backing images");
    }
    o = json_pack("{s:I}", "size", (json_int_t)a->step.disk->size);
    r = image_co_create(g, drv, file, o, err);
    json_decref(o);
    if (r < 0) {
        return r;
    }
    a->made = true;
    r = overlay_co_open(a, file, format, node_name, err);
    return r < 0 ? r : overlay_co_name_disk(&a->step, err);
}

/* --- the actions --- */

static CO_FN int action_co_snapshot(struct control *c, const json_t *args,
                                    struct action *a, GError **err)
{
    const char *node = arg_str(args, "node");
    const char *overlay = arg_str(args, "overlay");

    a->step.disk = find_disk(c, node, node, err);
    if (!a->step.disk) {
        return -ENOENT;
    }
    a->step.overlay = node_find_any(c->graph, overlay, err);
    return a->step.overlay ? 0 : -ENOENT;
}

static CO_FN int action_co_snapshot_sync(struct control *c, const json_t *args,
                                         struct action *a, GError **err)
{
    const char *device = arg_str(args, "device");
    const char *node_name = arg_str(args, "node-name");
    const char *file = arg_str(args, "snapshot-file");
    const char *format = arg_str(args, "format");
    const char *new_name = arg_str(args, "snapshot-node-name");

    format = format ? format : "qcow2";
    if (node_name && !new_name) {
        return err_set(err, EINVAL, "New overlay node-name missing");
    }
    if (new_name && node_find_any(c->graph, new_name, NULL)) {
        return err_set(err, EEXIST, "New overlay node-name already in use");
    }
    a->step.disk = find_disk(c, device, node_name, err);
    if (!a->step.disk) {
        return -ENOENT;
    }
    return g_strcmp0(arg_str(args, "mode"), "existing") == 0
               ? overlay_co_open(a, file, format, new_name, err)
               : overlay_co_make(a, file, format, new_name, err);
}

static CO_FN int action_co_prepare(struct control *c, const json_t *action,
                                   struct action *a, GError **err)
{
    const char *type = arg_str(action, "type");
    const json_t *data = json_object_get(action, "data");
    const struct schema_command *command = schema_find_command(type);
    int r = command ? schema_check(command->args, data, err) : 0;

    if (r < 0) {
        return r;
    }
    if (g_str_equal(type, "blockdev-snapshot")) {
        return action_co_snapshot(c, data, a, err);
    }
    if (g_str_equal(type, "blockdev-snapshot-sync")) {
        return action_co_snapshot_sync(c, data, a, err);
    }
    return err_set(err, ECANCELED, "Transaction aborted using Abort action");
}

/* What was opened for it is the graph's now, or goes. */
static CO_FN void action_co_end(struct action *a, bool done)
{
    if (a->made && !done && a->step.overlay) {
        (void)node_co_unlink(a->step.overlay, NULL);
    }
    if (a->opened) {
        node_co_unref(a->step.overlay);
    }
}

static CO_FN int actions_co_switch(struct action *actions, unsigned n,
                                   GError **err)
{
    g_autofree struct overlay_step *steps = g_new0(struct overlay_step, n);
    int r;

    for (unsigned i = 0; i < n; i++) {
        steps[i] = actions[i].step;
        node_ref(steps[i].disk);
        node_ref(steps[i].overlay);
    }
    r = overlays_co_put(steps, n, err);
    for (unsigned i = 0; i < n; i++) {
        node_co_unref(steps[i].overlay);
        node_co_unref(steps[i].disk);
    }
    return r;
}

/* Two actions of one disk: the second would stand on what the first makes. */
static int actions_check(const struct action *actions, unsigned n, GError **err)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < i; k++) {
            if (actions[i].step.disk == actions[k].step.disk ||
                actions[i].step.overlay == actions[k].step.overlay) {
                return err_set(err, EBUSY,
                               "Two actions of the transaction use node '%s'",
                               actions[i].step.disk == actions[k].step.disk
                                   ? actions[i].step.disk->name
                                   : actions[i].step.overlay->name);
            }
        }
    }
    return 0;
}

/* @list: TransactionAction, checked. */
static CO_FN int actions_co_run(struct control *c, const json_t *list,
                                GError **err)
{
    unsigned n = (unsigned)json_array_size(list);
    g_autofree struct action *actions = g_new0(struct action, n);
    int r = 0;

    for (unsigned i = 0; i < n && r == 0; i++) {
        r = action_co_prepare(c, json_array_get(list, i), &actions[i], err);
    }
    if (r == 0) {
        r = actions_check(actions, n, err);
    }
    if (r == 0) {
        r = actions_co_switch(actions, n, err);
    }
    for (unsigned i = n; i-- > 0;) {
        action_co_end(&actions[i], r == 0);
    }
    return r;
}

static CO_FN int action_co_run_alone(struct control *c, const char *type,
                                     const json_t *args, GError **err)
{
    json_t *list = json_pack("[{s:s, s:O}]", "type", type, "data", args);
    int r = actions_co_run(c, list, err);

    json_decref(list);
    return r;
}

CO_FN int cmd_co_blockdev_snapshot(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    return action_co_run_alone(c, "blockdev-snapshot", args, err);
}

CO_FN int cmd_co_blockdev_snapshot_sync(struct control *c, const json_t *args,
                                        json_t **ret, GError **err)
{
    return action_co_run_alone(c, "blockdev-snapshot-sync", args, err);
}

CO_FN int cmd_co_transaction(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    return actions_co_run(c, json_object_get(args, "actions"), err);
}

/* --- block_switch --- */

/* Does the header of the overlay name the disk? */
static bool names_disk(const struct overlay_step *s)
{
    const char *name = node_header_backing(s->overlay, NULL);
    g_autofree char *dir = NULL, *path = NULL, *want = NULL;

    if (!name || !s->disk->filename || !s->overlay->filename) {
        return false;
    }
    dir = g_path_get_dirname(s->overlay->filename);
    path = g_canonicalize_filename(name, dir);
    want = g_canonicalize_filename(s->disk->filename, NULL);
    return g_str_equal(path, want) || g_str_equal(name, s->disk->filename);
}

CO_FN int cmd_co_block_switch(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    const char *image = arg_str(args, "image");
    struct action a = { .step.disk = find_disk(c, arg_str(args, "device"), NULL,
                                               err) };
    int r;

    if (!a.step.disk) {
        return -ENOENT;
    }
    r = overlay_co_open(&a, image, arg_str(args, "format"), NULL, err);
    if (r == 0 && !names_disk(&a.step)) {
        r = err_set(err, EINVAL,
                    "'%s' does not have '%s', the image in use, as its "
                    "backing file",
                    image, a.step.disk->filename);
    }
    if (r == 0) {
        r = actions_co_switch(&a, 1, err);
    }
    action_co_end(&a, r == 0);
    return r;
}
