/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading.  A chain is read without recursion: for each run the walk goes down
 * to the node that decides it, and only that node's driver is asked.
 */
#include "graph/graph-int.h"
#include "graph/trace.h"
#include "loop/io.h"

#define BOUNCE_MAX (1u << 20)

bool iov_is_aligned(struct iov iov, uint32_t align)
{
    uintptr_t mask = (uintptr_t)align - 1;
    size_t skip = iov.skip, left = iov.len;

    if (align <= 1) {
        return true;
    }
    for (unsigned i = 0; left > 0; i++) {
        size_t len = MIN(iov.v[i].iov_len - skip, left);

        if ((((uintptr_t)iov.v[i].iov_base + skip) | len) & mask) {
            return false;
        }
        skip = 0;
        left -= len;
    }
    return true;
}

/* One aligned piece through a buffer of our own. */
static CO_FN int read_co_bounced(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    uint32_t align = n->priv->limits.request_alignment;
    uint64_t start = round_down(off, align);
    size_t len = round_up(off + iov.len, align) - start;
    void *buf = io_buf_get(len);
    struct iovec store;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = n->drv->co_preadv(n, start, iov_one(&store, buf, len), flags);
    if (ret == 0) {
        iov_from_buf(iov, 0, (uint8_t *)buf + (off - start), iov.len);
    }
    io_buf_put(buf, len);
    return ret;
}

int read_co_driver(struct node *n, uint64_t off, struct iov iov,
                   unsigned flags)
{
    const struct node_limits *l = &n->priv->limits;
    uint64_t mask = l->request_alignment - 1;
    uint64_t max = l->max_transfer ? MAX(l->max_transfer & ~mask, mask + 1)
                                   : UINT64_MAX;
    bool bounce = ((off | iov.len) & mask) ||
                  !iov_is_aligned(iov, n->priv->mem_align);
    size_t pos = 0;
    int ret = 0;

    if (!n->drv->co_preadv) {
        return node_is_filter(n) ? node_co_preadv(node_file(n), off, iov, flags)
                                 : -EIO;
    }
    if (!bounce && iov.len <= max) {
        return n->drv->co_preadv(n, off, iov, flags);
    }
    if (bounce) {
        /* Room for the widening, within both limits. */
        max = MIN(max, MAX(BOUNCE_MAX, mask + 1));
    }
    while (pos < iov.len && ret == 0) {
        uint64_t at = off + pos;
        size_t len = MIN(iov.len - pos, max - (at & mask));
        struct iov part = iov_slice(iov, pos, len);

        ret = bounce ? read_co_bounced(n, at, part, flags)
                     : n->drv->co_preadv(n, at, part, flags);
        pos += len;
    }
    return ret;
}

/* The run at @off: find who decides it, down from @n, and read it from there.
 * *@ret_len: how much of @iov is done. */
static CO_FN int read_co_run(struct node *n, uint64_t off, struct iov iov,
                             unsigned flags, size_t *ret_len)
{
    uint64_t len = iov.len;

    while (n && off < n->size) {
        struct extent ext;
        int ret;

        len = MIN(len, n->size - off);
        if (!n->drv->supports_backing) {
            *ret_len = len;
            return node_co_preadv(n, off, iov_slice(iov, 0, len), flags);
        }
        ret = status_co_node(n, off, len, &ext);
        if (ret < 0) {
            return ret;
        }
        len = ext.len;
        if (ext.flags & STATUS_ALLOCATED) {
            *ret_len = len;
            if (ext.flags & STATUS_ZERO) {
                iov_memset(iov, 0, 0, len);
                return 0;
            }
            return read_co_driver(n, off, iov_slice(iov, 0, len), flags);
        }
        if (n->priv->backing) {
            node_co_debug_event(node_file(n), DEBUG_READ_BACKING_AIO);
        }
        n = n->priv->backing ? n->priv->backing->child : NULL;
    }
    /* Nobody has it: past the end of a short backing file, or no backing. */
    iov_memset(iov, 0, 0, len);
    *ret_len = len;
    return 0;
}

int read_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                     unsigned flags)
{
    size_t pos = 0;

    if (!n->drv->supports_backing) {
        return read_co_driver(n, off, iov, flags);
    }
    while (pos < iov.len) {
        size_t len;
        int ret = read_co_run(n, off + pos, iov_slice(iov, pos, iov.len - pos),
                              flags, &len);

        if (ret < 0) {
            return ret;
        }
        pos += len;
    }
    return 0;
}
