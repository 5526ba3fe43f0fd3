/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * change: the medium of a removable drive, or, without telling the guest, the
 * image of a disk in use (block_switch).
 */
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "graph/image.h"
#include "graph/node.h"

/* A format that is guessed is good enough for reading. */
static CO_FN int medium_co_open(struct graph *g, const char *name,
                                const char *format, struct node **ret_node,
                                GError **err)
{
    unsigned flags = format ? NODE_RDWR | NODE_AUTO_RDONLY : 0;
    json_t *o = json_pack("{s:s}", "filename", name);
    const struct node_driver *drv = NULL;
    int r = 0;

    if (!format) {
        r = image_co_probe(g, o, flags, "Parameter 'arg'", &drv, err);
        format = drv ? driver_name(drv) : "raw";
    }
    json_object_set_new(o, "driver", json_string(format));
    if (r == 0) {
        r = node_co_open(g, o, flags, ret_node, err);
    }
    json_decref(o);
    return r;
}

static void tell_tray(struct control *c, const char *device, bool open)
{
    json_t *data = json_pack("{s:s, s:s, s:b}", "device", device, "id", "",
                             "tray-open", open);

    control_emit(c, "DEVICE_TRAY_MOVED", data);
    json_decref(data);
}

static CO_FN int change_co_medium(struct control *c, const json_t *args,
                                  GError **err)
{
    const char *id = arg_str(args, "device");
    struct device *d = device_find_removable(c->graph, id);
    struct node *n;
    int r;

    if (!d && device_find(c->graph, id)) {
        err_set(err, ENOTSUP, "Device '%s' is not removable", id);
        err_hint(err, "With 'notify' false ('change -n') guests go on in an "
                      "overlay of the image in use.");
        return -ENOTSUP;
    }
    if (!d) {
        return err_set_class(err, ERR_DEVICE_NOT_FOUND, ENOENT,
                             "Device '%s' not found", id);
    }
    r = medium_co_open(c->graph, arg_str(args, "target"), arg_str(args, "arg"),
                       &n, err);
    if (r < 0) {
        return r;
    }
    /* It took a while. */
    d = device_find_removable(c->graph, id);
    if (!d) {
        r = err_set(err, ENOENT, "Device '%s' not found", id);
    } else if (d->backend) {
        r = node_check_op(backend_node(d->backend), BLOCK_OP_CHANGE, err);
    }
    if (r == 0) {
        r = device_co_set_medium(d, n, err);
    }
    node_co_unref(n);
    if (r == 0) {
        tell_tray(c, id, true);
        tell_tray(c, id, false);
    }
    return r;
}

CO_FN int cmd_co_change(struct control *c, const json_t *args, json_t **ret,
                        GError **err)
{
    json_t *modern;
    int r;

    if (arg_bool(args, "notify", true)) {
        return change_co_medium(c, args, err);
    }
    modern = json_pack("{s:s, s:s, s:s*}", "device", arg_str(args, "device"),
                       "image", arg_str(args, "target"), "format",
                       arg_str(args, "arg"));
    r = cmd_co_block_switch(c, modern, ret, err);
    json_decref(modern);
    return r;
}
