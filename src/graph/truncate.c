/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing and re-reading the size of a node. */
#include <inttypes.h>
#include "base/err.h"
#include "graph/graph-int.h"
#include "graph/trace.h"

/* A grown overlay must not show what a longer base has there. */
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
                             n->name);
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
        ret = err_set(err, ENOTSUP,
                      "Image format driver '%s' does not support resize",
                      n->drv->name);
    }
    return ret;
}

int truncate_co_dispatch(struct node *n, uint64_t size, GError **err)
{
    uint64_t old_size = n->size;
    int ret;

    if (size > INT64_MAX) {
        return err_set(err, EFBIG, "Image size %" PRIu64 " is too large", size);
    }
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Image is read-only");
    }
    ret = truncate_co_driver(n, size, err);
    n->priv->write_gen++;
    if (ret < 0) {
        return ret;
    }
    n->size = size;
    if (n->drv->supports_backing && size > old_size) {
        ret = truncate_co_cover_base(n, old_size, err);
    }
    node_notify_changed(n);
    return ret;
}

int node_co_refresh_size(struct node *n)
{
    uint64_t old_size = n->size;
    int ret = 0;

    if (n->drv->co_refresh_size) {
        ret = n->drv->co_refresh_size(n);
    } else if (node_is_filter(n)) {
        ret = node_co_refresh_size(node_file(n));
        n->size = node_file(n)->size;
    }
    if (ret == 0 && n->size != old_size) {
        node_notify_changed(n);
    }
    return ret;
}
