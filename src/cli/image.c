/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bottom of every image command: one loop, one graph, one coroutine, gone
 * again when the command is done.
 */
#include "cli/image.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/suggest.h"
#include "base/json-text.h"
#include "base/keyval.h"
#include "base/text.h"
#include "cli/cli.h"
#include "control/commands/objects.h"
#include "control/drivers.h"
#include "graph/image.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

struct run {
    struct loop *loop;
    CO_FN_PTR int (*co_fn)(struct graph *g, void *arg);
    void *arg;
    int result;
};

static json_t *objects; /* what --object said; an array or NULL */
static enum io_engine_kind engine = IO_ENGINE_AUTO;

static void image_print_notice(const char *text)
{
    g_autofree char *shown = text_printable(text, "\n\t");

    fprintf(stderr, "%s: note: %s\n", cli_program(), shown);
}

static CO_FN void run_entry(void *arg)
{
    struct run *r = arg;
    struct graph *g = graph_new(r->loop, node_drivers);
    g_autoptr(GError) err = NULL;
    const json_t *props;
    size_t i;

    graph_set_notice(g, image_print_notice);
    json_array_foreach(objects, i, props) {
        if (object_co_add(g, props, &err) < 0) {
            break;
        }
    }
    if (err) {
        cli_gerror(err);
        r->result = 1;
    } else {
        r->result = r->co_fn(g, r->arg);
    }
    graph_co_free(g);
    loop_stop(r->loop);
}

int image_run(int (*co_fn)(struct graph *g, void *arg), void *arg)
{
    struct run r = { .arg = arg, .co_fn = co_fn };
    g_autoptr(GError) err = NULL;
    struct loop_options lo = { .engine = engine };

    if (loop_new(&lo, &r.loop, &err) < 0) {
        cli_gerror(err);
        return 1;
    }
    co_start(r.loop, run_entry, &r);
    loop_run(r.loop);
    loop_free(r.loop);
    g_clear_pointer(&objects, json_decref);
    return r.result;
}

/* --- what a command line says --- */

void image_use_engine(enum io_engine_kind kind)
{
    engine = kind;
}

int image_add_object(const char *command, const char *text)
{
    g_autoptr(GError) err = NULL;
    json_t *props;

    if (object_print_help(text)) {
        return -1;
    }
    if (keyval_parse(text, "qom-type", &props, &err) < 0) {
        g_autofree char *message = NULL;

        object_hide_text(text, &err);
        message = err_dup_message(err);
        return cli_usage_error(command, "--object: %s", message);
    }
    objects = objects ? objects : json_array();
    json_array_append_new(objects, props);
    return 0;
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

/* The options that @spec stands for; "driver" only if it was said. */
static int spec_to_options(const struct image_spec *spec, json_t **ret,
                           GError **err)
{
    if (spec->is_opts) {
        return keyval_parse(spec->name, NULL, ret, err);
    }
    if (g_str_has_prefix(spec->name, "json:")) {
        int r = json_text_options(spec->name + strlen("json:"), ret, err);

        if (r < 0) {
            return r;
        }
    } else {
        *ret = json_pack("{s:o}", "filename", json_string_nocheck(spec->name));
    }
    if (spec->format) {
        json_object_set_new(*ret, "driver", json_string(spec->format));
    }
    if (spec->data_file) {
        json_object_set_new(*ret, "data-file",
                            json_pack("{s:o}", "filename",
                                      json_string_nocheck(spec->data_file)));
    }
    return 0;
}

/* --- opening --- */

/* The driver that knows the first bytes of the storage that @options name;
 * raw when none does. */
static CO_FN int image_format_co_find(struct graph *g, const json_t *options,
                                      unsigned flags, const char **ret_format,
                                      GError **err)
{
    const struct node_driver *drv = NULL;
    int r = image_co_probe(g, options, flags, "-f raw", &drv, err);

    if (r == 0) {
        *ret_format = drv ? driver_name(drv) : "raw";
    }
    return r;
}

/* Does the image name other files: a backing file, a data file? */
static CO_FN int names_co_find(struct graph *g, const json_t *options,
                               unsigned flags, bool *ret, GError **err)
{
    json_t *info, *data;
    struct node *n;
    int r = node_co_open(g, options,
                         (flags & NODE_FORCE_SHARE) | NODE_NO_BACKING |
                             NODE_NO_IO | NODE_CHECK,
                         &n, err);

    if (r < 0) {
        return r;
    }
    info = json_object();
    r = node_co_info(n, info, err);
    data = json_object_get(json_object_get(info, "format-specific"), "data");
    *ret = node_header_backing(n, NULL) || json_object_get(data, "data-file");
    json_decref(info);
    node_co_unref(n);
    return r;
}

/* May an image that seems to be of @format be written to as one? */
static CO_FN int guess_co_check(struct graph *g, const struct image_spec *spec,
                                const json_t *options, const char *format,
                                GError **err)
{
    g_autofree char *ending = g_strdup_printf(".%s", format);
    bool names = false;
    int r;

    if (strcmp(format, "raw") == 0) {
        fprintf(stderr,
                "WARNING: Image format was not specified for '%s' and "
                "probing guessed raw.\n         Say -f raw: what a guest "
                "writes to its disk can look like another format.\n",
                spec->name);
        return 0;
    }
    if (spec->is_overlay || g_str_has_suffix(spec->name, ending)) {
        return 0;
    }
    r = names_co_find(g, options, spec->flags, &names, err);
    if (r == 0 && names) {
        err_set(err, EINVAL,
                "the format is not said, and the image, which "
                "seems to be %s, names another file",
                format);
        err_hint(err,
                 "A guest could have written that to a raw disk; if it is "
                 "right, say -f %s.",
                 format);
        return -EINVAL;
    }
    return r;
}

static CO_FN int options_co_complete(struct graph *g,
                                     const struct image_spec *spec,
                                     json_t *options, GError **err)
{
    const char *format = json_string_value(json_object_get(options, "driver"));
    int r;

    if (format && !graph_find_driver(g, format)) {
        err_set(err, EINVAL, "Unknown driver '%s'", format);
        graph_hint_formats(g, format, err);
        return -EINVAL;
    }
    if (format) {
        return 0;
    }
    r = image_format_co_find(g, options, spec->flags, &format, err);
    if (r == 0) {
        json_object_set_new(options, "driver", json_string(format));
        if (spec->flags & NODE_RDWR) {
            r = guess_co_check(g, spec, options, format, err);
        }
    }
    return r;
}

CO_FN int image_co_open_bare(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err)
{
    json_t *options = NULL;
    int r = spec_to_options(spec, &options, err);

    if (r == 0) {
        r = options_co_complete(g, spec, options, err);
    }
    if (r == 0 && spec->key_secret) {
        json_object_set_new(options, "encrypt",
                            json_pack("{s:s}", "key-secret", spec->key_secret));
    }
    if (r == 0) {
        r = node_co_open(g, options, spec->flags, ret_node, err);
    }
    json_decref(options);
    /* Options may say read-only=on where the command is to write. */
    if (r == 0 && (spec->flags & NODE_RDWR) && !node_is_writable(*ret_node)) {
        node_co_unref(*ret_node);
        r = err_set(err, EACCES, "Block node is read-only");
    }
    return r;
}

/* What to do about a file that is not there: a name that nearly fits, of the
 * same folder, is the one that was meant. */
static void image_hint_missing(const char *name, GError **err)
{
    g_autofree char *folder = g_path_get_dirname(name);
    g_autofree char *base = g_path_get_basename(name);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    GDir *dir = g_file_test(name, G_FILE_TEST_EXISTS)
                    ? NULL
                    : g_dir_open(folder, 0, NULL);
    const char *entry, *near;

    if (!dir) {
        return;
    }
    while ((entry = g_dir_read_name(dir))) {
        g_ptr_array_add(names, g_strdup(entry));
    }
    g_dir_close(dir);
    g_ptr_array_add(names, NULL);
    near = suggest_word(base, (const char *const *)names->pdata);
    if (near) {
        err_hint(err, "Did you mean '%s'?", near);
    }
}

CO_FN int image_co_open_spec(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err)
{
    int r;

    if (spec->is_opts && spec->format) {
        return err_set(err, EINVAL,
                       "--image-opts and --format are mutually "
                       "exclusive");
    }
    r = image_co_open_bare(g, spec, ret_node, err);
    if (r < 0) {
        cli_prefix_once(err, "Could not open", spec->name);
        if (r == -ENOENT && !spec->is_opts) {
            image_hint_missing(spec->name, err);
        }
    }
    return r;
}

char *image_backing_path(const char *filename, const char *backing)
{
    const char *path = g_str_has_prefix(backing, "file:")
                           ? backing + strlen("file:")
                           : NULL;
    const char *colon = strchr(backing, ':');
    const char *slash = strchr(backing, '/');
    bool address = !path && colon && (!slash || colon < slash);

    backing = path ? path : backing;
    if (address || g_path_is_absolute(backing)) {
        return g_strdup(backing);
    }
    if (!strchr(filename, '/')) {
        /* "file:a:b" is a path still. */
        return g_strconcat(path && strchr(path, ':') ? "./" : "", backing,
                           NULL);
    }
    g_autofree char *dir = g_path_get_dirname(filename);
    return g_build_filename(dir, backing, NULL);
}

struct node *image_data_file(const struct node *n)
{
    struct edge *e = node_child(n, "data-file");

    return e ? edge_child(e) : NULL;
}

/* Is the storage under @n (NULL: none) file @a? */
static CO_FN bool storage_co_is(struct node *n, const struct stat *a)
{
    const struct node *storage = node_storage(n);
    struct stat b;

    return storage && node_filename(storage) &&
           io_co_stat(node_filename(storage), &b) == 0 &&
           a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

CO_FN bool image_co_is_part_of(struct node *n, const char *path)
{
    struct stat a;

    if (io_co_stat(path, &a) < 0) {
        return false;
    }
    for (; n; n = node_backing(n)) {
        if (storage_co_is(n, &a) || storage_co_is(image_data_file(n), &a)) {
            return true;
        }
    }
    return false;
}

CO_FN int image_co_backing_size(struct graph *g, const char *filename,
                                const char *backing, const char *format,
                                uint64_t *ret_size, GError **err)
{
    g_autofree char *path = image_backing_path(filename, backing);
    struct image_spec spec = { .name = path, .format = format };
    json_t *options = NULL;
    struct node *n;
    int r = spec_to_options(&spec, &options, err);

    if (r == 0) {
        /* No data is read: none that is elsewhere need be there. */
        r = node_co_open(g, options, NODE_NO_IO, &n, err);
    }

    json_decref(options);
    if (r < 0) {
        return r;
    }
    if (image_co_is_part_of(n, filename)) {
        r = err_set(err, ELOOP,
                    "'%s' is part of the chain of '%s': the new "
                    "image would overwrite it",
                    filename, backing);
    }
    *ret_size = node_size(n);
    node_co_unref(n);
    return r;
}

CO_FN int image_co_backing_format(struct graph *g, const char *filename,
                                  const char *backing, const char **ret_format,
                                  GError **err)
{
    g_autofree char *path = image_backing_path(filename, backing);
    struct image_spec spec = { .name = path };
    const struct node_driver *drv = NULL;
    json_t *options = NULL;
    int r = spec_to_options(&spec, &options, err);

    if (r == 0) {
        r = image_co_probe(g, options, 0, "-F raw", &drv, err);
    }
    json_decref(options);
    if (r == 0) {
        *ret_format = drv ? driver_name(drv) : "raw";
    }
    return r;
}
