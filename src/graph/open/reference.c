/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * References: names of nodes for the headers of images; see reference.h.
 *
 * A node is described by options as QEMU would write them: its driver, what
 * decides its bytes, its file, and its backing file where that is not the one
 * that its own header names.  Where it turns out that all of this is what a
 * plain name leads to, the plain name is used.
 */
#include "graph/reference.h"
#include <string.h>
#include "base/err.h"
#include "graph/open/open.h"
#include "loop/io.h"

/* Of qcow2 and QED, in QEMU, too. */
#define REFERENCE_MAX 1023

const char *reference_format(const struct node *base)
{
    return base->drv->kind == NODE_PROTOCOL ? "raw" : base->drv->name;
}

PRINTF_LIKE(4, 5)
static int reference_refuse(const struct node *n, int errnum, GError **err,
                            const char *fmt, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    va_start(ap, fmt);
    why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return err_set(err, errnum,
                   "Node '%s' cannot be named in an image's "
                   "header: %s",
                   n->name, why);
}

/* --- storage --- */

/* Names that mean something in this process alone. */
static bool is_of_process(const char *path)
{
    static const char *const begins[] = {
        "/proc/",     "/dev/fd/",    "/dev/fdset/",
        "/dev/stdin", "/dev/stdout", "/dev/stderr",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(begins); i++) {
        if (g_str_has_prefix(path, begins[i])) {
            return true;
        }
    }
    return false;
}

/* Does @path, absolute, lead to what @n, storage, has open? */
static CO_FN int reference_path_co_check(struct node *n, const char *path,
                                         GError **err)
{
    const char *driver;
    struct stat named, open;
    int ret = backing_check_text(n, path, err);

    if (ret < 0) {
        return ret;
    }
    if (is_of_process(path)) {
        return reference_refuse(n, EINVAL, err,
                                "'%s' means something in this process "
                                "alone",
                                path);
    }
    ret = io_co_stat(path, &named);
    if (ret < 0) {
        return reference_refuse(n, -ret, err, "its file name '%s': %s", path,
                                g_strerror(-ret));
    }
    ret = backing_file_driver(path, &named, &driver, err);
    if (ret == 0 && n->drv->co_stat && n->drv->co_stat(n, &open) == 0) {
        g_autofree char *a = backing_stat_identity(&named);
        g_autofree char *b = backing_stat_identity(&open);

        ret = strcmp(a, b) ? reference_refuse(n, ESTALE, err,
                                              "'%s' is another file than "
                                              "the one that is open",
                                              path)
                           : 0;
    }
    return ret;
}

/* *@ret_plain: the file name of @n says it all. */
static CO_FN int storage_co_describe(struct node *n, json_t *o, bool *ret_plain,
                                     GError **err)
{
    const char *name = json_string_value(json_object_get(o, "filename"));
    g_autofree char *path = NULL;
    int ret;

    *ret_plain = n->filename &&
                 backing_address_driver(n->graph, n->filename) == n->drv;
    if (!name) {
        return 0;
    }
    path = g_canonicalize_filename(name, NULL);
    ret = reference_path_co_check(n, path, err);
    if (ret == 0) {
        json_object_set_new(o, "filename", json_string(path));
        *ret_plain = true;
    }
    return ret;
}

/* --- formats --- */

static CO_FN int node_co_describe(struct node *n, json_t **ret, bool *ret_plain,
                                  GError **err);

/* Is @b, plain, what the header's name @name and format @fmt lead to? */
static CO_FN bool header_co_leads_to(struct node *n, const char *name,
                                     const char *fmt, struct node *b)
{
    const struct node_driver *drv = fmt ? graph_find_driver(n->graph, fmt)
                                        : NULL;
    g_autofree char *named = NULL, *open = NULL;

    if (fmt ? !drv || strcmp(drv->kind == NODE_PROTOCOL ? "raw" : drv->name,
                             reference_format(b))
            : !strcmp(reference_format(b), "raw")) {
        return false;
    }
    if (!backing_is_path(name) && !g_str_has_prefix(name, "file:")) {
        return !g_strcmp0(b->priv->followed, name);
    }
    named = node_co_name_identity(n, name);
    open = node_co_identity(b);
    return named && !g_strcmp0(named, open);
}

/* The backing file of @n: into @o, unless it is what the header says. */
static CO_FN int backing_co_describe(struct node *n, json_t *o, bool *plain,
                                     GError **err)
{
    const char *fmt = NULL, *name = node_header_backing(n, &fmt);
    struct node *b = node_skip_filters(node_backing(n));
    json_t *below = NULL;
    bool below_plain = false;
    int ret;

    if (!b) {
        if (name && *name) {
            json_object_set_new(o, "backing", json_null());
            *plain = false;
        }
        return 0;
    }
    ret = node_co_describe(b, &below, &below_plain, err);
    if (ret < 0) {
        return ret;
    }
    if (name && below_plain && header_co_leads_to(n, name, fmt, b)) {
        json_decref(below);
    } else {
        json_object_set_new(o, "backing", below);
        *plain = false;
    }
    return 0;
}

/* The child of edge @e, other than a backing file, into @o. */
static CO_FN int child_co_describe(const struct edge *e, json_t *o, bool *plain,
                                   GError **err)
{
    struct node *child = node_skip_filters(e->child);
    json_t *below = NULL;
    bool below_plain = false;
    int ret = node_co_describe(child, &below, &below_plain, err);

    if (ret == 0) {
        json_object_set_new(o, e->name, below);
        *plain = *plain && !strcmp(e->name, "file") && below_plain &&
                 child->drv->kind == NODE_PROTOCOL;
    }
    return ret;
}

static CO_FN int format_co_describe(struct node *n, json_t *o, bool *ret_plain,
                                    GError **err)
{
    bool plain = json_object_size(o) == 1; /* the driver alone */
    int ret = 0;

    for (struct edge *e = n->children; e && ret == 0; e = e->next_in_parent) {
        /* What the format found by itself, it finds again. */
        if (strcmp(e->name, "backing") &&
            (!strcmp(e->name, "file") ||
             json_object_get(n->options, e->name))) {
            ret = child_co_describe(e, o, &plain, err);
        }
    }
    if (ret == 0 && n->drv->supports_backing) {
        ret = backing_co_describe(n, o, &plain, err);
    }
    *ret_plain = plain;
    return ret;
}

/* @n, no filter, as options. *@ret_plain: its file name and its driver are
 * enough to have it back. */
static CO_FN int node_co_describe(struct node *n, json_t **ret, bool *ret_plain,
                                  GError **err)
{
    json_t *o;
    int r;

    if (!n->drv->reference_options) {
        return reference_refuse(n, EINVAL, err,
                                "no header may name a node of driver "
                                "'%s'",
                                n->drv->name);
    }
    o = json_pack("{s:s}", "driver", n->drv->name);
    if (n->drv->reference) {
        n->drv->reference(n, o);
    }
    r = n->drv->kind == NODE_PROTOCOL
            ? storage_co_describe(n, o, ret_plain, err)
            : format_co_describe(n, o, ret_plain, err);
    if (r < 0) {
        json_decref(o);
        return r;
    }
    *ret = o;
    return 0;
}

/* --- names --- */

static char *name_as_json(json_t *o, const struct node *base)
{
    g_autofree char *text = NULL;
    json_t *whole = base->drv->kind == NODE_PROTOCOL
                        ? json_pack("{s:s, s:O}", "driver", "raw", "file", o)
                        : json_incref(o);

    text = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    return g_strconcat("json:", text, NULL);
}

static CO_FN char *name_co_plain(struct node *top, struct node *bottom,
                                 struct node *base)
{
    /* The file's own, for a filter above it may have another. */
    const char *filename = node_storage(base)->filename;
    char *name = reference_co_relative(top, bottom, base);

    if (name) {
        return name;
    }
    /* A path relative to our working folder would be read as relative to the
     * folder of the image; a colon in it, as the end of a protocol. */
    return backing_address_driver(base->graph, filename)
               ? g_strdup(filename)
               : g_canonicalize_filename(filename, NULL);
}

int reference_co_make(struct node *top, struct node *bottom, struct node *base,
                      char **ret_name, const char **ret_fmt, GError **err)
{
    g_autofree char *name = NULL;
    bool plain = false;
    json_t *o = NULL;
    int ret;

    base = node_skip_filters(base);
    ret = node_co_describe(base, &o, &plain, err);
    if (ret < 0) {
        return ret;
    }
    name = plain ? name_co_plain(top, bottom, base) : name_as_json(o, base);
    json_decref(o);
    ret = reference_co_check(top, name, reference_format(base), NULL, err);
    if (ret < 0) {
        err_prefix(err, "Node '%s' cannot be named in an image's header",
                   base->name);
        return ret;
    }
    *ret_name = g_steal_pointer(&name);
    *ret_fmt = reference_format(base);
    return 0;
}

/* --- names that were given --- */

struct find_above {
    struct node *image;
    GPtrArray *found;
};

static void add_above(struct node *n, void *arg)
{
    struct find_above *f = arg;

    if (n == f->image || node_chain_contains(n, f->image)) {
        g_ptr_array_add(f->found, node_ref(n));
    }
}

/* Is storage @identity that of @image, or of an image above it? */
static CO_FN int identity_co_check(struct node *image, const char *name,
                                   const char *identity, GError **err)
{
    struct find_above f = { image, g_ptr_array_new() };
    int ret = 0;

    graph_foreach_node(image->graph, add_above, &f);
    for (unsigned i = 0; i < f.found->len; i++) {
        struct node *n = g_ptr_array_index(f.found, i);
        g_autofree char *other = ret == 0 ? node_co_identity(n) : NULL;

        if (other && !strcmp(other, identity)) {
            ret = err_set(err, ELOOP,
                          "Backing file '%s' of '%s' is %s: the "
                          "chain would be a loop",
                          name, image->filename ? image->filename : image->name,
                          node_storage(n) == node_storage(image)
                              ? "the image itself"
                              : "part of the chain above it");
        }
        node_co_unref(n);
    }
    g_ptr_array_free(f.found, TRUE);
    return ret;
}

/* A path; *@ret_identity is NULL when nothing is there. */
static CO_FN int path_co_resolve(struct node *image, const char *name,
                                 char **ret_identity, GError **err)
{
    g_autofree char *path = NULL;
    const char *driver;
    struct stat st;
    int ret = backing_path_beside(image, name, &path, err);

    if (ret < 0) {
        return ret;
    }
    if (is_of_process(path)) {
        return err_set(err, EINVAL,
                       "Backing file name '%s' is refused: it "
                       "means something in this process alone",
                       name);
    }
    if (io_co_stat(path, &st) < 0) {
        return 0;
    }
    ret = backing_file_driver(path, &st, &driver, err);
    *ret_identity = ret == 0 ? backing_stat_identity(&st) : NULL;
    return ret;
}

/* What opening @image would make of @name, but for opening it. */
static CO_FN int name_co_resolve(struct node *image, const char *name,
                                 const char *fmt, char **ret_identity,
                                 GError **err)
{
    json_t *options = NULL;
    int ret;

    if (json_name_is(name)) {
        ret = json_name_co_parse(image, name, fmt, true, &options, ret_identity,
                                 err);
        json_decref(options);
        return ret;
    }
    if (g_str_has_prefix(name, "file:")) {
        name += strlen("file:");
        ret = backing_co_check_relative(image, name, err);
        return ret < 0 ? ret : path_co_resolve(image, name, ret_identity, err);
    }
    if (backing_is_path(name)) {
        return path_co_resolve(image, name, ret_identity, err);
    }
    if (!backing_address_driver(image->graph, name)) {
        return err_set(err, EPROTONOSUPPORT, "Unknown protocol '%.*s'",
                       (int)strcspn(name, ":"), name);
    }
    *ret_identity = g_strdup(name);
    return 0;
}

/* @name leads to the storage of @base: is that enough to have @base? */
static CO_FN int name_co_check_base(const char *name, const char *fmt,
                                    struct node *base, GError **err)
{
    g_autofree char *better = NULL;
    bool plain = false;
    json_t *o = NULL;

    base = node_skip_filters(base);
    if (json_name_is(name) || node_co_describe(base, &o, &plain, NULL) < 0) {
        return 0; /* it says more, or there is no better name */
    }
    better = name_as_json(o, base);
    json_decref(o);
    if (plain && (!fmt || !strcmp(fmt, reference_format(base)))) {
        return 0;
    }
    if (plain) {
        return err_set(err, EINVAL,
                       "Backing file '%s' is in use as %s, not as "
                       "%s",
                       name, reference_format(base), fmt);
    }
    err_set(err, EINVAL,
            "Backing file name '%s' would lead to other bytes "
            "than node '%s' has, which was opened with options",
            name, base->name);
    err_hint(err, "Name it %s", better);
    return -EINVAL;
}

int reference_co_check(struct node *image, const char *name, const char *fmt,
                       struct node *base, GError **err)
{
    g_autofree char *identity = NULL, *own = NULL;
    int ret = backing_check_text(image, name, err);

    if (ret == 0) {
        ret = backing_check_kind(image, name, err);
    }
    if (ret == 0) {
        ret = name_co_resolve(image, name, fmt, &identity, err);
    }
    if (ret == 0 && strlen(name) > REFERENCE_MAX) {
        ret = err_set(err, ENAMETOOLONG,
                      "Backing file name of %zu bytes: a "
                      "header takes %d",
                      strlen(name), REFERENCE_MAX);
    }
    if (ret == 0 && image->drv->check_backing) {
        ret = image->drv->check_backing(image, name, fmt, err);
    }
    if (ret < 0 || !identity) {
        return ret;
    }
    ret = identity_co_check(image, name, identity, err);
    own = ret == 0 && base ? node_co_identity(node_skip_filters(base)) : NULL;
    return own && !strcmp(own, identity)
               ? name_co_check_base(name, fmt, base, err)
               : ret;
}
