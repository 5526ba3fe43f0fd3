/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What drivers ask for while they are opened: their children.  "file" and the
 * like are opened and attached here; a backing file is only asked for, since the
 * chain opens in a loop (open.c).
 */
#include <string.h>
#include "base/err.h"
#include "graph/model/model.h"
#include "graph/open/open.h"

static unsigned file_perms(const struct node *n, unsigned *ret_shared)
{
    unsigned perm = PERM_CONSISTENT_READ;

    if (node_is_filter(n)) {
        *ret_shared = PERM_ALL;
        return n->drv->filter_perm;
    }
    if (n->flags & NODE_RDWR) {
        perm |= PERM_WRITE | PERM_RESIZE;
    }
    *ret_shared = n->flags & NODE_FORCE_SHARE
                      ? (unsigned)PERM_ALL
                      : PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    return perm;
}

/* The child that option @name says: options of a node or the name of one.
 * 1; 0: the option is not there. */
static CO_FN int open_co_child(struct node *n, struct opts *o, const char *name,
                               struct node **ret_child, GError **err)
{
    json_t *option = opts_take_any(o, name);
    int ret;

    if (!option) {
        return 0;
    }
    if (json_is_string(option)) {
        *ret_child = node_find_any(n->graph, json_string_value(option), err);
        ret = *ret_child ? 0 : -ENOENT;
        if (*ret_child) {
            node_ref(*ret_child);
        }
    } else if (json_is_object(option)) {
        ret = node_co_open(n->graph, option, n->flags & FLAGS_INHERITED,
                           ret_child, err);
        if (ret == 0) {
            (*ret_child)->priv->part_of = n->priv->serial;
        }
    } else {
        ret = err_set(err, EINVAL,
                      "Invalid parameter type for '%s', "
                      "expected: object or node name",
                      name);
    }
    json_decref(option);
    return ret < 0 ? ret : 1;
}

/* The child that option "file" or "filename" names. */
static CO_FN int open_co_file_child(struct node *n, struct opts *o,
                                    struct node **ret_child, GError **err)
{
    char *name = NULL;
    json_t *file;
    int ret = open_co_child(n, o, "file", ret_child, err);

    if (ret != 0) {
        return MIN(ret, 0);
    }
    ret = opts_take_str(o, "filename", &name, err);
    if (ret <= 0) {
        return ret < 0 ? ret
                       : err_set(err, EINVAL,
                                 "A block device must be specified for "
                                 "\"file\"");
    }
    file = json_pack("{s:o}", "filename", json_string_nocheck(name));
    g_free(name);
    ret = node_co_open(n->graph, file, n->flags & FLAGS_INHERITED, ret_child,
                       err);
    json_decref(file);
    if (ret == 0) {
        (*ret_child)->priv->part_of = n->priv->serial;
    }
    return ret;
}

/* Attach @child, whose reference is the caller's, as @n's flags want it. With
 * auto-read-only they follow what is read-only. */
static CO_FN int child_co_attach(struct node *n, struct node *child,
                                 const char *name, GError **err)
{
    unsigned perm, shared;

    if ((n->flags & NODE_RDWR) && !node_is_writable(child)) {
        if (!node_is_filter(n) && !(n->flags & NODE_AUTO_RDONLY)) {
            return err_set(err, EACCES, "Block node is read-only");
        }
        n->flags &= ~(unsigned)NODE_RDWR;
    }
    perm = file_perms(n, &shared);
    return edge_co_attach(n, child, name, perm, shared, err);
}

int node_co_open_file(struct node *n, struct opts *o, GError **err)
{
    struct node *child = NULL;
    int ret = open_co_file_child(n, o, &child, err);

    if (ret != 0) {
        return ret;
    }
    ret = child_co_attach(n, child, "file", err);
    if (ret == 0 && node_is_filter(n)) {
        n->size = child->size;
    }
    node_co_unref(child);
    return ret;
}

/* Is @child the storage that @n has as "file" already? */
static CO_FN int child_co_check_other(struct node *n, struct node *child,
                                      const char *name, GError **err)
{
    g_autofree char *file = node_co_identity(n);
    g_autofree char *other = node_co_identity(child);

    if (node_storage(child) != node_storage(n) &&
        (!file || g_strcmp0(file, other) != 0)) {
        return 0;
    }
    return err_set(err, EINVAL, "The %s of '%s' cannot be the image itself",
                   name, node_storage(n)->filename);
}

int node_co_open_child(struct node *n, struct opts *o, const char *name,
                       struct edge **ret_edge, GError **err)
{
    bool writable = n->flags & NODE_RDWR;
    struct node *child = NULL;
    int ret = open_co_child(n, o, name, &child, err);

    *ret_edge = NULL;
    if (ret <= 0) {
        return ret;
    }
    ret = child_co_check_other(n, child, name, err);
    if (ret == 0) {
        ret = child_co_attach(n, child, name, err);
    }
    if (ret == 0 && writable && !(n->flags & NODE_RDWR)) {
        ret = children_co_set_perms(n, false, err);
    }
    if (ret == 0) {
        *ret_edge = node_child(n, name);
    }
    node_co_unref(child);
    return ret;
}

int node_co_open_child_as(struct node *n, struct opts *o, const char *name,
                          unsigned perm, unsigned shared, GError **err)
{
    struct node *child = NULL;
    int ret = open_co_child(n, o, name, &child, err);

    if (ret <= 0) {
        return ret < 0 ? ret : opts_missing(name, err);
    }
    ret = edge_co_attach(n, child, name, perm, shared, err);
    node_co_unref(child);
    return ret;
}

/* Do the options say where the backing is, rather than only how to take what
 * the header names? */
static bool backing_is_explicit(struct graph *g, const json_t *option)
{
    const char *driver = json_string_value(json_object_get(option, "driver"));
    const struct node_driver *drv = driver ? graph_find_driver(g, driver)
                                           : NULL;

    return json_is_string(option) || json_object_get(option, "file") ||
           json_object_get(option, "filename") ||
           (drv && drv->kind != NODE_FORMAT);
}

int node_co_open_backing(struct node *n, struct opts *o,
                         const char *header_name, const char *fmt, GError **err)
{
    json_t *option = opts_take_any(o, "backing");
    struct backing_request *r;

    if (option && !json_is_object(option) && !json_is_string(option) &&
        !json_is_null(option)) {
        json_decref(option);
        return err_set(err, EINVAL,
                       "Invalid parameter type for 'backing', "
                       "expected: object, node name or null");
    }
    if (header_name && !*header_name) {
        header_name = NULL;
    }
    /* An empty name says null in the command line's syntax. */
    if (json_is_null(option) || (n->flags & NODE_NO_BACKING) ||
        (json_is_string(option) && !*json_string_value(option)) ||
        (!option && !header_name)) {
        json_decref(option);
        return 0;
    }
    r = g_new0(struct backing_request, 1);
    r->options = option;
    r->format = g_strdup(fmt);
    if (!backing_is_explicit(n->graph, option)) {
        r->header_name = g_strdup(header_name);
    }
    n->priv->pending = r;
    return 0;
}

bool node_wants_backing(const struct node *n)
{
    return n->priv->pending;
}
