/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bottom of every image command: one loop, one graph, one coroutine, gone
 * again when the command is done.
 */
#include "cli/image.h"

#include <string.h>

#include "base/err.h"
#include "base/keyval.h"
#include "cli/cli.h"
#include "control/drivers.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/loop.h"

struct run {
    struct loop *loop;
    CO_FN_PTR int (*co_fn)(struct graph *g, void *arg);
    void *arg;
    int result;
};

static CO_FN void run_entry(void *arg)
{
    struct run *r = arg;
    struct graph *g = graph_new(r->loop, node_drivers);

    r->result = r->co_fn(g, r->arg);
    graph_co_free(g);
    loop_stop(r->loop);
}

int image_run(int (*co_fn)(struct graph *g, void *arg), void *arg)
{
    struct run r = { .arg = arg, .co_fn = co_fn };
    g_autoptr(GError) err = NULL;
    struct loop_options lo = { .engine = IO_ENGINE_AUTO };

    if (loop_new(&lo, &r.loop, &err) < 0) {
        cli_gerror(err);
        return 1;
    }
    co_start(r.loop, run_entry, &r);
    loop_run(r.loop);
    loop_free(r.loop);
    return r.result;
}

/* The driver that knows the first bytes of the storage that @file_options
 * open; raw when none does. */
static CO_FN int image_co_probe(struct graph *g, const json_t *file_options,
                                unsigned flags, const char **ret_format,
                                GError **err)
{
    const struct node_driver *drv = NULL;
    struct node *file;

    if (flags & NODE_RDWR) {
        return err_set(err, EINVAL, "the format is not said, and an image is "
                       "never guessed at for writing: use -f");
    }
    int r = node_co_open(g, file_options, flags & NODE_FORCE_SHARE, &file, err);
    if (r < 0) {
        return r;
    }
    r = node_co_probe(file, &drv);
    node_co_unref(file);
    if (r < 0) {
        return err_set_errno(err, -r, "Could not read image for determining "
                             "its format");
    }
    *ret_format = drv ? drv->name : "raw";
    return 0;
}

static CO_FN int image_co_find_format(struct graph *g, const char *filename,
                                      unsigned flags, const char **ret_format,
                                      GError **err)
{
    json_t *options = json_pack("{s:s}", "filename", filename);
    int r = options ? image_co_probe(g, options, flags, ret_format, err)
        : err_set(err, EINVAL, "File name is not valid UTF-8");

    json_decref(options);
    return r;
}

CO_FN int image_co_open(struct graph *g, const char *filename,
                        const char *format, unsigned flags,
                        struct node **ret_node, GError **err)
{
    int r = 0;

    if (!format) {
        r = image_co_find_format(g, filename, flags, &format, err);
    } else if (!graph_find_driver(g, format)) {
        r = err_set(err, EINVAL, "Unknown driver '%s'", format);
    }
    if (r == 0) {
        json_t *options = json_pack("{s:s,s:s}", "driver", format, "filename",
                                    filename);
        r = node_co_open(g, options, flags, ret_node, err);
        json_decref(options);
    }
    if (r < 0) {
        err_prefix(err, "Could not open '%s'", filename);
    }
    return r;
}

/* "driver=...,file.filename=..."; without a driver it is found by the magic of
 * what "file" or "filename" say. */
static CO_FN int image_co_open_options(struct graph *g, const char *text,
                                       unsigned flags, struct node **ret_node,
                                       GError **err)
{
    json_t *options;
    int r = keyval_parse(text, "file", &options, err);

    if (r < 0) {
        return r;
    }
    if (!json_object_get(options, "driver")) {
        json_t *file = json_object_get(options, "file");
        const char *format = "raw";

        if (json_is_object(file)) {
            r = image_co_probe(g, file, flags, &format, err);
        } else if (!file) {
            r = image_co_find_format(
                g, json_string_value(json_object_get(options, "filename")),
                flags, &format, err);
        }
        json_object_set_new(options, "driver", json_string(format));
    }
    if (r == 0) {
        r = node_co_open(g, options, flags, ret_node, err);
    }
    json_decref(options);
    return r;
}

CO_FN int image_co_open_spec(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err)
{
    if (!spec->is_opts) {
        return image_co_open(g, spec->name, spec->format, spec->flags,
                             ret_node, err);
    }
    int r = image_co_open_options(g, spec->name, spec->flags, ret_node, err);
    if (r < 0) {
        err_prefix(err, "Could not open '%s'", spec->name);
    }
    return r;
}

int image_parse_cache(const char *text, unsigned *flags)
{
    static const struct {
        const char *name;
        unsigned flags;
    } modes[] = {
        { "writeback", 0 },
        { "writethrough", 0 },
        { "none", NODE_CACHE_DIRECT },
        { "off", NODE_CACHE_DIRECT },
        { "directsync", NODE_CACHE_DIRECT },
        { "unsafe", NODE_NO_FLUSH },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(text, modes[i].name) == 0) {
            *flags &= ~(unsigned)(NODE_CACHE_DIRECT | NODE_NO_FLUSH);
            *flags |= modes[i].flags;
            return 0;
        }
    }
    return -EINVAL;
}

/* @backing as it is reached from here: relative names begin in the folder of
 * the image. Owned. */
static char *backing_path(const char *filename, const char *backing)
{
    const char *colon = strchr(backing, ':');
    const char *slash = strchr(backing, '/');
    bool address = colon && (!slash || colon < slash);

    if (address || g_path_is_absolute(backing) || !strchr(filename, '/')) {
        return g_strdup(backing);
    }
    g_autofree char *dir = g_path_get_dirname(filename);
    return g_build_filename(dir, backing, NULL);
}

CO_FN int image_co_backing_size(struct graph *g, const char *filename,
                                const char *backing, const char *format,
                                uint64_t *ret_size, GError **err)
{
    g_autofree char *path = backing_path(filename, backing);
    json_t *options = json_pack("{s:s,s:s}", "driver", format, "filename",
                                path);
    struct node *n;
    int r = node_co_open(g, options, 0, &n, err);

    json_decref(options);
    if (r == 0) {
        *ret_size = n->size;
        node_co_unref(n);
    }
    return r;
}

CO_FN int image_co_backing_format(struct graph *g, const char *filename,
                                  const char *backing, const char **ret_format)
{
    g_autofree char *path = backing_path(filename, backing);

    return image_co_find_format(g, path, 0, ret_format, NULL);
}
