/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the image of a drive is, and in what format.
 *
 * file=NAME is a name of the image, beside which file.X=Y are options of the
 * node that the name becomes.  A name may be options itself (json:), of which
 * those that the drive says win.  A driver that is no format (null-co) needs no
 * name at all.
 */
#include <string.h>

#include "base/err.h"
#include "base/json-text.h"
#include "control/commands/drive.h"
#include "graph/image.h"
#include "graph/node.h"

#define HISTORICAL_PREFIX "blkstream:"
#define MIRROR_PREFIX "blkmirror:"
#define JSON_PREFIX "json:"

/* Cut the target off "NAME:TARGET", which becomes NAME; owned. A colon in NAME
 * stands behind a backslash. NULL: there is none. */
static char *take_mirror_target(char *name)
{
    char *to = name, *target = NULL;

    for (const char *from = name; !target && *from; from++) {
        if (*from == ':') {
            target = g_strdup(from + 1);
        } else {
            from += from[0] == '\\' && from[1] == ':';
            *to++ = *from;
        }
    }
    *to = 0;
    return target;
}

static int take_historical(struct drive *d, char *name, GError **err)
{
    if (g_str_has_prefix(name, HISTORICAL_PREFIX)) {
        d->stream = true;
        memmove(name, name + strlen(HISTORICAL_PREFIX),
                strlen(name + strlen(HISTORICAL_PREFIX)) + 1);
    } else if (g_str_has_prefix(name, MIRROR_PREFIX)) {
        memmove(name, name + strlen(MIRROR_PREFIX),
                strlen(name + strlen(MIRROR_PREFIX)) + 1);
        d->mirror = take_mirror_target(name);
        if (!d->mirror || !*d->mirror || !*name) {
            return err_set(err, EINVAL,
                           "'blkmirror:' expects two names, as in "
                           "blkmirror:IMAGE:TARGET");
        }
    }
    return 0;
}

/* The name of the image, or NULL. */
static int image_take_name(struct opts *o, struct drive *d, json_t *node,
                           char **ret_name, GError **err)
{
    json_t *file = opts_take_any(o, "file");
    char *name = NULL;
    int r = opts_take_str(o, "filename", &name, err);

    if (r >= 0 && json_is_string(file)) {
        g_free(name);
        name = g_strdup(json_string_value(file));
    } else if (r >= 0 && file) {
        json_object_set(node, "file", file);
    }
    json_decref(file);
    if (r >= 0 && name) {
        r = take_historical(d, name, err);
    }
    if (r < 0 || !name || !*name) {
        g_clear_pointer(&name, g_free);
    }
    *ret_name = name;
    return MIN(r, 0);
}

/* "format" or "driver" into @node. */
static int take_driver(struct opts *o, json_t *node, GError **err)
{
    char *name = NULL;
    int r;

    if (opts_has(o, "driver") && opts_has(o, "format")) {
        return err_set(err, EINVAL,
                       "Cannot specify both 'driver' and 'format'");
    }
    r = opts_take_str(o, opts_has(o, "format") ? "format" : "driver", &name,
                      err);
    if (r > 0) {
        json_object_set_new(node, "driver", json_string(name));
    }
    g_free(name);
    return MIN(r, 0);
}

/* All that is left in @o. */
static void take_rest(struct opts *o, json_t *node)
{
    json_t *rest = opts_take_rest(o);

    json_object_update_missing(node, rest);
    json_decref(rest);
}

/* Options in a name: what the drive says itself stands. */
static int merge_json(const char *name, json_t *node, GError **err)
{
    json_t *options = NULL;
    int r = json_text_options(name + strlen(JSON_PREFIX), &options, err);

    if (r == 0) {
        json_object_update_missing(node, options);
        json_decref(options);
    }
    return r;
}

/* @name as the file of the image, beside the options of the file. */
static int merge_file_name(const char *name, json_t *node, GError **err)
{
    json_t *file = json_object_get(node, "file");

    if (!file) {
        file = json_object();
        json_object_set_new(node, "file", file);
    }
    if (!json_is_object(file) || json_object_get(file, "filename")) {
        return err_set(err, EINVAL,
                       "Can't specify 'file' and 'filename' options at the "
                       "same time");
    }
    json_object_set_new(file, "filename", json_string(name));
    return 0;
}

static bool is_storage(struct graph *g, const json_t *node)
{
    const char *name = json_string_value(json_object_get(node, "driver"));
    const struct node_driver *drv = name ? graph_find_driver(g, name) : NULL;

    return drv && driver_is_storage(drv);
}

static int merge_name(struct graph *g, const char *name, json_t *node,
                      GError **err)
{
    if (g_str_has_prefix(name, JSON_PREFIX)) {
        return merge_json(name, node, err);
    }
    if (is_storage(g, node)) {
        json_object_set_new(node, "filename", json_string(name));
        return 0;
    }
    return merge_file_name(name, node, err);
}

/* The format of an image that will only be read, from its first bytes. */
static CO_FN int drive_co_probe(struct graph *g, json_t *node, GError **err)
{
    const struct node_driver *drv = NULL;
    int r = image_co_probe(g, node, 0, "format=raw", &drv, err);

    if (r == 0) {
        json_object_set_new(node, "driver",
                            json_string(drv ? driver_name(drv) : "raw"));
    }
    return r;
}

static CO_FN int complete_co_driver(struct graph *g, const struct drive *d,
                                    json_t *node, GError **err)
{
    const char *name = json_string_value(json_object_get(node, "driver"));

    if (name && !graph_find_driver(g, name)) {
        err_set(err, EINVAL, "Unknown driver '%s'", name);
        graph_hint_formats(g, name, err);
        return -EINVAL;
    }
    if (name) {
        return 0;
    }
    if (!json_object_get(node, "file")) {
        return err_set(err, EINVAL, "Must specify either driver or file");
    }
    if (!d->read_only) {
        err_set(err, EINVAL, "Parameter 'format' is missing");
        err_hint(err, "Say format=qed, format=raw ...: the format of a "
                      "writable image is never guessed.");
        return -EINVAL;
    }
    return drive_co_probe(g, node, err);
}

int drive_co_take_image(struct graph *g, struct opts *o, struct drive *d,
                        json_t **ret_node, GError **err)
{
    json_t *node = json_object();
    char *name = NULL;
    int r = image_take_name(o, d, node, &name, err);

    if (r == 0) {
        r = take_driver(o, node, err);
    }
    if (r == 0) {
        take_rest(o, node);
        d->empty = !name && json_object_size(node) == 0;
    }
    if (r == 0 && name) {
        r = merge_name(g, name, node, err);
    }
    if (r == 0 && !d->empty) {
        r = complete_co_driver(g, d, node, err);
    }
    g_free(name);
    if (r < 0) {
        json_decref(node);
        return r;
    }
    *ret_node = node;
    return 0;
}
