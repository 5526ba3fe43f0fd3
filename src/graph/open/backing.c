/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the backing name of an image's header may mean.
 *
 * A header is written by whoever had the image, a guest included.  Its backing
 * name is a path (relative to the image's folder) of a regular file or block
 * device, or an address that a storage driver claims by its prefix, or options
 * (json:) within the limits of json-name.c; it is never taken for a descriptor
 * (fd:), and FIFOs, sockets and character devices are not opened.  The graph's
 * policy narrows that further.
 * A format that is not recorded is told by its magic and never guessed to be
 * raw.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/open/open.h"
#include "graph/trace.h"
#include "loop/io.h"

#define NAME_MAX_LEN 4095

/* --- addresses --- */

static json_t *file_options(const char *driver, const char *path)
{
    return json_pack("{s:s, s:s}", "driver", driver, "filename", path);
}

/* The length of "NAME:" when @name begins like an address, else 0. A path with
 * a colon in it can be given as ./PATH. */
static size_t scheme_length(const char *name)
{
    size_t len = strcspn(name, ":/");

    return name[len] == ':' && len > 0 ? len + 1 : 0;
}

bool backing_is_path(const char *name)
{
    return scheme_length(name) == 0;
}

const struct node_driver *backing_address_driver(struct graph *g,
                                                 const char *name)
{
    for (unsigned i = 0; g->drivers[i]; i++) {
        const char *const *p = g->drivers[i]->name_prefixes;

        for (; p && *p; p++) {
            if (g_str_has_prefix(name, *p)) {
                return g->drivers[i];
            }
        }
    }
    return NULL;
}

/* Names of filters are for people: a header could reach any file with them. */
static bool scheme_is_filter(struct graph *g, const char *name)
{
    const struct node_driver *drv = backing_address_driver(g, name);

    return drv && drv->kind == NODE_FILTER;
}

/* The driver itself takes the address apart. */
static int parse_scheme(struct graph *g, const char *name, json_t **ret_options,
                        GError **err)
{
    const struct node_driver *drv = backing_address_driver(g, name);

    if (!drv) {
        return err_set(err, EPROTONOSUPPORT, "Unknown protocol '%.*s'",
                       (int)(scheme_length(name) - 1), name);
    }
    *ret_options = file_options(drv->name, name);
    return 0;
}

/* --- files --- */

static const char *file_driver_name(mode_t mode)
{
    if (S_ISREG(mode)) {
        return "file";
    }
    return S_ISBLK(mode) ? "host_device" : NULL;
}

static const char *file_type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFIFO:
        return "a FIFO";
    case S_IFCHR:
        return "a character device";
    case S_IFSOCK:
        return "a socket";
    case S_IFDIR:
        return "a directory";
    default:
        return "no regular file";
    }
}

int backing_file_driver(const char *path, const struct stat *st,
                        const char **ret_driver, GError **err)
{
    const char *driver = file_driver_name(st->st_mode);

    if (!driver) {
        return err_set(err, EINVAL, "Backing file '%s' is refused: it is %s",
                       path, file_type_name(st->st_mode));
    }
    *ret_driver = driver;
    return 0;
}

int backing_co_parse_address(struct graph *g, const char *address,
                             json_t **ret_options, GError **err)
{
    const char *driver = "file";
    struct stat st;

    if (g_str_has_prefix(address, "file:")) {
        address += strlen("file:");
    } else if (scheme_length(address) > 0) {
        return parse_scheme(g, address, ret_options, err);
    }
    /* A name that is not there is for the driver to complain about. */
    if (io_co_stat(address, &st) == 0 && S_ISBLK(st.st_mode)) {
        driver = "host_device";
    }
    *ret_options = file_options(driver, address);
    return *ret_options ? 0
           : err_set(err, EINVAL, "File name is not valid UTF-8");
}

/* --- the policy --- */

/* How error texts call the image of @n. */
static const char *image_of(const struct node *n)
{
    return n->filename ? n->filename : n->name;
}

int backing_check_text(const struct node *n, const char *name, GError **err)
{
    if (strlen(name) > NAME_MAX_LEN) {
        return err_set(err, ENAMETOOLONG, "Backing file name of '%s' is longer "
                       "than %d bytes", image_of(n), NAME_MAX_LEN);
    }
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            return err_set(err, EINVAL, "Backing file name of '%s' holds "
                           "control characters (offset %zu)", image_of(n),
                           (size_t)(p - name));
        }
    }
    return g_utf8_validate(name, -1, NULL) ? 0
        : err_set(err, EINVAL, "Backing file name of '%s' is not valid UTF-8",
                  image_of(n));
}

int backing_check_kind(const struct node *n, const char *name, GError **err)
{
    if (!g_str_has_prefix(name, "fd:") && !scheme_is_filter(n->graph, name)) {
        return 0;
    }
    return err_set(err, EINVAL, "Backing file name '%s' of '%s' is refused: an "
                   "image's header may name files and addresses only", name,
                   image_of(n));
}

/* How an image can be opened whose backing name is refused. */
static int advise(int ret, GError **err)
{
    if (ret == -EINVAL && err && !err_get_hint(*err)) {
        err_hint(err, "Name the node to use: backing=NODE-NAME, or none: "
                 "backing=null.");
    }
    return ret;
}

static int policy_check(const struct node *n, const char *name, GError **err)
{
    const char *policy = n->graph->policy == BACKING_DENY ? "deny" : "explicit";

    if (n->graph->policy == BACKING_FOLLOW ||
        n->graph->policy == BACKING_BENEATH) {
        return 0;
    }
    err_set(err, EPERM, "Backing file '%s' of '%s' is not opened: backing "
            "policy is '%s'", name, n->filename ? n->filename : n->name,
            policy);
    err_hint(err, "Name the backing node (backing=NODE-NAME) or none "
             "(backing=null), or start with --backing-policy follow.");
    return -EPERM;
}

struct resolve {
    const char *path;
    char *real;
};

static void resolve_in_pool(void *arg)
{
    struct resolve *r = arg;

    r->real = realpath(r->path, NULL);
}

/* @path without links; lexically where the engine's files are not the
 * kernel's. Owned. */
static CO_FN char *path_co_real(const char *path)
{
    struct resolve r = { .path = path };
    char *ret;

    co_in_pool(resolve_in_pool, &r);
    ret = r.real ? g_strdup(r.real) : g_canonicalize_filename(path, NULL);
    free(r.real);
    return ret;
}

/* Does @real (no links) lie in the folder of the policy? */
static CO_FN int beneath_co_check(const struct node *n, const char *what,
                                  const char *path, const char *real,
                                  GError **err)
{
    g_autofree char *root = path_co_real(n->graph->beneath);
    size_t len = strlen(root);

    if (strncmp(real, root, len) || (root[len - 1] != '/' && real[len] != '/')) {
        err_set(err, EPERM, "%s '%s' of '%s' is not opened: it is no regular "
                "file beneath '%s'", what, path, n->name, n->graph->beneath);
        err_hint(err, "Name the node to use by an option, or change "
                 "--backing-policy.");
        return -EPERM;
    }
    return 0;
}

static CO_FN int policy_co_beneath(const struct node *n, const char *path,
                                   const struct stat *st, GError **err)
{
    g_autofree char *real = NULL;

    if (n->graph->policy != BACKING_BENEATH) {
        return 0;
    }
    real = path_co_real(path);
    return beneath_co_check(n, "Backing file", path, S_ISREG(st->st_mode) ? real : "", err);
}

int node_co_check_beside(const struct node *n, const char *path, GError **err)
{
    g_autofree char *real = NULL;
    enum backing_policy policy = n->graph->policy;

    if (policy == BACKING_EXPLICIT || policy == BACKING_DENY) {
        err_set(err, EPERM, "Data file '%s' of '%s' is not opened: backing "
                "policy is '%s'", path, n->filename ? n->filename : n->name,
                policy == BACKING_DENY ? "deny" : "explicit");
        err_hint(err, "Name its node (data-file=NODE-NAME), or start with "
                 "--backing-policy follow.");
        return -EPERM;
    }
    if (policy != BACKING_BENEATH) {
        return 0;
    }
    real = path_co_real(path);
    return beneath_co_check(n, "Data file", path, real, err);
}

int backing_co_check_opened(const struct node *n, struct node *b, GError **err)
{
    struct node *storage = node_storage(b);
    g_autofree char *real = NULL;
    int ret;

    if (n->graph->policy != BACKING_BENEATH || !storage ||
        !storage->drv->co_real_path) {
        return 0;
    }
    ret = storage->drv->co_real_path(storage, &real);
    if (ret == -ENOTSUP) {
        return 0;
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not find out where '%s' is",
                             storage->filename);
    }
    return beneath_co_check(n, "Backing file", storage->filename, real, err);
}

int backing_path_beside(struct node *n, const char *name, char **ret_path,
                        GError **err)
{
    struct node *storage = node_storage(n);
    const char *image = storage ? storage->filename : NULL;
    char *dir;

    if (g_path_is_absolute(name)) {
        *ret_path = g_strdup(name);
        return 0;
    }
    if (!image || scheme_length(image) > 0) {
        return err_set(err, EINVAL, "Backing file name '%s' is relative, but "
                       "'%s' is not in a folder", name, n->name);
    }
    /* "./a" leads to "./b": what is printed looks like what was typed. */
    dir = g_path_get_dirname(image);
    *ret_path = strchr(image, '/') ? g_build_filename(dir, name, NULL)
                                   : g_strdup(name);
    g_free(dir);
    return 0;
}

char *backing_stat_identity(const struct stat *st)
{
    if (S_ISBLK(st->st_mode)) {
        return g_strdup_printf("blk:%" PRIu64, (uint64_t)st->st_rdev);
    }
    return g_strdup_printf("ino:%" PRIu64 ":%" PRIu64, (uint64_t)st->st_dev,
                           (uint64_t)st->st_ino);
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
    return ret == 0 ? 0
        : err_set_errno(err, -ret, "Could not open '%s'", path);
}

bool backing_co_same_file(const char *a, const char *b)
{
    struct stat st_a, st_b;

    return !strcmp(a, b) ||
        (io_co_stat(a, &st_a) == 0 && io_co_stat(b, &st_b) == 0 &&
         st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino);
}

int backing_co_check_relative(struct node *n, const char *path, GError **err)
{
    g_autofree char *beside = NULL, *there = NULL, *here = NULL;
    int ret;

    if (g_path_is_absolute(path)) {
        return 0;
    }
    ret = backing_path_beside(n, path, &beside, err);
    if (ret < 0) {
        return ret;
    }
    there = g_canonicalize_filename(beside, NULL);
    here = g_canonicalize_filename(path, NULL);
    return backing_co_same_file(there, here) ? 0
        : err_set(err, EINVAL, "Backing file name of '%s' is refused: the "
                  "relative file name '%s' in it means another file in the "
                  "folder of the image than in this one", image_of(n), path);
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
        *ret_options = file_options(driver, path);
        *ret_identity = backing_stat_identity(&st);
    }
    return ret;
}

CO_FN char *node_co_identity(struct node *n)
{
    struct node *storage = node_storage(n);
    struct stat st;

    if (!storage || !storage->filename) {
        return NULL;
    }
    if (scheme_length(storage->filename) == 0 &&
        io_co_stat(storage->filename, &st) == 0) {
        return backing_stat_identity(&st);
    }
    return g_strdup(storage->filename);
}

CO_FN char *node_co_name_identity(struct node *n, const char *name)
{
    g_autofree char *path = NULL;
    struct stat st;

    if (scheme_length(name) > 0) {
        return g_strdup(name);
    }
    return backing_path_beside(n, name, &path, NULL) == 0 &&
           io_co_stat(path, &st) == 0 ? backing_stat_identity(&st) : NULL;
}

/* --- the format --- */

/* Look at the first bytes of the storage. */
int backing_co_probe(struct node *n, const char *name, const json_t *storage,
                     const char **ret_format, GError **err)
{
    const struct node_driver *drv = NULL;
    int ret = storage_co_probe(n->graph, storage, n->flags & (NODE_FORCE_SHARE |
                                                              NODE_CACHE_DIRECT),
                               "backing.driver=raw here, or -F raw when the "
                               "overlay is created", &drv, err);

    if (ret < 0) {
        return ret;
    }
    if (!drv) {
        err_set(err, EINVAL, "The format of backing file '%s' is not recorded "
                "in '%s', and its content shows none", name,
                n->filename ? n->filename : n->name);
        err_hint(err, "If it is raw, say so: backing.driver=raw here, or -F raw "
                 "when the overlay is created.");
        return -EINVAL;
    }
    *ret_format = drv->name;
    return 0;
}

static int backing_format_check(struct node *n, const char *name, const char **format,
                        GError **err)
{
    const struct node_driver *drv = graph_find_driver(n->graph, *format);

    if (!drv) {
        return err_set(err, EINVAL,
                       "Backing file '%s' of '%s' has unknown format '%s'",
                       name, n->name, *format);
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
        err_set(err, EPERM, "Backing file '%s' of '%s' is not opened: it is no "
                "regular file beneath '%s'", name, image_of(n),
                n->graph->beneath);
        err_hint(err, "Name the backing node (backing=NODE-NAME), or start "
                 "with --backing-policy follow.");
        return -EPERM;
    }
    return advise(json_name_co_parse(n, name, format, false, ret_options,
                                     ret_identity, err), err);
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
        return ret < 0 ? ret : resolve_co_file(n, name, ret_storage,
                                               ret_identity, err);
    }
    if (backing_is_path(name)) {
        return resolve_co_file(n, name, ret_storage, ret_identity, err);
    }
    if (n->graph->policy == BACKING_BENEATH) {
        return err_set(err, EPERM, "Backing file '%s' of '%s' is not opened: "
                       "it is no regular file beneath '%s'", name, n->name,
                       n->graph->beneath);
    }
    ret = parse_scheme(n->graph, name, ret_storage, err);
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

int backing_co_resolve(struct node *n, struct backing_request *r,
                       json_t **ret_options, char **ret_identity, GError **err)
{
    const char *name = r->header_name, *format = r->format;
    json_t *o = NULL;
    int ret;

    if (!name) {
        *ret_options = json_incref(r->options);
        return 0;
    }
    ret = backing_check_text(n, name, err);
    if (ret == 0) {
        ret = advise(backing_check_kind(n, name, err), err);
    }
    if (ret == 0) {
        ret = policy_check(n, name, err);
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
