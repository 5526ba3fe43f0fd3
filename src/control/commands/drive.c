/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --drive: a device and the nodes below it from one option string in the
 * emulator's syntax.
 *
 *   id= file= format= if= cache= aio= readonly= copy-on-read= stream=
 *   discard= detect-zeroes= on-base-hang= hang-timeout=, and file.*=
 *   backing.*= for the nodes below
 *
 * What is not taken here goes to the format's driver, which refuses what it
 * does not know.  file=blkstream:IMAGE is the historical way to say stream=on.
 */
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "graph/image.h"

/* The options that are about the device, not about the image. */
struct drive {
    char *id, *interface;
    bool copy_on_read, stream, read_only;
    bool set_hang;        /* one of the next two was given */
    int on_hang;          /* 1: error */
    int64_t hang_timeout; /* s */
};

/* As for the driver nbd. */
#define HANG_TIMEOUT_DEFAULT_S 10
#define HANG_TIMEOUT_MAX_S (24 * 3600)
#define NS_PER_S UINT64_C(1000000000)

static void drive_clear(struct drive *d)
{
    g_free(d->id);
    g_free(d->interface);
}

/* cache=MODE in terms of the nodes; cache.direct=on and the like come as an
 * object and go to them unchanged. */
static int take_cache(struct opts *o, json_t *node, GError **err)
{
    static const char *const modes[] = { "writeback",    "none",       "unsafe",
                                         "writethrough", "directsync", NULL };
    int mode = 0, r;

    if (!opts_has(o, "cache")) {
        return 0;
    }
    r = opts_take_enum(o, "cache", modes, &mode, err);
    if (r < 0) {
        return r;
    }
    if (mode >= 3) {
        err_set(err, ENOTSUP, "Parameter 'cache' does not accept value '%s'",
                modes[mode]);
        err_hint(err, "Use cache=%s, and writethrough=on with the export.",
                 mode == 3 ? "writeback" : "none");
        return -ENOTSUP;
    }
    json_object_set_new(
        node, "cache",
        json_pack("{s:b,s:b}", "direct", mode == 1, "no-flush", mode == 2));
    return 0;
}

/* Options that mean nothing here but must not be an error. */
static int take_accepted(struct opts *o, GError **err)
{
    static const char *const names[] = { "media",  "index",  "bus", "unit",
                                         "werror", "rerror", "aio" };
    bool snapshot = false;
    int r;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_decref(opts_take_any(o, names[i]));
    }
    r = opts_take_bool(o, "snapshot", &snapshot, err);
    if (snapshot) {
        err_set(err, ENOTSUP, "Parameter 'snapshot' is not supported");
        err_hint(err, "Make an overlay with 'sluice create -b' and use that.");
        r = -ENOTSUP;
    }
    return r < 0 ? r : 0;
}

/* What is done about servers that do not answer, of all nodes of the drive:
 * also of those that headers name, which have no options of their own. */
static int take_hang(struct opts *o, struct drive *d, GError **err)
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
        r = take_hang(o, d, err);
    }
    return r < 0 ? r : take_accepted(o, err);
}

/* file=NAME or file.filename=NAME into *@node. */
static int take_file(struct opts *o, struct drive *d, json_t *node,
                     GError **err)
{
    json_t *file = opts_take_any(o, "file");
    const char *name = json_string_value(file);

    if (!file) {
        err_set(err, EINVAL, "Parameter 'file' is missing");
        return -EINVAL;
    }
    if (name && g_str_has_prefix(name, "blkstream:")) {
        d->stream = true;
        name += strlen("blkstream:");
    }
    json_object_set_new(node, "file",
                        name ? json_pack("{s:s}", "filename", name)
                             : json_incref(file));
    json_decref(file);
    return 0;
}

/* The format of an image that will only be read, from its first bytes. */
static CO_FN int format_co_probe(struct control *c, const json_t *node,
                                 const char **ret_name, GError **err)
{
    const struct node_driver *drv = NULL;
    int r = image_co_probe(c->graph, node, 0, "format=raw", &drv, err);

    *ret_name = drv ? driver_name(drv) : "raw";
    return r;
}

static CO_FN int format_co_take(struct control *c, struct opts *o,
                                const struct drive *d, json_t *node,
                                GError **err)
{
    char *format = NULL;
    const char *found = NULL;
    int r = opts_take_str(o, "format", &format, err);

    if (r == 0) {
        r = opts_take_str(o, "driver", &format, err);
    }
    if (r == 0 && !d->read_only) {
        err_set(err, EINVAL, "Parameter 'format' is missing");
        err_hint(err, "Say format=qed, format=raw ...: the format of a "
                      "writable image is never guessed.");
        return -EINVAL;
    }
    if (r == 0) {
        r = format_co_probe(c, node, &found, err);
    }
    if (r >= 0) {
        json_object_set_new(node, "driver",
                            json_string(format ? format : found));
    }
    g_free(format);
    return r < 0 ? r : 0;
}

/* What is left belongs to the node. */
static void take_rest(const json_t *options, struct opts *o, json_t *node)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)options, key, v) {
        if (opts_has(o, key)) {
            json_object_set_new(node, key, opts_take_any(o, key));
        }
    }
}

static char *free_id(struct control *c, const struct drive *d)
{
    for (unsigned i = 0;; i++) {
        char *id = g_strdup_printf("%s%u",
                                   d->interface ? d->interface : "drive", i);

        if (!node_find_any(c->graph, id, NULL)) {
            return id;
        }
        g_free(id);
    }
}

/* Put a copy-on-read filter over *@n, which it takes over. */
static CO_FN int node_co_add_filter(struct control *c, struct node **n,
                                    GError **err)
{
    json_t *options = json_pack("{s:s,s:s}", "driver", "copy-on-read", "file",
                                (*n)->name);
    struct node *filter;
    int r = node_co_open(c->graph, options, NODE_RDWR, &filter, err);

    json_decref(options);
    if (r < 0) {
        return r;
    }
    filter->implicit_filter = true;
    node_co_unref(*n);
    *n = filter;
    return 0;
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
        r = node_co_add_filter(c, &n, err);
    }
    if (r == 0) {
        r = device_co_new(c->graph, d->id, n, &dev, err);
    }
    node_co_unref(n);
    if (r == 0 && d->stream) {
        json_t *args = json_pack("{s:s,s:s}", "job-id", d->id, "device", d->id),
               *ret = NULL;

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
    json_t *mine = json_deep_copy(a->options), *node = json_object();
    struct drive d = {};
    int r;

    o = opts_new(mine);
    r = take_device(o, &d, &a->err);
    if (r == 0) {
        r = take_file(o, &d, node, &a->err);
    }
    if (r == 0 && !json_is_object(json_object_get(mine, "cache"))) {
        r = take_cache(o, node, &a->err);
    }
    if (r == 0) {
        r = format_co_take(a->c, o, &d, node, &a->err);
    }
    if (r == 0) {
        take_rest(mine, o, node);
        if (d.read_only) {
            json_object_set_new(node, "read-only", json_true());
        }
        if (!d.id) {
            d.id = free_id(a->c, &d);
        }
        r = drive_co_make(a->c, &d, node, &a->err);
    }
    drive_clear(&d);
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
