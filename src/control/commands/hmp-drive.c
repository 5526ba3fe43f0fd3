/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands of the human monitor that have no QMP form: drives, and the NBD
 * server in its older words. */
#include <string.h>

#include "base/err.h"
#include "base/keyval.h"
#include "control/commands.h"
#include "control/control-int.h"

/* --- drives --- */

/* drive_add -n: a node, as blockdev-add opens it. */
static CO_FN int drive_co_add_node(struct control *c, const char *text,
                                   GError **err)
{
    json_t *strings, *args, *ret = NULL;
    int r = keyval_parse(text, "driver", &strings, err);

    if (r < 0) {
        return r;
    }
    if (!json_object_get(strings, "node-name")) {
        json_decref(strings);
        return err_set(err, EINVAL, "'node-name' needs to be specified");
    }
    args = schema_convert(schema_find_type("BlockdevOptions"), strings);
    json_decref(strings);
    r = control_co_execute(c, "blockdev-add", args, &ret, err);
    json_decref(args);
    json_decref(ret);
    return r;
}

CO_FN int hmp_co_drive_add(struct control *c, const json_t *args, GString *out,
                           GError **err)
{
    const char *text = arg_str(args, "options");
    json_t *options;
    int r;

    if (arg_bool(args, "node", false)) {
        return drive_co_add_node(c, text, err);
    }
    r = keyval_parse_alias(text, "file", "file", "filename", &options, err);
    if (r == 0) {
        r = control_co_add_drive(c, options, err);
        json_decref(options);
    }
    if (r == 0) {
        g_string_append(out, "OK\n");
    }
    return r;
}

struct drive_del {
    struct control *c;
    const char *id;
    GError **err;
    int result;
};

static CO_FN void drive_del_entry(void *arg)
{
    struct drive_del *d = arg;
    struct device *dev;

    if (!d->c->graph) {
        d->result = err_set(d->err, ESHUTDOWN, "The daemon is shutting down");
        return;
    }
    dev = device_find_any(d->c->graph, d->id);
    if (!dev) {
        d->result = err_set_class(d->err, ERR_DEVICE_NOT_FOUND, ENOENT,
                                  "Device '%s' not found", d->id);
        return;
    }
    d->result = dev->empty ? 0
                           : node_check_op(backend_node(dev->backend),
                                           BLOCK_OP_DELETE, d->err);
    if (d->result == 0) {
        device_co_free(dev);
    }
}

/* A node goes by blockdev-del, as in QEMU. */
CO_FN int hmp_co_drive_del(struct control *c, const json_t *args, GString *out,
                           GError **err)
{
    struct drive_del d = { c, arg_str(args, "id"), err, 0 };
    g_autoptr(GError) why = NULL;
    json_t *node = json_pack("{s:s}", "node-name", d.id), *ret = NULL;
    int r = control_co_execute(c, "blockdev-del", node, &ret, &why);

    json_decref(node);
    json_decref(ret);
    if (r == -ENOENT) {
        d.c = control_hold_owner(c, d.id);
        control_co_on_data(d.c, drive_del_entry, &d);
        control_let_go(d.c);
        return d.result;
    }
    if (r < 0) {
        g_propagate_error(err, g_steal_pointer(&why));
    }
    return r;
}

/* --- the NBD server --- */

CO_FN int hmp_co_nbd_server_start(struct control *c, const json_t *args,
                                  GString *out, GError **err)
{
    const char *where = arg_str(args, "uri");
    const char *colon = strrchr(where, ':');
    g_autofree char *host = NULL;
    json_t *addr, *start, *ret = NULL;
    int r;

    if (arg_bool(args, "all", false)) {
        return err_set(err, ENOTSUP,
                       "nbd_server_start: -a is not supported: export each "
                       "device with nbd_server_add");
    }
    if (g_str_has_prefix(where, "unix:")) {
        addr = json_pack("{s:s,s:{s:s}}", "type", "unix", "data", "path",
                         where + strlen("unix:"));
    } else if (colon) {
        host = g_strndup(where, (gsize)(colon - where));
        addr = json_pack("{s:s,s:{s:s,s:s}}", "type", "inet", "data", "host",
                         host, "port", colon + 1);
    } else {
        return err_set(err, EINVAL,
                       "nbd_server_start: expects unix:PATH or HOST:PORT");
    }
    start = json_pack("{s:o}", "addr", addr);
    r = control_co_execute(c, "nbd-server-start", start, &ret, err);
    json_decref(start);
    json_decref(ret);
    return r;
}

CO_FN int hmp_co_nbd_server_remove(struct control *c, const json_t *args,
                                   GString *out, GError **err)
{
    bool force = arg_bool(args, "force", false);
    json_t *removal = json_pack("{s:s,s:s}", "name", arg_str(args, "name"),
                                "mode", force ? "hard" : "safe"),
           *ret = NULL;
    int r = control_co_execute(c, "nbd-server-remove", removal, &ret, err);

    json_decref(removal);
    json_decref(ret);
    return r;
}
