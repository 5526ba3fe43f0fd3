/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Internal snapshots of a disk in use.  The image is drained while one is made
 * or deleted, this device and no other; the answer comes when it is durable.
 */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "graph/image.h"
#include "graph/node.h"

/* Does a node stand on @n? */
static bool has_parent_node(const struct node *n)
{
    for (const struct edge *e = node_first_parent(n); e;
         e = edge_next_parent(e)) {
        if (edge_parent(e) && !node_is_filter(edge_parent(e))) {
            return true;
        }
    }
    return false;
}

/* The image that @device means, if nobody stands in the way. */
static struct node *find_image(struct control *c, const char *device,
                               GError **err)
{
    struct node *n = node_find_any(c->graph, device, err), *image;

    image = n ? node_skip_filters(n) : NULL;
    if (image && has_parent_node(image)) {
        err_set(err, EINVAL, "Need a root block node");
        return NULL;
    }
    /* A job blocks its filter, too: that has the device's name. */
    return n && node_check_op(n, BLOCK_OP_SNAPSHOT, err) == 0 &&
                   node_check_op(image, BLOCK_OP_SNAPSHOT, err) == 0
               ? image
               : NULL;
}

static CO_FN json_t *snapshots_co_list(struct node *n, GError **err)
{
    json_t *info = json_object(), *list;
    int r = node_can(n, NODE_CAN_SNAPSHOT)
                ? node_co_info(n, info, err)
                : err_set(err, ENOTSUP, "Operation not supported");

    list = r == 0 ? json_incref(json_object_get(info, "snapshots")) : NULL;
    json_decref(info);
    if (r < 0) {
        err_prefix(err, "Failed to get a snapshot list");
        return NULL;
    }
    return list ? list : json_array();
}

/* The first that has @id and @name, where they are given; borrowed. */
static json_t *snapshot_find(const json_t *list, const char *id,
                             const char *name)
{
    json_t *s;
    size_t i;

    json_array_foreach(list, i, s) {
        if ((!id ||
             g_str_equal(id, json_string_value(json_object_get(s, "id")))) &&
            (!name || g_str_equal(name, json_string_value(
                                            json_object_get(s, "name"))))) {
            return s;
        }
    }
    return NULL;
}

static CO_FN int create_co_check(struct node *n, const char *device,
                                 const char *name, GError **err)
{
    json_t *list;
    bool exists;

    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Device '%s' is read only", device);
    }
    if (!node_can(n, NODE_CAN_SNAPSHOT)) {
        return err_set(err, ENOTSUP,
                       "Block format '%s' used by device '%s' "
                       "does not support internal snapshots",
                       node_driver_name(n), device);
    }
    if (!*name) {
        return err_set(err, EINVAL, "Name is empty");
    }
    list = snapshots_co_list(n, err);
    if (!list) {
        return -EIO;
    }
    exists = snapshot_find(list, NULL, name);
    json_decref(list);
    return exists ? err_set(err, EEXIST,
                            "Snapshot with name '%s' already "
                            "exists on device '%s'",
                            name, device)
                  : 0;
}

/* --- making one: an action of a transaction, too --- */

struct making {
    struct blocker *blocker;
};

static CO_FN int making_co_prepare(struct action *a, GError **err)
{
    struct making *m = a->state;
    struct node *n = find_image(a->control, arg_str(a->args, "device"), err);
    int ret;

    if (!n) {
        return -EINVAL;
    }
    a->disk = node_ref(n);
    /* Whoever changes the chain has asked the snapshots that there are. */
    m->blocker = node_block(n,
                            1u << BLOCK_OP_STREAM | 1u << BLOCK_OP_STREAM_FROM |
                                1u << BLOCK_OP_COMMIT,
                            "an internal snapshot of it is being made");
    ret = create_co_check(n, arg_str(a->args, "device"),
                          arg_str(a->args, "name"), err);
    if (ret == 0) {
        node_co_snapshot_prepare(n);
    }
    return ret;
}

static CO_FN int making_co_do(struct action *a, GError **err)
{
    const char *name = arg_str(a->args, "name");
    int r = node_co_snapshot(a->disk, SNAPSHOT_CREATE, name, err);

    if (r < 0) {
        err_prefix(err, "Failed to create snapshot '%s' on device '%s'", name,
                   arg_str(a->args, "device"));
    }
    return r;
}

static CO_FN void making_co_undo(struct action *a)
{
    (void)node_co_snapshot(a->disk, SNAPSHOT_DELETE, arg_str(a->args, "name"),
                           NULL);
}

static CO_FN void making_co_end(struct action *a, bool success)
{
    struct making *m = a->state;

    if (a->disk) {
        node_co_snapshot_tidy(a->disk);
    }
    node_unblock(m->blocker);
}

const struct action_type snapshot_internal_action = {
    .name = "blockdev-snapshot-internal-sync",
    .state_size = sizeof(struct making),
    .co_prepare = making_co_prepare,
    .co_do = making_co_do,
    .co_undo = making_co_undo,
    .co_end = making_co_end,
};

CO_FN int cmd_co_blockdev_snapshot_internal_sync(struct control *c,
                                                 const json_t *args,
                                                 json_t **ret, GError **err)
{
    return action_co_run(c, &snapshot_internal_action, args, err);
}

/* *@ret becomes the description of what is gone. */
static CO_FN int cmd_snapshot_co_delete(struct node *n, const json_t *args,
                                        json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id"), *name = arg_str(args, "name");
    json_t *list = snapshots_co_list(n, err), *s;
    int r;

    if (!list) {
        return -EIO;
    }
    s = snapshot_find(list, id, name);
    if (!s) {
        r = err_set(err, ENOENT,
                    "Snapshot with id '%s' and name '%s' does not "
                    "exist on device '%s'",
                    id ? id : "null", name ? name : "null",
                    arg_str(args, "device"));
    } else {
        r = node_co_snapshot(n, SNAPSHOT_DELETE,
                             json_string_value(json_object_get(s, "id")), err);
    }
    if (r == 0) {
        *ret = json_incref(s);
    }
    json_decref(list);
    return r;
}

CO_FN int cmd_co_blockdev_snapshot_delete_internal_sync(struct control *c,
                                                        const json_t *args,
                                                        json_t **ret,
                                                        GError **err)
{
    struct node *n = find_image(c, arg_str(args, "device"), err);
    struct blocker *deleting;
    int r;

    if (!n) {
        return -EINVAL;
    }
    if (!arg_str(args, "id") && !arg_str(args, "name")) {
        return err_set(err, EINVAL, "Name or id must be provided");
    }
    deleting = node_block(node_ref(n),
                          1u << BLOCK_OP_STREAM | 1u << BLOCK_OP_STREAM_FROM |
                              1u << BLOCK_OP_COMMIT,
                          "an internal snapshot of it is being deleted");
    r = cmd_snapshot_co_delete(n, args, ret, err);
    node_unblock(deleting);
    node_co_unref(n);
    return r;
}
