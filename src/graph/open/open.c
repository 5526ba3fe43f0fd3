/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening nodes.
 *
 * node_co_open() opens one node and then, in a loop, each backing file that the
 * one before asked for: the depth of a chain costs no stack.  A chain that is
 * too long or contains a loop is refused.  Until all of it is open nobody finds
 * it by name; when a part fails, all of it is closed again.
 */
#include <string.h>
#include "base/err.h"
#include "graph/demand.h"
#include "graph/model/model.h"
#include "graph/open/open.h"
#include "graph/trace.h"
#include "loop/io.h"

/* "driver", or what "filename" implies. *@ret_opts: the options to go on with,
 * without "driver". */
static CO_FN int open_co_driver(struct graph *g, const json_t *options,
                                const struct node_driver **ret_drv,
                                struct opts **ret_opts, GError **err)
{
    struct opts *o = opts_new(options);
    char *name = NULL;
    int ret = opts_take_str(o, "driver", &name, err);

    if (ret == 0 && opts_has(o, "filename")) {
        char *address = NULL;
        json_t *parsed = NULL, *rest;

        ret = opts_take_str(o, "filename", &address, err);
        if (ret > 0) {
            ret = backing_co_parse_address(g, address, &parsed, err);
        }
        g_free(address);
        if (ret >= 0) {
            rest = json_copy((json_t *)options);
            json_object_del(rest, "filename");
            json_object_update(parsed, rest);
            json_decref(rest);
            opts_free(o);
            o = opts_new(parsed);
            json_decref(parsed);
            ret = opts_take_str(o, "driver", &name, err);
        }
    }
    if (ret == 0) {
        ret = opts_missing("driver", err);
    }
    if (ret > 0) {
        *ret_drv = graph_find_driver(g, name);
        ret = 0;
        if (!*ret_drv) {
            ret = err_set(err, EINVAL,
                          "Parameter 'driver' does not accept value '%s'",
                          name);
        }
    }
    g_free(name);
    if (ret < 0) {
        opts_free(o);
        return ret;
    }
    *ret_opts = o;
    return 0;
}

/* An option that is left was not understood by the driver. */
static int open_finish_opts(const struct node_driver *drv, struct opts *o,
                            GError **err)
{
    json_t *rest;
    int ret = opts_finish(o, NULL);

    if (ret == 0) {
        return 0;
    }
    rest = opts_take_rest(o);
    err_set(err, EINVAL,
            drv->kind == NODE_PROTOCOL
                ? "Block protocol '%s' doesn't support the option '%s'"
                : "Block format '%s' does not support the option '%s'",
            drv->name, json_object_iter_key(json_object_iter(rest)));
    json_decref(rest);
    return ret;
}

static CO_FN void node_co_finish_open(struct node *n)
{
    n->priv->open = true;
    storage_control_adopt(n);
    n->priv->growable = n->drv->kind == NODE_PROTOCOL && n->drv->co_truncate;
    /* Whoever wrote before us may not have flushed: the first flush counts. */
    n->priv->write_gen = 1;
    node_refresh_limits(n);
    node_refresh_filename(n);
    successor_tell(n);
    trace_node_open(n->name, n->drv->name, n->size, n->flags);
}

/* One node without its backing file. */
static CO_FN int open_co_node(struct graph *g, const json_t *options,
                              unsigned flags, struct node **ret_node,
                              GError **err)
{
    CLEANUP(opts_freep) struct opts *o = NULL;
    struct common_options c = { .flags = flags };
    const struct node_driver *drv = NULL;
    char *name = NULL;
    struct node *n;
    int ret = open_co_driver(g, options, &drv, &o, err);

    if (ret >= 0) {
        ret = opts_take_str(o, "node-name", &name, err);
    }
    if (ret >= 0) {
        ret = common_options_take(o, &c, err);
    }
    if (ret >= 0) {
        ret = node_check_share(c.flags, err);
    }
    if (ret < 0) {
        g_free(name);
        return ret;
    }
    n = node_new(g, drv, name, c.flags, err);
    g_free(name);
    if (!n) {
        return -EINVAL;
    }
    n->options = json_deep_copy(options);
    n->priv->explicit_rdonly = c.explicit_rdonly;
    node_set_zeroing(n, c.discard, c.detect_zeroes);
    ret = drv->co_open(n, o, n->flags, err);
    if (ret >= 0) {
        node_co_finish_open(n);
        ret = open_finish_opts(drv, o, err);
    }
    if (ret >= 0 && n->size > NODE_SIZE_MAX) {
        ret = err_set_errno(err, EFBIG, "Could not refresh total sector count");
    }
    if (ret < 0) {
        node_co_unref(n);
        return ret;
    }
    *ret_node = n;
    return 0;
}

/* As above; storage that may not be written is opened for reading when
 * auto-read-only says so. */
static CO_FN int open_co_one(struct graph *g, const json_t *options,
                             unsigned flags, struct node **ret_node,
                             GError **err)
{
    GError *first = NULL;
    json_t *again;
    int ret = open_co_node(g, options, flags, ret_node, &first);

    if (open_is_denied(ret) &&
        ((flags & NODE_AUTO_RDONLY) ||
         json_object_get(options, "auto-read-only")) &&
        !json_object_get(options, "file")) {
        again = json_deep_copy(options);
        json_object_del(again, "read-only");
        ret = open_co_node(g, again, flags & ~(unsigned)NODE_RDWR, ret_node,
                           NULL);
        json_decref(again);
        if (ret == 0) {
            g_clear_error(&first);
            return 0;
        }
    }
    if (first) {
        ret = -first->code;
        g_assert(ret < 0);
        g_propagate_error(err, first);
    }
    return ret;
}

/* --- chains --- */

static unsigned chain_depth(struct node *n)
{
    unsigned depth = 0;

    for (n = node_skip_filters(n); n; n = node_skip_filters(node_backing(n))) {
        depth++;
    }
    return depth;
}

static int chain_check_depth(struct graph *g, unsigned depth,
                             const struct node *n, GError **err)
{
    if (depth <= g->max_depth) {
        return 0;
    }
    err_set(err, ELOOP,
            "Backing chain of '%s' is deeper than %u images, the limit "
            "(sluiced --chain-limit)",
            node_title(n), g->max_depth);
    err_hint(err, "Merge images of the chain with 'commit' or 'rebase'.");
    return -ELOOP;
}

/* The node that request @r of @n asks for. */
static CO_FN int backing_co_open(struct node *n, struct backing_request *r,
                                 GHashTable *seen, struct node **ret_node,
                                 GError **err)
{
    struct graph *g = n->graph;
    unsigned flags = n->flags & FLAGS_INHERITED & ~(unsigned)NODE_RDWR &
                     ~(unsigned)NODE_AUTO_RDONLY & ~(unsigned)NODE_CHECK;
    char *identity = NULL;
    json_t *options = NULL;
    int ret;

    if (json_is_string(r->options)) {
        struct node *b = node_find_any(g, json_string_value(r->options), err);

        if (!b) {
            return -ENOENT;
        }
        *ret_node = node_ref(b);
        return 0;
    }
    if (r->header_name) {
        flags |= NODE_IMPLICIT;
    }
    ret = backing_co_resolve(n, r, &options, &identity, err);
    if (ret == 0 && identity && !g_hash_table_add(seen, identity)) {
        ret = err_set(err, ELOOP, "Backing file '%s' creates an infinite loop.",
                      r->header_name);
    } else if (ret < 0) {
        g_free(identity);
    }
    if (ret == 0 && r->header_name) {
        *ret_node = shared_find(g, options, flags);
    }
    if (ret == 0 && *ret_node) {
        json_decref(options);
        return 0;
    }
    if (ret == 0) {
        ret = open_co_one(g, options, flags, ret_node, err);
    }
    if (ret == 0) {
        (*ret_node)->priv->part_of = n->priv->serial;
    }
    json_decref(options);
    if (ret == 0 && r->header_name) {
        (*ret_node)->priv->followed = g_strdup(r->header_name);
        ret = backing_co_check_opened(n, *ret_node, err);
        if (ret < 0) {
            node_co_unref(*ret_node);
        }
    }
    return ret;
}

static CO_FN int backing_co_attach(struct node *n, struct node *b, GError **err)
{
    unsigned shared = n->flags & NODE_FORCE_SHARE
                          ? (unsigned)PERM_ALL
                          : PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    int ret = node_check_op(b, BLOCK_OP_OVERLAY, err);

    return ret < 0 ? ret
                   : edge_co_attach(n, b, "backing", PERM_CONSISTENT_READ,
                                    shared, err);
}

static void hint_missing_backing(int ret, GError **err)
{
    if (ret == -ENOENT && err && !err_get_hint(*err)) {
        err_hint(err, "If it was moved, 'sluice rebase -u -b NAME -F FORMAT "
                      "IMAGE' tells the image where it is.");
    }
}

/* Open what @top and those below it asked for. */
static CO_FN int open_co_chain(struct node *top, GError **err)
{
    GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             NULL);
    struct node *n = top;
    unsigned depth = 1;
    int ret = 0;

    if (n->priv->pending) {
        char *identity = node_co_identity(n);

        if (identity) {
            g_hash_table_add(seen, identity);
        }
    }
    while (ret == 0 && n->priv->pending) {
        struct backing_request *r = n->priv->pending;
        bool in_header = r->header_name;
        struct node *b = NULL;

        n->priv->pending = NULL;
        ret = chain_check_depth(top->graph, ++depth, top, err);
        if (ret == 0) {
            ret = backing_co_open(n, r, seen, &b, err);
            if (ret < 0) {
                err_prefix(err, "Could not open backing file");
                if (in_header) {
                    hint_missing_backing(ret, err);
                }
            }
        }
        if (ret == 0) {
            ret = backing_co_attach(n, b, err);
            n->priv->ready = true;
            node_co_unref(b);
            n = b;
        }
        backing_request_free(r);
    }
    if (ret == 0) {
        n->priv->ready = true;
        ret = chain_check_depth(top->graph, chain_depth(top), top, err);
    }
    for (n = node_skip_filters(top); n && ret == 0;
         n = node_skip_filters(node_backing(n))) {
        if (n->drv->co_chain_opened) {
            ret = n->drv->co_chain_opened(n, err);
        }
    }
    g_hash_table_destroy(seen);
    return ret;
}

int node_co_open(struct graph *g, const json_t *options, unsigned flags,
                 struct node **ret_node, GError **err)
{
    struct node *n = NULL;
    int ret = open_co_one(g, options, flags, &n, err);

    if (ret != 0) {
        return ret;
    }
    ret = open_co_chain(n, err);
    if (ret != 0) {
        node_co_unref(n);
        return ret;
    }
    n->priv->ready = true;
    *ret_node = n;
    return 0;
}
