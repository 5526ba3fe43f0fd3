/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "json:{...}" as the backing name of an image's header.
 *
 * QEMU and libvirt write such names where a file name does not say enough: a
 * network disk, a window of a file.  A header may have been written by anybody,
 * so nothing in it is taken on trust: every node must be of a driver that lists
 * what headers may say of it (node_driver.reference_options), every option must
 * be on that list, and a file name must be one that would be followed alone.
 * Nodes of this process cannot be named, nothing becomes writable, no lock is
 * left out.
 *
 * A relative file name inside means, to QEMU, one in the folder where the
 * program was started.  It is taken only where the folder of the image has the
 * same file under it.
 */
#include <string.h>
#include "base/err.h"
#include "base/json-text.h"
#include "graph/open/open.h"
#include "loop/fdset.h"
#include "loop/io.h"

struct json_name {
    struct node *n; /* whose header it stands in */
    const char *name;
    bool may_be_gone;
    bool is_window; /* of its storage: not all of it */
    char *identity; /* of the storage; or NULL */
};

PRINTF_LIKE(3, 4)
static int json_name_refuse(const struct json_name *j, GError **err,
                            const char *fmt, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    va_start(ap, fmt);
    why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return err_set(err, EINVAL, "Backing file name '%s' of '%s' is refused: %s",
                   j->name, j->n->filename ? j->n->filename : j->n->name, why);
}

static bool is_listed(const struct node_driver *drv, const char *key)
{
    return drv->reference_options &&
           g_strv_contains(drv->reference_options, key);
}

static bool is_child(const struct node_driver *drv, const char *key,
                     const json_t *value)
{
    return drv->kind == NODE_FORMAT &&
           (!strcmp(key, "file") ||
            (!strcmp(key, "backing") && drv->supports_backing) ||
            (is_listed(drv, key) && json_is_object(value)));
}

/* --- file names --- */

static CO_FN int json_name_path_co_check(struct json_name *j, json_t *o,
                                         const char *path, GError **err)
{
    const char *driver;
    struct stat st;
    int ret = backing_co_check_relative(j->n, path, err);

    if (ret < 0) {
        return ret;
    }
    ret = io_co_stat(path, &st);
    if (ret < 0) {
        return j->may_be_gone
                   ? 0
                   : err_set_errno(err, -ret, "Could not open '%s'", path);
    }
    ret = backing_file_driver(path, &st, &driver, err);
    if (ret == 0) {
        json_object_set_new(o, "driver", json_string(driver));
        g_free(j->identity);
        j->identity = backing_stat_identity(&st);
    }
    return ret;
}

static CO_FN int filename_co_check(struct json_name *j, json_t *o, GError **err)
{
    const char *path = json_string_value(json_object_get(o, "filename"));
    int ret;

    if (!path) {
        return json_name_refuse(j, err, "its 'filename' is no text");
    }
    if (fdset_is_name(path)) {
        return json_name_refuse(j, err, "its 'filename' is a descriptor");
    }
    ret = backing_check_text(j->n, path, err);
    return ret < 0 ? ret : json_name_path_co_check(j, o, path, err);
}

/* --- nodes --- */

static CO_FN int object_co_check(struct json_name *j, json_t *o, GError **err);

static CO_FN int member_co_check(struct json_name *j,
                                 const struct node_driver *drv, const char *key,
                                 json_t *value, GError **err)
{
    if (is_child(drv, key, value)) {
        if (json_is_null(value) && !strcmp(key, "backing")) {
            return 0;
        }
        return json_is_object(value)
                   ? object_co_check(j, value, err)
                   : json_name_refuse(
                         j, err, "'%s' in it is a node of this process", key);
    }
    if (!strcmp(key, "driver") ||
        (!strcmp(key, "read-only") &&
         !g_strcmp0(json_string_value(value), "on"))) {
        return 0;
    }
    if (!is_listed(drv, key)) {
        return json_name_refuse(j, err,
                                "no header may set option '%s' of driver '%s'",
                                key, drv->name);
    }
    j->is_window |= drv->kind == NODE_FORMAT;
    return 0;
}

/* The driver of @o. One that is not said is "file": a file name here is never
 * an address, to QEMU neither. NULL: no header may name it. */
static const struct node_driver *find_driver(struct json_name *j, json_t *o,
                                             GError **err)
{
    const char *driver = json_string_value(json_object_get(o, "driver"));
    const struct node_driver *drv;

    if (!driver && json_object_get(o, "filename")) {
        driver = "file";
    }
    drv = driver ? graph_find_driver(j->n->graph, driver) : NULL;
    if (!drv || !drv->reference_options) {
        if (driver) {
            json_name_refuse(j, err, "no header may name a node of driver '%s'",
                             driver);
        } else {
            json_name_refuse(j, err, "it does not say what a node in it is");
        }
        return NULL;
    }
    json_object_set_new(o, "driver", json_string(drv->name));
    return drv;
}

/* Storage that has no file: its options tell it from others. */
static void note_storage(struct json_name *j, const json_t *o,
                         const struct node_driver *drv)
{
    if (drv->kind == NODE_PROTOCOL && !json_object_get(o, "filename")) {
        g_free(j->identity);
        j->identity = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
    }
}

/* One node and what is below it. Names nest only as deep as the text does. */
static CO_FN int object_co_check(struct json_name *j, json_t *o, GError **err)
{
    const struct node_driver *drv = find_driver(j, o, err);
    json_t *members, *value;
    const char *key;
    int ret = 0;

    if (!drv) {
        return -EINVAL;
    }
    members = json_copy(o);
    json_object_foreach(members, key, value) {
        if (strcmp(key, "file")) {
            ret = member_co_check(j, drv, key, value, err);
        }
        if (ret < 0) {
            break;
        }
    }
    /* Last, so that the storage that is remembered is that of the node
     * itself. */
    value = json_object_get(members, "file");
    if (ret == 0 && value) {
        ret = is_child(drv, "file", value)
                  ? member_co_check(j, drv, "file", value, err)
                  : json_name_refuse(j, err, "driver '%s' has no 'file'",
                                     drv->name);
    }
    json_decref(members);
    if (ret == 0 && json_object_get(o, "filename")) {
        ret = filename_co_check(j, o, err);
    }
    note_storage(j, o, drv);
    return ret;
}

/* --- the whole name --- */

/* Which format is it? *@ret_known: it was said, or could be found. */
static CO_FN int json_name_format_co_find(struct json_name *j, json_t *o,
                                          const char *fmt, bool *ret_known,
                                          GError **err)
{
    const char *said = json_string_value(json_object_get(o, "driver"));
    const struct node_driver *drv = fmt ? graph_find_driver(j->n->graph, fmt)
                                        : NULL;
    json_t *file = json_object_get(o, "file");
    int ret;

    *ret_known = true;
    if (fmt && !drv) {
        return json_name_refuse(j, err,
                                "the format beside it, '%s', is unknown", fmt);
    }
    if (drv) {
        fmt = drv->kind == NODE_PROTOCOL ? "raw" : fmt;
        return !said || !strcmp(said, fmt)
                   ? json_object_set_new(o, "driver", json_string(fmt))
                   : json_name_refuse(
                         j, err,
                         "it is of driver '%s', the format beside it is "
                         "'%s'",
                         said, fmt);
    }
    if (said || !json_is_object(file)) {
        return 0;
    }
    ret = object_co_check(j, file, err);
    *ret_known = !j->may_be_gone;
    if (ret == 0 && *ret_known) {
        ret = backing_co_probe(j->n, j->name, file, &fmt, err);
    }
    if (ret == 0 && *ret_known) {
        json_object_set_new(o, "driver", json_string(fmt));
    }
    return ret;
}

int json_name_co_parse(struct node *n, const char *name, const char *fmt,
                       bool may_be_gone, json_t **ret_options,
                       char **ret_identity, GError **err)
{
    struct json_name j = { .n = n, .name = name, .may_be_gone = may_be_gone };
    bool known = false;
    json_t *o = NULL;
    int ret = json_text_options(name + strlen("json:"), &o, err);

    if (ret < 0) {
        err_prefix(err, "Backing file name '%s' of '%s'", name,
                   n->filename ? n->filename : n->name);
        return ret;
    }
    ret = json_name_format_co_find(&j, o, fmt, &known, err);
    if (ret == 0 && known) {
        ret = object_co_check(&j, o, err);
    }
    if (ret < 0 || j.is_window) {
        g_clear_pointer(&j.identity, g_free);
    }
    if (ret < 0) {
        json_decref(o);
        return ret;
    }
    *ret_options = o;
    *ret_identity = j.identity;
    return 0;
}
