/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open nodes that become read-only or writable.
 *
 * To become writable goes from the storage up, to become read-only from the top
 * down (flushed first), so that no format ever writes to storage that is
 * read-only.
 */
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "graph/model/chain-map.h"
#include "graph/model/model.h"
#include "graph/open/open.h"
#include "graph/trace.h"

int driver_co_reopen(struct node *n, struct opts *o, unsigned flags,
                     GArray *log, GError **err)
{
    const struct reopened was = { n, n->flags };
    int ret = 0;

    if (n->drv->co_reopen) {
        ret = n->drv->co_reopen(n, o, flags, err);
    } else if (n->drv->kind == NODE_PROTOCOL) {
        ret = err_set(err, ENOTSUP,
                      "Block format '%s' used by node '%s' does not support "
                      "reopening files",
                      n->drv->name, n->name);
    }
    if (ret < 0) {
        return ret;
    }
    n->flags = flags;
    chain_maps_drop(n);
    if (log) {
        node_ref(n);
        g_array_append_val(log, was);
    } else if (n->drv->co_reopen_end) {
        n->drv->co_reopen_end(n, true);
    }
    return 0;
}

struct opts *own_opts_new(const json_t *options)
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

int rdonly_co_one(struct node *n, bool read_only, GArray *log, GError **err)
{
    struct opts *o = own_opts_new(n->options);
    unsigned flags = read_only ? n->flags & ~(unsigned)NODE_RDWR
                               : n->flags | NODE_RDWR;
    int ret = 0;

    if (!read_only) {
        ret = children_co_set_perms(n, true, err);
    }
    if (ret == 0) {
        ret = driver_co_reopen(n, o, flags, log, err);
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
                       "Read-only block node '%s' cannot support read-write "
                       "users",
                       n->name);
    }
    return 0;
}

static CO_FN int rdonly_co_drained(struct node *n, bool read_only, GArray *log,
                                   GError **err)
{
    if (!read_only) {
        int ret = node_check_op(n, BLOCK_OP_REOPEN, err);

        return ret < 0 ? ret : rdonly_co_tree(n, read_only, log, err);
    }
    /* What others write to, a job that populates it included, stays
     * writable. */
    return has_writers(n) || node_check_op(n, BLOCK_OP_REOPEN, NULL) < 0
               ? 0
               : rdonly_co_tree(n, read_only, log, err);
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
                                 bool read_only, GArray *log, GError **err)
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
            ret = rdonly_co_drained(n, read_only, log, err);
        }
        node_drain_end(n);
        node_co_unref(n);
    }
    return ret;
}

/* To become writable: both or none. */
static CO_FN int rdonly_co_children(struct node *n, bool read_only, GArray *log,
                                    GError **err)
{
    bool was = node_file(n) && node_is_writable(node_file(n));
    int ret = rdonly_co_child(n, "file", read_only, log, err);

    if (ret == 0) {
        ret = rdonly_co_child(n, "data-file", read_only, log, err);
        if (ret < 0 && !read_only && !was) {
            (void)rdonly_co_child(n, "file", true, log, NULL);
        }
    }
    return ret;
}

int rdonly_co_tree(struct node *n, bool read_only, GArray *log, GError **err)
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
        /* Somebody may have come while it was flushed. */
        ret = rdonly_check(n, true, err);
        if (ret == 0) {
            n->priv->ends_writing = true;
            ret = rdonly_co_one(n, true, log, err);
            n->priv->ends_writing = false;
        }
        if (ret == 0) {
            ret = rdonly_co_children(n, true, log, err);
        }
    } else if (ret == 0) {
        ret = rdonly_co_children(n, false, log, err);
        if (ret == 0) {
            ret = rdonly_co_one(n, false, log, err);
        }
    }
    return ret;
}

int node_co_set_read_only(struct node *n, bool read_only, GError **err)
{
    int ret;

    node_ref(n);
    node_co_drain_begin(n);
    ret = rdonly_co_tree(n, read_only, NULL, err);
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
