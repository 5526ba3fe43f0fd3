/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing and re-reading the size of a node. */
#include <inttypes.h>
#include "base/err.h"
#include "graph/io/dispatch.h"
#include "graph/model/early.h"
#include "graph/model/model.h"
#include "graph/model/chain-map.h"
#include "graph/populate.h"
#include "graph/trace.h"

/*
 * A grown overlay must not show what a longer base has there.  The driver sees
 * to whole clusters of the new part; a last cluster that reaches into it is
 * taken into the overlay here, before the size changes, so that no crash shows
 * the base behind the old end.
 */
static CO_FN int truncate_co_take_tail(struct node *n, uint64_t size,
                                       GError **err)
{
    struct node *backing = node_backing(n);
    uint64_t tail = n->size % MAX(n->priv->limits.cluster_size, 1);
    int ret;

    if (!backing || tail == 0 || size <= n->size || backing->size <= n->size) {
        return 0;
    }
    ret = node_co_populate(n, NULL, n->size - tail, tail, 0, NULL);
    if (ret < 0) {
        return err_set_errno(err, -ret,
                             "Failed to copy the last cluster of "
                             "'%s' from its backing file",
                             node_title(n));
    }
    return 0;
}

/* For drivers that leave whole clusters of the new part to the base. */
static CO_FN int truncate_co_cover_base(struct node *n, uint64_t old_size,
                                        GError **err)
{
    struct node *backing = node_backing(n);
    uint64_t end;
    int ret;

    if (!backing || backing->size <= old_size) {
        return 0;
    }
    end = MIN(n->size, backing->size);
    if (end <= old_size) {
        return 0;
    }
    ret = node_co_zero(n, old_size, end - old_size, IO_MAY_UNMAP);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Failed to zero the new area of '%s'",
                             node_title(n));
    }
    return 0;
}

static CO_FN int truncate_co_driver(struct node *n, uint64_t size, GError **err)
{
    int ret;

    if (n->drv->co_truncate) {
        ret = n->drv->co_truncate(n, size, err);
    } else if (node_is_filter(n)) {
        ret = node_co_truncate(node_file(n), size, err);
    } else {
        ret = n->drv->no_truncate
                  ? err_set(err, ENOTSUP, "%s", n->drv->no_truncate)
                  : err_set(err, ENOTSUP,
                            "Image format driver '%s' does not support resize",
                            n->drv->name);
    }
    return ret;
}

static CO_FN int truncate_co_apply(struct node *n, uint64_t size, GError **err)
{
    uint64_t old_size = n->size;
    int ret;

    ret = early_co_settle_all(n);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush node '%s'", n->name);
    }
    ret = n->drv->supports_backing ? truncate_co_take_tail(n, size, err) : 0;
    if (ret < 0) {
        return ret;
    }
    ret = truncate_co_driver(n, size, err);
    n->priv->write_gen++;
    chain_maps_drop(n);
    if (ret < 0) {
        return ret;
    }
    n->size = size;
    if (n->drv->supports_backing && size > old_size) {
        ret = truncate_co_cover_base(n, old_size, err);
    }
    if (size > old_size) {
        bitmaps_mark(n, old_size, size - old_size);
    }
    node_notify_changed(n);
    return ret;
}

/* The file below a format: what is at work behind its old or new end ends
 * first (write_co_tail() puts the end back where it was), what comes waits. */
static CO_FN int truncate_co_tracked(struct node *n, uint64_t size,
                                     GError **err)
{
    uint64_t start = MIN(size, n->size);
    struct tracked t;
    int ret;

    track_co_begin(&t, n, start, INT64_MAX - start, TRACK_ALLOC);
    ret = truncate_co_apply(n, size, err);
    track_end(&t);
    return ret;
}

int node_co_truncate(struct node *n, uint64_t size, GError **err)
{
    int ret;

    if (size > NODE_SIZE_MAX) {
        return err_set(err, EFBIG,
                       "offset(%" PRIu64 ") exceeds maximum(%" PRIu64 ")", size,
                       NODE_SIZE_MAX);
    }
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Image is read-only");
    }
    node_ref(n); /* the filter of a job that ends meanwhile goes */
    ret = n->drv->kind == NODE_PROTOCOL && n->priv->tracked
              ? truncate_co_tracked(n, size, err)
              : truncate_co_apply(n, size, err);
    node_co_unref(n);
    return ret;
}

int node_co_refresh_size(struct node *n)
{
    uint64_t old_size = n->size;
    int ret = 0;

    if (n->drv->co_refresh_size) {
        ret = n->drv->co_refresh_size(n);
    } else if (node_is_filter(n)) {
        struct node *file = node_ref(node_file(n)); /* as for a truncate */

        ret = node_co_refresh_size(file);
        n->size = file->size;
        node_co_unref(file);
    }
    if (ret == 0 && n->size > NODE_SIZE_MAX) {
        n->size = old_size;
        ret = -EFBIG;
    }
    if (ret == 0 && n->size != old_size) {
        node_notify_changed(n);
    }
    return ret;
}
