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
#include "control/commands/new-image.h"
#include "control/control-int.h"
#include "graph/node.h"
#include "graph/overlay.h"

struct action {
    struct overlay_step step;
    struct new_image image; /* ours until it stands above the disk */
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
    const char *format = arg_str(args, "format");
    const char *new_name = arg_str(args, "snapshot-node-name");
    const struct new_image_spec spec = {
        .file = arg_str(args, "snapshot-file"),
        .format = format ? format : "qcow2",
        .node_name = new_name,
    };
    int r;

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
    r = g_strcmp0(arg_str(args, "mode"), "existing") == 0
            ? new_image_co_open(a->step.disk, &spec, &a->image, err)
            : new_image_co_make(a->step.disk, &spec, a->step.disk, "overlay",
                                &a->image, err);
    a->step.overlay = a->image.node;
    return r;
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
        new_image_co_end(&actions[i].image, r == 0);
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
    const struct new_image_spec spec = { .file = arg_str(args, "image"),
                                         .format = arg_str(args, "format") };
    struct action a = { .step.disk = find_disk(c, arg_str(args, "device"), NULL,
                                               err) };
    int r;

    if (!a.step.disk) {
        return -ENOENT;
    }
    r = new_image_co_open(a.step.disk, &spec, &a.image, err);
    a.step.overlay = a.image.node;
    if (r == 0 && !names_disk(&a.step)) {
        r = err_set(err, EINVAL,
                    "'%s' does not have '%s', the image in use, as its "
                    "backing file",
                    spec.file, a.step.disk->filename);
    }
    if (r == 0) {
        r = actions_co_switch(&a, 1, err);
    }
    new_image_co_end(&a.image, r == 0);
    return r;
}
