/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening, closing and changing nodes. */
#include <string.h>

#include "base/err.h"
#include "base/names.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "control/iothread.h"
#include "control/journal/journal.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/reference.h"

/* The loop that it names is the one that runs this. Owned. */
static json_t *without_iothread(const json_t *options)
{
    json_t *rest = json_copy((json_t *)options);

    json_object_del(rest, "iothread");
    return rest;
}

CO_FN int cmd_co_blockdev_add(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    json_t *options;
    struct node *n;
    int r;

    if (!arg_str(args, "node-name")) {
        return err_set(err, EINVAL,
                       "'node-name' must be specified for the root node");
    }
    options = without_iothread(args);
    r = node_co_open(c->graph, options, NODE_RDWR, &n, err);
    json_decref(options);
    if (r < 0) {
        return r;
    }
    node_set_monitor_owned(n, true);
    journal_co_retry(c->journal);
    return 0;
}

static struct node *find_named(struct control *c, const char *name,
                               GError **err)
{
    struct node *n = node_find(c->graph, name, NULL);

    if (!n) {
        err_set(err, ENOENT, "Failed to find node with node-name='%s'", name);
    }
    return n;
}

CO_FN int cmd_co_blockdev_del(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    struct node *n = find_named(c, arg_str(args, "node-name"), err);
    int r;

    if (!n) {
        return -ENOENT;
    }
    r = node_check_deletable(n, err);
    if (r < 0) {
        return r;
    }
    node_set_monitor_owned(n, false);
    node_co_unref(n);
    return 0;
}

CO_FN int cmd_co_blockdev_reopen(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    const json_t *given = json_object_get(args, "options"), *one;
    json_t *list = json_array();
    size_t i;
    int r;

    json_array_foreach(given, i, one) {
        json_array_append_new(list, without_iothread(one));
    }
    r = nodes_co_reopen(c->graph, list, err);
    json_decref(list);
    return r;
}

/* Give @image's header another backing name; it must be writable for that. */
static CO_FN int backing_co_rewrite(struct node *image, const char *name,
                                    GError **err)
{
    bool was_read_only = !node_is_writable(image);
    const char *fmt = NULL;
    g_autofree char *kept = NULL;
    int r;

    node_header_backing(image, &fmt);
    kept = g_strdup(fmt);
    if (*name) {
        r = reference_co_check(image, name, kept, node_backing(image), err);
        if (r < 0) {
            return r;
        }
    }
    if (was_read_only) {
        r = node_co_set_read_only(image, false, err);
        if (r < 0) {
            return r;
        }
    }
    r = node_co_change_backing(image, *name ? name : NULL, *name ? kept : NULL,
                               err);
    if (was_read_only) {
        (void)node_co_set_read_only(image, true, NULL);
    }
    return r;
}

CO_FN int cmd_co_change_backing_file(struct control *c, const json_t *args,
                                     json_t **ret, GError **err)
{
    struct node *top = node_find_any(c->graph, arg_str(args, "device"), err);
    struct node *image;
    int r;

    if (!top) {
        return -ENOENT;
    }
    image = node_find(c->graph, arg_str(args, "image-node-name"), err);
    if (!image) {
        return -ENOENT;
    }
    if (!node_chain_contains(top, image)) {
        return err_set(err, EINVAL,
                       "'%s' and image file are not in the same chain",
                       arg_str(args, "device"));
    }
    if (!node_header_backing(image, NULL) ||
        !node_can(image, NODE_CAN_CHANGE_BACKING)) {
        return err_set(err, EINVAL,
                       "not allowing backing file change on an "
                       "image without a backing file");
    }
    r = node_check_op(image, BLOCK_OP_CHANGE, err);
    if (r < 0) {
        return r;
    }
    node_ref(image);
    r = backing_co_rewrite(image, arg_str(args, "backing-file"), err);
    node_co_unref(image);
    return r;
}

static struct node *find_resized(struct control *c, const json_t *args,
                                 GError **err)
{
    const char *device = arg_str(args, "device");
    const char *name = arg_str(args, "node-name");
    struct device *d = device ? device_find(c->graph, device) : NULL;
    struct node *n = d        ? backend_node(d->backend)
                     : name   ? node_find(c->graph, name, NULL)
                     : device ? node_find(c->graph, device, NULL)
                              : NULL;

    if (!n) {
        err_set(err, ENOENT, "Cannot find device='%s' nor node-name='%s'",
                device ? device : "", name ? name : "");
    }
    return n;
}

CO_FN int cmd_co_block_resize(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    int64_t size = arg_int(args, "size", 0);
    struct node *n = find_resized(c, args, err);

    if (!n) {
        return -ENOENT;
    }
    if (size < 0) {
        return err_set(err, EINVAL, "Parameter 'size' expects a >0 size");
    }
    return node_co_resize(n, "block_resize", (uint64_t)size, err);
}

CO_FN int cmd_co_block_set_write_threshold(struct control *c,
                                           const json_t *args, json_t **ret,
                                           GError **err)
{
    const char *name = arg_str(args, "node-name");
    struct node *n = node_find(c->graph, name, NULL);

    if (!n) {
        return err_set(err, ENOENT, "Device '%s' not found", name);
    }
    node_set_write_threshold(n, (uint64_t)arg_int(args, "write-threshold", 0));
    return 0;
}

/* --- what only other daemons have --- */

CO_FN int cmd_co_x_blockdev_change(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    const char *child = arg_str(args, "child"), *node = arg_str(args, "node");
    struct node *parent = node_find_any(c->graph, arg_str(args, "parent"), err);

    if (!parent) {
        return -ENOENT;
    }
    if (!child == !node) {
        return err_set(err, EINVAL,
                       child ? "The parameters child and node are in conflict"
                             : "Either child or node must be specified");
    }
    if (child && !node_child(parent, child)) {
        return err_set(err, ENOENT, "Node '%s' does not have child '%s'",
                       arg_str(args, "parent"), child);
    }
    if (node && !node_find(c->graph, node, NULL)) {
        return err_set(err, ENOENT, "Node '%s' not found", node);
    }
    return err_set(err, ENOTSUP, "The node %s does not support %s a child",
                   node_name(parent), child ? "removing" : "adding");
}

static CO_FN int set_iothread_co_find(struct control *c, const json_t *args,
                                      json_t **ret, GError **err)
{
    return find_named(c, arg_str(args, "node-name"), err) ? 0 : -ENOENT;
}

/* On the control loop. */
CO_FN int cmd_co_x_blockdev_set_iothread(struct control *c, const json_t *args,
                                         json_t **ret, GError **err)
{
    static const struct schema_command find = {
        .name = "x-blockdev-set-iothread",
        .co_handler = set_iothread_co_find,
    };
    const char *name = arg_str(args, "node-name");
    const char *thread = arg_str(args, "iothread");
    struct control *is = names_owner(c->names, NAME_BLOCK, name);
    struct control *wanted = c;
    int r = control_co_run_on(is ? is : c, &find, args, ret, err);

    if (r == 0 && thread) {
        r = iothread_find(c, thread, &wanted, err);
    }
    if (r == 0 && wanted != is) {
        r = err_set(err, EBUSY,
                    "Cannot change iothread of active block backend");
        err_hint(err, "A node is put into an iothread when it is opened: "
                      "blockdev-add with iothread=ID.");
    }
    return r;
}
