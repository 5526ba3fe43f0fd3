/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing an open node: read-only or not, other options, another backing.
 *
 * To become writable goes from the storage up, to become read-only from the top
 * down (flushed first), so that no format ever writes to storage that is
 * read-only.
 */
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "graph/model/model.h"
#include "graph/open/open.h"
#include "graph/trace.h"

/* The driver's part of a change of flags. */
static CO_FN int reopen_co_driver(struct node *n, struct opts *o,
                                  unsigned flags, GError **err)
{
    unsigned old_flags = n->flags;
    int ret = 0;

    if (n->drv->co_reopen) {
        ret = n->drv->co_reopen(n, o, flags, err);
    } else if (n->drv->kind == NODE_PROTOCOL) {
        ret = err_set(err, ENOTSUP,
                      "Driver '%s' of node '%s' cannot be reopened",
                      n->drv->name, n->name);
    }
    n->flags = ret < 0 ? old_flags : flags;
    return ret;
}

/* @options without what every node has and without children. */
static struct opts *own_opts_new(const json_t *options)
{
    static const char *const common[] = {
        "driver",      "node-name", "read-only", "auto-read-only",
        "force-share", "cache",     "discard",   "detect-zeroes",
        "file",        "data-file", "backing",
    };
    struct opts *o = opts_new(options);

    for (unsigned i = 0; i < G_N_ELEMENTS(common); i++) {
        json_decref(opts_take_any(o, common[i]));
    }
    return o;
}

static CO_FN int rdonly_co_one(struct node *n, bool read_only, GError **err)
{
    struct opts *o = own_opts_new(n->options);
    unsigned flags = read_only ? n->flags & ~(unsigned)NODE_RDWR
                               : n->flags | NODE_RDWR;
    int ret = 0;

    if (!read_only) {
        ret = children_co_set_perms(n, true, err);
    }
    if (ret == 0) {
        ret = reopen_co_driver(n, o, flags, err);
    }
    if (ret == 0 ? read_only : !read_only) {
        (void)children_co_set_perms(n, false, NULL);
    }
    opts_free(o);
    return ret;
}

/* Is somebody else writing to @n, who would notice? */
static bool has_writers(const struct node *n)
{
    unsigned perm, shared;

    node_cumulative_perms(n, &perm, &shared);
    return perm & (PERM_WRITE | PERM_RESIZE);
}

static int rdonly_check(struct node *n, bool read_only, GError **err)
{
    if (!read_only && n->priv->explicit_rdonly &&
        !(n->flags & NODE_AUTO_RDONLY)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    if (!read_only) {
        return node_check_share(n->flags | NODE_RDWR, err);
    }
    if (has_writers(n)) {
        return err_set(err, EBUSY,
                       "Node '%s' is busy: it is in use for writing", n->name);
    }
    return 0;
}

static CO_FN int rdonly_co_tree(struct node *n, bool read_only, GError **err);

static CO_FN int rdonly_co_drained(struct node *n, bool read_only, GError **err)
{
    if (!read_only) {
        int ret = node_check_op(n, BLOCK_OP_REOPEN, err);

        return ret < 0 ? ret : rdonly_co_tree(n, read_only, err);
    }
    /* What others write to, a job that populates it included, stays
     * writable. */
    return has_writers(n) || node_check_op(n, BLOCK_OP_REOPEN, NULL) < 0
               ? 0
               : rdonly_co_tree(n, read_only, err);
}

static struct node *child_called(const struct node *n, const char *name)
{
    struct edge *e = node_child(n, name);

    return e ? e->child : NULL;
}

/* What is below @parent may have backends of its own, of exports and jobs,
 * which the drain of @parent did not stop; and it may be another node when they
 * have. */
static CO_FN int rdonly_co_child(struct node *parent, const char *name,
                                 bool read_only, GError **err)
{
    bool done = false;
    struct node *n;
    int ret = 0;

    while (!done && (n = child_called(parent, name)) &&
           node_is_writable(n) == read_only) {
        node_ref(n);
        node_co_drain_begin(n);
        done = child_called(parent, name) == n;
        if (done) {
            ret = rdonly_co_drained(n, read_only, err);
        }
        node_drain_end(n);
        node_co_unref(n);
    }
    return ret;
}

/* To become writable: both or none. */
static CO_FN int rdonly_co_children(struct node *n, bool read_only,
                                    GError **err)
{
    bool was = node_file(n) && node_is_writable(node_file(n));
    int ret = rdonly_co_child(n, "file", read_only, err);

    if (ret == 0) {
        ret = rdonly_co_child(n, "data-file", read_only, err);
        if (ret < 0 && !read_only && !was) {
            (void)rdonly_co_child(n, "file", true, NULL);
        }
    }
    return ret;
}

/* @n, drained, and the storage below it, the order by the direction. */
static CO_FN int rdonly_co_tree(struct node *n, bool read_only, GError **err)
{
    int ret = 0;

    if (node_is_writable(n) != read_only) {
        return 0;
    }
    ret = rdonly_check(n, read_only, err);
    if (ret == 0 && read_only) {
        ret = BARRIER(REOPEN_FLUSH, node_co_flush(n));
        if (ret < 0) {
            return err_set_errno(err, -ret, "Could not flush node '%s'",
                                 n->name);
        }
        ret = rdonly_co_one(n, true, err);
        if (ret == 0) {
            ret = rdonly_co_children(n, true, err);
        }
    } else if (ret == 0) {
        ret = rdonly_co_children(n, false, err);
        if (ret == 0) {
            ret = rdonly_co_one(n, false, err);
        }
    }
    return ret;
}

int node_co_set_read_only(struct node *n, bool read_only, GError **err)
{
    int ret;

    node_ref(n);
    node_co_drain_begin(n);
    ret = rdonly_co_tree(n, read_only, err);
    node_drain_end(n);
    node_co_unref(n);
    return ret;
}

/* Nodes that become writable together with @n, itself first. */
static void collect_storage(struct node *n, GPtrArray *nodes)
{
    static const char *const names[] = { "file", "data-file" };

    g_ptr_array_add(nodes, n);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        struct node *child = child_called(n, names[i]);

        if (child) {
            collect_storage(child, nodes);
        }
    }
}

int node_co_take_for_writing(struct node *n, GError **err)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    g_autoptr(GPtrArray) lifted = g_ptr_array_new();
    int ret;

    collect_storage(n, nodes);
    for (unsigned i = 0; i < nodes->len; i++) {
        struct node *at = node_ref(g_ptr_array_index(nodes, i));

        if (at->priv->explicit_rdonly) {
            at->priv->explicit_rdonly = false;
            g_ptr_array_add(lifted, at);
        }
    }
    ret = node_co_set_read_only(n, false, err);
    for (unsigned i = 0; i < lifted->len; i++) {
        ((struct node *)g_ptr_array_index(lifted, i))->priv->explicit_rdonly =
            true;
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        node_co_unref(g_ptr_array_index(nodes, i));
    }
    return ret;
}

/* --- blockdev-reopen --- */

static int reopen_check_same(const json_t *old, const json_t *new_options,
                             const char *name, GError **err)
{
    json_t *a = json_object_get(old, name);
    json_t *b = json_object_get(new_options, name);

    if (b && !json_equal(a, b)) {
        return err_set(err, EINVAL, "Cannot change the option '%s'", name);
    }
    return 0;
}

/* "backing": a node name or null; other forms must be what they were. */
static CO_FN int reopen_co_backing(struct node *n, const json_t *options,
                                   GError **err)
{
    json_t *b = json_object_get(options, "backing");
    struct edge *e = n->priv->backing;
    struct node *to;

    if (!b) {
        return 0;
    }
    if (json_is_object(b)) {
        return reopen_check_same(n->options, options, "backing", err);
    }
    if (json_is_null(b) || !*json_string_value(b)) {
        if (e && e->frozen) {
            return err_set(err, EPERM,
                           "Cannot change frozen 'backing' link from '%s'",
                           n->name);
        }
        if (e) {
            edge_co_detach(e);
        }
        return 0;
    }
    to = node_find(n->graph, json_string_value(b), err);
    if (!to) {
        return -ENOENT;
    }
    if (!n->drv->supports_backing) {
        return err_set(err, EINVAL,
                       "Driver '%s' of node '%s' does not support "
                       "backing files",
                       n->drv->name, n->name);
    }
    return e ? edge_co_replace(e, to, err)
             : edge_co_attach(n, to, "backing", PERM_CONSISTENT_READ,
                              PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, err);
}

static CO_FN int reopen_co_file(struct node *n, const json_t *options,
                                GError **err)
{
    json_t *f = json_object_get(options, "file");
    struct node *to;

    if (!f || !n->priv->file) {
        return 0;
    }
    if (!json_is_string(f)) {
        return reopen_check_same(n->options, options, "file", err);
    }
    to = node_find(n->graph, json_string_value(f), err);
    return to ? edge_co_replace(n->priv->file, to, err) : -ENOENT;
}

/* The driver's own options: what is neither common nor a child. */
static CO_FN int reopen_co_own(struct node *n, const json_t *options,
                               GError **err)
{
    struct opts *o = own_opts_new(options);
    struct opts *old = own_opts_new(n->options);
    int ret = 0;

    /* Nothing left on either side: no need to ask. */
    if (opts_finish(o, NULL) < 0 || opts_finish(old, NULL) < 0) {
        ret = reopen_co_driver(n, o, n->flags, err);
        if (ret == 0) {
            ret = opts_finish(o, err);
        }
    }
    opts_free(o);
    opts_free(old);
    return ret;
}

static CO_FN int reopen_co_drained(struct node *n, const json_t *options,
                                   GError **err)
{
    struct opts *o = opts_new(options);
    bool explicit_rdonly = n->priv->explicit_rdonly;
    bool read_only = !node_is_writable(n);
    int ret = opts_take_bool(o, "read-only", &read_only, err);

    opts_free(o);
    if (ret >= 0) {
        ret = reopen_co_own(n, options, err);
    }
    if (ret >= 0) {
        n->priv->explicit_rdonly = explicit_rdonly && read_only;
        ret = rdonly_co_tree(n, read_only, err);
    }
    if (ret < 0) {
        n->priv->explicit_rdonly = explicit_rdonly;
    }
    if (ret >= 0) {
        ret = reopen_co_file(n, options, err);
    }
    if (ret >= 0) {
        ret = reopen_co_backing(n, options, err);
    }
    return ret;
}

/* "data-file" stays, by whatever name. */
static int reopen_check_data_file(struct node *n, const json_t *options,
                                  GError **err)
{
    json_t *to = json_object_get(options, "data-file");
    struct edge *e = node_child(n, "data-file");

    if (json_is_string(to) && e &&
        g_str_equal(json_string_value(to), e->child->name)) {
        return 0;
    }
    return reopen_check_same(n->options, options, "data-file", err);
}

/* Options that stay for the life of a node; absent is what it was. */
static int reopen_check_fixed(struct node *n, const json_t *options,
                              GError **err)
{
    static const char *const fixed[] = {
        "driver",
        "cache",
        "force-share",
    };
    int ret = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(fixed) && ret == 0; i++) {
        ret = reopen_check_same(n->options, options, fixed[i], err);
    }
    return ret < 0 ? ret : reopen_check_data_file(n, options, err);
}

int node_co_reopen(struct node *n, const json_t *options, GError **err)
{
    int ret = node_check_op(n, BLOCK_OP_REOPEN, err);

    if (ret == 0) {
        ret = reopen_check_fixed(n, options, err);
    }
    if (ret < 0) {
        return ret;
    }
    node_ref(n);
    node_co_drain_begin(n);
    ret = reopen_co_drained(n, options, err);
    if (ret == 0) {
        ret = node_take_zeroing(n, options, err);
    }
    if (ret == 0) {
        json_decref(n->options);
        n->options = json_deep_copy(options);
        node_refresh_limits(n);
        node_notify_changed(n);
    }
    node_drain_end(n);
    node_co_unref(n);
    return ret;
}
