/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * External snapshots: blockdev-snapshot, blockdev-snapshot-sync, block_switch.
 * Each is an action of a transaction: it is prepared (the overlay is made and
 * opened), all are switched at one point in time, and what was made for one
 * that came to nothing is taken back.
 */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/new-image.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "graph/node.h"
#include "graph/overlay.h"

struct switching {
    struct overlay_step step;
    struct new_image image; /* ours until it stands above the disk */
};

/* The disk that guests use under the name @device or @node_name. */
static struct node *find_disk(struct control *c, const char *device,
                              const char *node_name, GError **err)
{
    struct node *n = device      ? node_find_any(c->graph, device, NULL)
                     : node_name ? node_find(c->graph, node_name, NULL)
                                 : NULL;

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

static CO_FN int snapshot_co_prepare(struct action *action, GError **err)
{
    struct control *c = action->control;
    struct switching *a = action->state;
    const char *node = arg_str(action->args, "node");
    const char *overlay = arg_str(action->args, "overlay");

    a->step.disk = find_disk(c, node, node, err);
    if (!a->step.disk) {
        return -ENOENT;
    }
    action->disk = node_ref(a->step.disk);
    a->step.overlay = node_find_any(c->graph, overlay, err);
    if (!a->step.overlay) {
        return -ENOENT;
    }
    overlays_co_prepare(&a->step, 1);
    return 0;
}

static CO_FN int snapshot_sync_co_prepare(struct action *action, GError **err)
{
    struct control *c = action->control;
    struct switching *a = action->state;
    const json_t *args = action->args;
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
    action->disk = node_ref(a->step.disk);
    r = g_strcmp0(arg_str(args, "mode"), "existing") == 0
            ? new_image_co_open(a->step.disk, &spec, &a->image, err)
            : new_image_co_make(a->step.disk, &spec, a->step.disk, "overlay",
                                &a->image, err);
    a->step.overlay = a->image.node;
    if (r == 0) {
        overlays_co_prepare(&a->step, 1);
    }
    return r;
}

/* --- the switch --- */

/* Two actions of one disk: the second would stand on what the first makes. */
static int steps_check(const struct overlay_step *steps, unsigned n,
                       GError **err)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < i; k++) {
            if (steps[i].disk == steps[k].disk ||
                steps[i].overlay == steps[k].overlay) {
                return err_set(err, EBUSY,
                               "Two actions of the transaction use node '%s'",
                               steps[i].disk == steps[k].disk
                                   ? node_name(steps[i].disk)
                                   : node_name(steps[i].overlay));
            }
        }
    }
    return 0;
}

static CO_FN int steps_co_switch(const struct overlay_step *steps, unsigned n,
                                 GError **err)
{
    int r = steps_check(steps, n, err);

    if (r < 0) {
        return r;
    }
    for (unsigned i = 0; i < n; i++) {
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

static CO_FN int snapshots_co_switch(struct action *actions, unsigned n,
                                     GError **err)
{
    g_autofree struct overlay_step *steps = g_new0(struct overlay_step, n);
    unsigned k = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct switching *a = actions[i].state;

        if (actions[i].type->co_do_together == snapshots_co_switch) {
            steps[k++] = a->step;
        }
    }
    return k > 0 ? steps_co_switch(steps, k, err) : 0;
}

static CO_FN void snapshot_co_commit(struct action *action)
{
    struct switching *a = action->state;

    overlays_co_finish(&a->step, 1);
}

/* What was opened for it is the graph's now, or goes. */
static CO_FN void snapshot_co_end(struct action *action, bool success)
{
    struct switching *a = action->state;

    new_image_co_end(&a->image, success);
}

const struct action_type snapshot_action = {
    .name = "blockdev-snapshot",
    .state_size = sizeof(struct switching),
    .co_prepare = snapshot_co_prepare,
    .co_do_together = snapshots_co_switch,
    .co_commit = snapshot_co_commit,
    .co_end = snapshot_co_end,
};

const struct action_type snapshot_sync_action = {
    .name = "blockdev-snapshot-sync",
    .state_size = sizeof(struct switching),
    .co_prepare = snapshot_sync_co_prepare,
    .co_do_together = snapshots_co_switch,
    .co_commit = snapshot_co_commit,
    .co_end = snapshot_co_end,
};

CO_FN int cmd_co_blockdev_snapshot(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    return action_co_run(c, &snapshot_action, args, err);
}

CO_FN int cmd_co_blockdev_snapshot_sync(struct control *c, const json_t *args,
                                        json_t **ret, GError **err)
{
    return action_co_run(c, &snapshot_sync_action, args, err);
}

/* --- block_switch --- */

/* Does the header of the overlay name the disk? */
static bool names_disk(const struct overlay_step *s)
{
    const char *name = node_header_backing(s->overlay, NULL);
    g_autofree char *overlay = NULL, *dir = NULL, *path = NULL, *want = NULL;

    if (!name || !node_filename(s->disk) || !node_filename(s->overlay)) {
        return false;
    }
    overlay = g_canonicalize_filename(node_filename(s->overlay), NULL);
    dir = g_path_get_dirname(overlay);
    path = g_canonicalize_filename(name, dir);
    want = g_canonicalize_filename(node_filename(s->disk), NULL);
    return g_str_equal(path, want) || g_str_equal(name, node_filename(s->disk));
}

CO_FN int cmd_co_block_switch(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    const struct new_image_spec spec = { .file = arg_str(args, "image"),
                                         .format = arg_str(args, "format") };
    struct switching a = { .step.disk = find_disk(c, arg_str(args, "device"),
                                                  NULL, err) };
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
                    spec.file, node_filename(a.step.disk));
    }
    if (r == 0) {
        node_ref(a.step.disk);
        overlays_co_prepare(&a.step, 1);
        r = steps_co_switch(&a.step, 1, err);
        if (r == 0) {
            overlays_co_finish(&a.step, 1);
        }
        node_co_unref(a.step.disk);
    }
    new_image_co_end(&a.image, r == 0);
    return r;
}
