/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exports, and the older commands of the NBD server on top of them. */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "control/iothread.h"
#include "control/route.h"
#include "export/export.h"
#include "loop/channel.h"
#include "tls/tls-creds.h"

enum { LISTEN_TRIES = 20, LISTEN_PAUSE_NS = 50000000 };

/* On the data loop of the node. */
static CO_FN int export_co_add_here(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    json_t *options = json_copy((json_t *)args);
    int r;

    json_object_del(options, "iothread");
    json_object_del(options, "fixed-iothread");
    r = exports_co_add(c->exports, options, err);
    json_decref(options);
    return r;
}

/* Is the node on the loop that is asked for?  As in QEMU it does not matter, unless
 * the user says so. */
static int check_iothread(struct control *c, const json_t *args,
                          const struct control *is, GError **err)
{
    const char *id = arg_str(args, "iothread");
    struct control *wanted = NULL;

    if (!id) {
        return 0;
    }
    if (iothread_find(c, id, &wanted, NULL) < 0) {
        return err_set(err, ENOENT, "iothread \"%s\" not found", id);
    }
    if (wanted != is && arg_bool(args, "fixed-iothread", false)) {
        err_set(err, EBUSY, "Cannot change iothread of active block backend");
        err_hint(err,
                 "A node is put into an iothread when it is opened: "
                 "blockdev-add with iothread=%s.",
                 id);
        return -EBUSY;
    }
    return 0;
}

CO_FN int cmd_co_block_export_add(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    static const struct schema_command here = {
        .name = "block-export-add",
        .co_handler = export_co_add_here,
    };
    struct control *to;
    int r = route_find(c, schema_find_command(here.name), args, &to, err);

    if (r == 0) {
        r = check_iothread(c, args, to, err);
    }
    return r < 0 ? r : control_co_run_on(to, &here, args, ret, err);
}

CO_FN int cmd_co_block_export_del(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    bool hard = g_strcmp0(arg_str(args, "mode"), "hard") == 0;

    return exports_co_del(c->exports, arg_str(args, "id"), hard, err);
}

CO_FN int cmd_co_query_block_exports(struct control *c, const json_t *args,
                                     json_t **ret, GError **err)
{
    *ret = exports_describe(c->exports);
    return 0;
}

CO_FN int cmd_co_query_nbd_exports(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    *ret = nbd_exports_describe(c->exports);
    return 0;
}

/* A killed daemon's socket may answer for a while after its death. */
static CO_FN int server_co_start(struct control *c,
                                 const struct nbd_server_params *p,
                                 GError **err)
{
    for (unsigned tries = 0;; tries++) {
        g_autoptr(GError) first = NULL;
        int r = nbd_server_start(c->exports, p, &first);

        if (r != -EADDRINUSE || tries == LISTEN_TRIES) {
            if (r < 0) {
                g_propagate_error(err, g_steal_pointer(&first));
            }
            return r;
        }
        co_sleep(LISTEN_PAUSE_NS);
    }
}

CO_FN int cmd_co_nbd_server_start(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    const json_t *addr = json_object_get(args, "addr");
    const json_t *data = json_object_get(addr, "data");
    struct sock_access access;
    const struct sock_addr where = {
        .path = arg_str(data, "path"),
        .host = arg_str(data, "host"),
        .port = arg_str(data, "port"),
        .access = &access,
    };
    struct nbd_server_params p = {
        .addr = &where,
        .max_connections = (unsigned)arg_int(args, "max-connections", 0),
        .authz = arg_str(args, "tls-authz"),
        .plaintext = arg_bool(args, "insecure-plaintext", false),
    };
    const char *creds = arg_str(args, "tls-creds");
    int r = sock_access_co_parse(arg_str(data, "mode"), arg_str(data, "owner"),
                                 arg_str(data, "group"), &access, err);

    if (r == 0 && creds) {
        r = tls_creds_get(c->graph, creds, true, &p.creds, err);
    }
    if (r == 0) {
        r = server_co_start(c, &p, err);
    }
    tls_creds_unref(p.creds);
    return r;
}

struct server_end {
    struct control *c;
    GError **err;
    int result;
};

static CO_FN void begin_end_entry(void *arg)
{
    struct server_end *e = arg;

    e->result = control_check_stopping(e->c, e->err);
    if (e->result == 0) {
        e->result = nbd_server_begin_end(e->c->exports, e->err);
    }
}

static CO_FN void leave_entry(void *arg)
{
    struct control *c = arg;

    if (!c->stopping) {
        nbd_server_co_leave(c->exports);
    }
}

static CO_FN void end_entry(void *arg)
{
    struct control *c = arg;

    if (!c->stopping) {
        nbd_server_co_end(c->exports);
    }
}

/* The loop of the daemon has the server; it goes last. */
CO_FN int cmd_co_nbd_server_stop(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    struct server_end e = { c, err, 0 };
    GPtrArray *all;

    control_co_on_data(c, begin_end_entry, &e);
    if (e.result < 0) {
        return e.result;
    }
    all = iothreads_hold_all(c);
    for (guint i = 1; i < all->len; i++) {
        control_co_on_data(g_ptr_array_index(all, i), leave_entry,
                           g_ptr_array_index(all, i));
    }
    iothreads_let_go(all);
    control_co_on_data(c, end_entry, c);
    return 0;
}

CO_FN int cmd_co_nbd_server_add(struct control *c, const json_t *args,
                                json_t **ret, GError **err)
{
    const char *device = arg_str(args, "device");
    const char *name = arg_str(args, "name");
    const char *bitmap = arg_str(args, "bitmap");
    json_t *modern;
    int r;

    if (!nbd_server_running(c->exports)) {
        return err_set(err, EINVAL, "NBD server not running");
    }
    if (!node_find_any(c->graph, device, err)) {
        return -ENOENT;
    }
    name = name ? name : device;
    modern = json_pack("{s:s,s:s,s:s,s:b,s:s,s:s*}", "type", "nbd", "id", name,
                       "node-name", device, "writable",
                       arg_bool(args, "writable", false), "name", name,
                       "description", arg_str(args, "description"));
    if (bitmap) {
        json_object_set_new(modern, "bitmaps", json_pack("[s]", bitmap));
    }
    r = exports_co_add(c->exports, modern, err);
    json_decref(modern);
    return r;
}

CO_FN int cmd_co_nbd_server_remove(struct control *c, const json_t *args,
                                   json_t **ret, GError **err)
{
    bool hard = g_strcmp0(arg_str(args, "mode"), "hard") == 0;

    return exports_co_del(c->exports, arg_str(args, "name"), hard, err);
}
