/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --drive: a device and the nodes below it from one option string in the
 * emulator's syntax.
 *
 *   id= file= format= if= cache= aio= readonly= copy-on-read= stream=
 *   discard= detect-zeroes= on-base-hang= hang-timeout= throttling.*=, and
 *   file.*= backing.*= for the nodes below
 *
 * What is not taken here goes to the format's driver, which refuses what it
 * does not know.  file=blkstream:IMAGE is the historical way to say stream=on.
 */
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "control/commands.h"
#include "control/commands/drive.h"
#include "control/control-int.h"
#include "graph/image.h"

/* As for the driver nbd. */
#define HANG_TIMEOUT_DEFAULT_S 10
#define HANG_TIMEOUT_MAX_S (24 * 3600)
#define NS_PER_S UINT64_C(1000000000)

static void drive_clear(struct drive *d)
{
    g_free(d->id);
    g_free(d->interface);
    g_free(d->throttle_group);
    json_decref(d->limits);
    json_decref(d->stream_limits);
    g_free(d->mirror);
}

/* cache=MODE in terms of the nodes; cache.direct=on and the like come as an
 * object and go to them unchanged. */
static int take_cache(struct opts *o, json_t *node, GError **err)
{
    static const char *const modes[] = {
        "writeback", "none", "off", "unsafe", "writethrough", "directsync", NULL
    };
    int mode = 0, r;

    if (!opts_has(o, "cache")) {
        return 0;
    }
    r = opts_take_enum(o, "cache", modes, &mode, err);
    if (r < 0) {
        return r;
    }
    if (mode >= 4) {
        err_set(err, ENOTSUP, "Parameter 'cache' does not accept value '%s'",
                modes[mode]);
        err_hint(err, "Use cache=%s, and writethrough=on with the export.",
                 mode == 4 ? "writeback" : "none");
        return -ENOTSUP;
    }
    json_object_set_new(node, "cache",
                        json_pack("{s:b,s:b}", "direct", mode == 1 || mode == 2,
                                  "no-flush", mode == 3));
    return 0;
}

/* What becomes of errors is for the client to decide: it gets them all, and
 * whoever looks after the daemon hears of them (export/io-error.c). */
static int check_error_action(struct opts *o, const char *name, bool is_read,
                              GError **err)
{
    static const char *const actions[] = { "report", "ignore", "stop", NULL };
    g_autofree char *action = NULL;
    int r = opts_take_str(o, name, &action, err);

    if (r <= 0 || g_strv_contains(actions, action) ||
        (!is_read && g_str_equal(action, "enospc"))) {
        return MIN(r, 0);
    }
    return err_set(err, EINVAL, "'%s' invalid %s error action", action,
                   is_read ? "read" : "write");
}

/* Options that mean nothing here but must not be an error. */
static int take_accepted(struct opts *o, GError **err)
{
    static const char *const names[] = { "media", "index", "bus", "unit",
                                         "aio" };
    bool snapshot = false;
    int r;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_decref(opts_take_any(o, names[i]));
    }
    r = check_error_action(o, "rerror", true, err);
    if (r == 0) {
        r = check_error_action(o, "werror", false, err);
    }
    if (r == 0) {
        r = opts_take_bool(o, "snapshot", &snapshot, err);
    }
    if (snapshot) {
        err_set(err, ENOTSUP, "Parameter 'snapshot' is not supported");
        err_hint(err, "Make an overlay with 'sluice create -b' and use that.");
        r = -ENOTSUP;
    }
    return r < 0 ? r : 0;
}

/* What is done about servers that do not answer, of all nodes of the drive:
 * also of those that headers name, which have no options of their own. */
static int drive_take_hang(struct opts *o, struct drive *d, GError **err)
{
    static const char *const policies[] = { "wait", "error", NULL };
    int r;

    d->set_hang = opts_has(o, "on-base-hang") || opts_has(o, "hang-timeout");
    d->hang_timeout = HANG_TIMEOUT_DEFAULT_S;
    r = opts_take_enum(o, "on-base-hang", policies, &d->on_hang, err);
    if (r >= 0) {
        r = opts_take_int(o, "hang-timeout", &d->hang_timeout, err);
    }
    if (r >= 0 &&
        (d->hang_timeout < 0 || d->hang_timeout > HANG_TIMEOUT_MAX_S)) {
        r = err_set(err, EINVAL,
                    "Parameter 'hang-timeout' expects 0 to %d "
                    "seconds",
                    HANG_TIMEOUT_MAX_S);
    }
    return r;
}

/* What is said of the stream of stream=on. */
static int take_stream_limits(struct opts *o, struct drive *d, GError **err)
{
    g_autofree char *target = NULL;
    uint64_t floor = 0;
    int64_t finish_by = 0;
    int r;

    d->stream_limits = json_object();
    r = opts_take_str(o, "latency-target", &target, err);
    if (r > 0) {
        json_object_set_new(d->stream_limits, "latency-target",
                            json_string(target));
    }
    r = r < 0 ? r : opts_take_size(o, "floor", &floor, err);
    if (r > 0) {
        json_object_set_new(d->stream_limits, "floor",
                            json_integer((json_int_t)MIN(floor, INT64_MAX)));
    }
    r = r < 0 ? r : opts_take_int(o, "finish-by", &finish_by, err);
    if (r > 0) {
        json_object_set_new(d->stream_limits, "finish-by",
                            json_integer(finish_by));
    }
    return MIN(r, 0);
}

/* Once it is known whether there is a stream. */
static int check_stream_limits(const struct drive *d, GError **err)
{
    void *first = json_object_iter(d->stream_limits);

    return d->stream || !first
               ? 0
               : err_set(err, EINVAL, "Parameter '%s' goes with 'stream=on'",
                         json_object_iter_key(first));
}

static int take_device(struct opts *o, struct drive *d, GError **err)
{
    static const char *const ro[] = { "readonly", "read-only" };
    int r = opts_take_str(o, "id", &d->id, err);

    if (r >= 0) {
        r = opts_take_str(o, "if", &d->interface, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "copy-on-read", &d->copy_on_read, err);
    }
    if (r >= 0) {
        r = opts_take_bool(o, "stream", &d->stream, err);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ro) && r >= 0; i++) {
        r = opts_take_bool(o, ro[i], &d->read_only, err);
    }
    if (r >= 0) {
        r = drive_take_hang(o, d, err);
    }
    if (r >= 0) {
        r = take_stream_limits(o, d, err);
    }
    return r < 0 ? r : take_accepted(o, err);
}

static char *free_id(struct control *c, const struct drive *d)
{
    for (unsigned i = 0;; i++) {
        char *id = g_strdup_printf("%s%u",
                                   d->interface ? d->interface : "drive", i);

        if (!node_find_any(c->graph, id, NULL) &&
            !device_is_empty(c->graph, id)) {
            return id;
        }
        g_free(id);
    }
}

static CO_FN int add_co_copy_on_read(struct control *c, struct node **n,
                                     GError **err)
{
    json_t *options = json_pack("{s:s}", "driver", "copy-on-read");
    int r = drive_co_add_filter(c->graph, options, n, err);

    json_decref(options);
    return r;
}

/* blkmirror: what guests write goes to both images from the beginning, and the
 * rest is copied. */
static CO_FN int drive_co_mirror(struct control *c, const struct drive *d,
                                 const json_t *node_options, GError **err)
{
    json_t *args = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "job-id", d->id, "device", d->id,
        "target", d->mirror, "format", arg_str(node_options, "driver"), "mode",
        "existing", "sync", "full", "copy-mode", "write-blocking");
    json_t *ret = NULL;
    int r = cmd_co_drive_mirror(c, args, &ret, err);

    json_decref(args);
    return r;
}

static CO_FN int drive_co_make(struct control *c, struct drive *d,
                               const json_t *node_options, GError **err)
{
    struct node *n;
    struct device *dev;
    int r = node_co_open(c->graph, node_options, d->read_only ? 0 : NODE_RDWR,
                         &n, err);

    if (r < 0) {
        return r;
    }
    if (d->set_hang) {
        node_set_hang(n, (uint64_t)d->hang_timeout * NS_PER_S, d->on_hang == 1);
    }
    if (d->copy_on_read) {
        r = add_co_copy_on_read(c, &n, err);
    }
    if (r == 0 && d->limits) {
        r = drive_co_throttle(c->graph, d, &n, err);
    }
    if (r == 0) {
        r = device_co_new(c->graph, d->id, n, &dev, err);
    }
    node_co_unref(n);
    if (r == 0 && d->mirror) {
        r = drive_co_mirror(c, d, node_options, err);
    }
    if (r == 0 && d->stream) {
        json_t *args = json_pack("{s:s,s:s}", "job-id", d->id, "device", d->id),
               *ret = NULL;

        json_object_update(args, d->stream_limits);
        r = cmd_co_block_stream(c, args, &ret, err);
        json_decref(args);
    }
    return r;
}

struct add_drive {
    struct control *c;
    const json_t *options;
    GError *err;
    int result;
};

static CO_FN void add_drive_entry(void *arg)
{
    struct add_drive *a = arg;
    CLEANUP(opts_freep) struct opts *o = NULL;
    json_t *mine = json_deep_copy(a->options), *node = NULL;
    json_t *cache = json_object();
    struct drive d = {};
    int r;

    o = opts_new(mine);
    r = take_device(o, &d, &a->err);
    if (r == 0) {
        r = drive_take_throttle(o, &d, &a->err);
    }
    if (r == 0 && !json_is_object(json_object_get(mine, "cache"))) {
        r = take_cache(o, cache, &a->err);
    }
    if (r == 0) {
        r = drive_co_take_image(a->c->graph, o, &d, &node, &a->err);
    }
    if (r == 0) {
        r = check_stream_limits(&d, &a->err);
    }
    if (r == 0) {
        json_object_update(node, cache);
        if (d.read_only) {
            json_object_set_new(node, "read-only", json_true());
        }
        if (!d.id) {
            d.id = free_id(a->c, &d);
        }
        r = d.empty ? device_new_empty(a->c->graph, d.id, &a->err)
                    : drive_co_make(a->c, &d, node, &a->err);
    }
    drive_clear(&d);
    json_decref(cache);
    json_decref(node);
    json_decref(mine);
    a->result = r;
}

int control_co_add_drive(struct control *c, const json_t *options, GError **err)
{
    struct add_drive a = { .c = c, .options = options };

    control_co_on_data(c, add_drive_entry, &a);
    if (a.result < 0) {
        g_propagate_error(err, a.err);
    }
    return a.result;
}
