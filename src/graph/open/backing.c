/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the backing name of an image's header may mean.
 *
 * A header is written by whoever had the image, a guest included.  Its backing
 * name is a path (relative to the image's folder) of a regular file or block
 * device, or an address whose prefix a storage driver has registered, or
 * options (json:) within the limits of json-name.c; it is never taken for a
 * descriptor (fd:), and FIFOs, sockets and character devices are not opened.
 * The graph's policy narrows that further.  A format that is not recorded is
 * told by its magic and never guessed to be raw.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/open/open.h"
#include "graph/trace.h"
#include "loop/io.h"

/* How an image can be opened whose backing name is refused. */
static int advise(int ret, GError **err)
{
    if (ret == -EINVAL && err && !err_get_hint(*err)) {
        err_hint(err, "Name the node to use: backing=NODE-NAME, or none: "
                      "backing=null.");
    }
    return ret;
}

/* Of @path, or of what an image of that name has ended as. */
static CO_FN int path_co_stat(struct graph *g, const char *path,
                              struct stat *ret_st, GError **err)
{
    const struct node_driver *drv = NULL;
    g_autofree char *successor = NULL;
    int ret = io_co_stat(path, ret_st);

    if (ret == -ENOENT) {
        int found = successor_co_find(g, path, &successor, &drv, err);

        if (found < 0) {
            return found;
        }
        ret = found ? io_co_stat(successor, ret_st) : ret;
    }
    return ret == 0 ? 0 : err_set_errno(err, -ret, "Could not open '%s'", path);
}

static CO_FN int resolve_co_file(struct node *n, const char *name,
                                 json_t **ret_options, char **ret_identity,
                                 GError **err)
{
    g_autofree char *path = NULL;
    const char *driver;
    struct stat st;
    int ret = backing_path_beside(n, name, &path, err);

    if (ret < 0) {
        return ret;
    }
    ret = path_co_stat(n->graph, path, &st, err);
    if (ret < 0) {
        return ret;
    }
    ret = backing_file_driver(path, &st, &driver, err);
    if (ret < 0) {
        return ret;
    }
    ret = policy_co_beneath(n, path, &st, err);
    if (ret == 0) {
        *ret_options = address_of_file(driver, path);
        *ret_identity = backing_stat_identity(&st);
    }
    return ret;
}

/* --- the format --- */

static int backing_format_check(struct node *n, const char *name,
                                const char **format, GError **err)
{
    const struct node_driver *drv = graph_find_driver(n->graph, *format);

    if (!drv) {
        return err_set(err, EINVAL,
                       "Backing file '%s' of '%s' has unknown format '%s'",
                       name, node_title(n), *format);
    }
    if (drv->kind == NODE_PROTOCOL) {
        *format = "raw";
    }
    return 0;
}

/* @base: options that came with the request ({"driver": "raw"}), or NULL; they
 * win over @o, which goes. */
static json_t *combine(const json_t *base, json_t *o)
{
    json_t *ret = base ? json_deep_copy(base) : json_object();

    json_object_update_missing(ret, o);
    json_decref(o);
    return ret;
}

/* A json: name: more than a file or an address, so the policy must be the
 * widest. */
static CO_FN int resolve_co_json(struct node *n, const char *name,
                                 const char *format, json_t **ret_options,
                                 char **ret_identity, GError **err)
{
    if (n->graph->policy != BACKING_FOLLOW) {
        err_set(err, EPERM,
                "Backing file '%s' of '%s' is not opened: it is no "
                "regular file beneath '%s'",
                name, image_of(n), n->graph->beneath);
        err_hint(err, "Name the backing node (backing=NODE-NAME), or start "
                      "with --backing-policy follow.");
        return -EPERM;
    }
    return advise(json_name_co_parse(n, name, format, false, ret_options,
                                     ret_identity, err),
                  err);
}

/* A file or an address. */
static CO_FN int resolve_co_storage(struct node *n, const char *name,
                                    json_t **ret_storage, char **ret_identity,
                                    GError **err)
{
    int ret;

    if (g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
        ret = advise(backing_co_check_relative(n, name, err), err);
        return ret < 0
                   ? ret
                   : resolve_co_file(n, name, ret_storage, ret_identity, err);
    }
    if (backing_is_path(name)) {
        return resolve_co_file(n, name, ret_storage, ret_identity, err);
    }
    if (n->graph->policy == BACKING_BENEATH) {
        return err_set(err, EPERM,
                       "Backing file '%s' of '%s' is not opened: "
                       "it is no regular file beneath '%s'",
                       name, node_title(n), n->graph->beneath);
    }
    ret = address_parse(n->graph, name, ret_storage, err);
    *ret_identity = ret == 0 ? g_strdup(name) : NULL;
    return ret;
}

static CO_FN int resolve_co_plain(struct node *n, const char *name,
                                  const char *format, json_t **ret_options,
                                  char **ret_identity, GError **err)
{
    json_t *storage = NULL;
    int ret = resolve_co_storage(n, name, &storage, ret_identity, err);

    if (ret == 0) {
        ret = format ? backing_format_check(n, name, &format, err)
                     : backing_co_probe(n, name, storage, &format, err);
    }
    if (ret < 0) {
        json_decref(storage);
        return ret;
    }
    *ret_options = json_pack("{s:s, s:o}", "driver", format, "file", storage);
    return 0;
}

/* Options that say where the backing image is but not in what format: that
 * which the header records, else what the image seems to be. */
static CO_FN int resolve_co_given(struct node *n, struct backing_request *r,
                                  json_t **ret_options, GError **err)
{
    json_t *name = json_object_get(r->options, "filename");
    json_t *options = json_deep_copy(r->options), *file;
    const char *format = r->format, *shown;
    int ret;

    if (name) {
        json_object_set_new(options, "file",
                            json_pack("{s:O}", "filename", name));
        json_object_del(options, "filename");
    }
    file = json_object_get(options, "file");
    if (!name) {
        name = json_object_get(file, "filename");
    }
    shown = json_is_string(name) ? json_string_value(name) : "file";
    ret = format ? backing_format_check(n, shown, &format, err)
                 : backing_co_probe(n, shown, file, &format, err);
    if (ret < 0) {
        json_decref(options);
        return ret;
    }
    json_object_set_new(options, "driver", json_string(format));
    *ret_options = options;
    return 0;
}

static bool lacks_driver(const json_t *options)
{
    return (json_object_get(options, "filename") ||
            json_is_object(json_object_get(options, "file"))) &&
           !json_object_get(options, "driver");
}

int backing_co_resolve(struct node *n, struct backing_request *r,
                       json_t **ret_options, char **ret_identity, GError **err)
{
    const char *name = r->header_name, *format = r->format;
    json_t *o = NULL;
    int ret;

    if (!name && lacks_driver(r->options)) {
        return resolve_co_given(n, r, ret_options, err);
    }
    if (!name) {
        *ret_options = json_incref(r->options);
        return 0;
    }
    ret = backing_check_text(n, name, err);
    if (ret == 0) {
        ret = advise(backing_check_kind(n, name, err), err);
    }
    if (ret == 0) {
        ret = policy_check_name(n, name, err);
    }
    if (ret < 0) {
        return ret;
    }
    if (json_object_get(r->options, "driver")) {
        format = json_string_value(json_object_get(r->options, "driver"));
    }
    ret = json_name_is(name)
              ? resolve_co_json(n, name, format, &o, ret_identity, err)
              : resolve_co_plain(n, name, format, &o, ret_identity, err);
    if (ret < 0) {
        return ret;
    }
    trace_backing_follow(n->name, name,
                         json_string_value(json_object_get(o, "driver")));
    *ret_options = combine(r->options, o);
    return 0;
}
