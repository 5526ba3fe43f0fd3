/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies that need not pass through memory: where both ends are files of one
 * file system that shares extents, the file system is told to share them.
 *
 * Two halves.  node_co_locate() finds the storage that holds the bytes of a
 * range of a chain; it gives up at whatever might change, delay or refuse a
 * read: filters, compressed or encrypted clusters, storage that is no file.
 * node_co_copy_in() goes the other way, down from the node that is written:
 * each format reserves and maps as for a write of its own and passes the source
 * on to its file, which shares.  A layer that cannot pass it on reads and
 * writes instead, so that a reservation never has to be taken back.
 *
 * Nothing here changes the order of things: a clone counts as a write of the
 * file it goes to, and is durable after that file's next flush (M2).
 */
#include "graph/graph-int.h"
#include "graph/io/early.h"
#include "graph/populate/copy-offload.h"
#include "graph/trace.h"
#include "loop/io.h"

#define HAND_MAX (UINT64_C(1) << 20)

/* --- where bytes are --- */

/* Raw over storage that cannot share is not asked: its answer may be a trip to
 * a server. */
static bool locate_is_useless(struct node *n)
{
    const struct node *storage = node_storage(n);

    return !storage ||
           (!storage->drv->can_copy_in && !n->drv->supports_backing);
}

/* One step down: *@at holds the range in its node; 1 = that is storage, 0 = go
 * on, -errno. *@at->node is NULL when no file system can share the bytes. */
static CO_FN int locate_co_step(struct host_range *at, const struct node *base)
{
    struct node *n = at->node;
    struct extent ext;
    int ret;

    at->node = NULL;
    if (n == base || node_is_filter(n) || n->priv->notes_reads ||
        at->off >= n->size) {
        return 1;
    }
    at->len = MIN(at->len, n->size - at->off);
    if (n->drv->kind == NODE_PROTOCOL) {
        at->node = n->drv->can_copy_in ? n : NULL;
        return 1;
    }
    if (locate_is_useless(n)) {
        return 1;
    }
    ret = node_co_status(n, at->off, at->len, &ext);
    if (ret < 0) {
        return ret;
    }
    at->len = ext.len;
    if (!(ext.flags & STATUS_ALLOCATED) && n->drv->supports_backing) {
        at->node = n->priv->backing ? n->priv->backing->child : NULL;
    } else if ((ext.flags & (STATUS_ZERO | STATUS_OFFSET_VALID)) ==
               STATUS_OFFSET_VALID) {
        at->node = ext.map_node;
        at->off = ext.map_offset;
    }
    return at->node ? 0 : 1;
}

int node_co_locate(struct node *n, struct node *base, uint64_t off,
                   uint64_t len, struct host_range *ret_at)
{
    int ret = 0;

    *ret_at = (struct host_range) { .node = n, .off = off, .len = len };
    base = node_skip_filters(base);
    while (ret_at->node && ret == 0) {
        ret = locate_co_step(ret_at, base);
    }
    return MIN(ret, 0);
}

/* --- bringing them in --- */

CO_FN_LOOKS bool node_can_copy_in(struct node *n, struct node *src)
{
    return n && n->drv->can_copy_in && n->drv->can_copy_in(n, src);
}

bool node_file_can_copy_in(struct node *n, struct node *src)
{
    return node_can_copy_in(node_file(n), src);
}

/* Zeroes stay holes here, too: whoever offered them to the file system has not
 * looked at them. */
static CO_FN int hand_co_write(struct node *n, uint64_t off, void *buf,
                               size_t len, unsigned flags)
{
    struct iovec v;
    struct iov iov = iov_one(&v, buf, len);
    int ret = -ENOTSUP;

    if (iov_is_zero(iov)) {
        ret = node_co_zero(n, off, len, flags | IO_MAY_UNMAP);
    }
    return ret == -ENOTSUP ? node_co_pwritev(n, off, iov, flags) : ret;
}

static CO_FN int copy_co_by_hand(struct node *n, uint64_t off, struct node *src,
                                 uint64_t src_off, uint64_t len, unsigned flags)
{
    size_t size = MIN(len, HAND_MAX);
    void *buf = io_buf_get(size);
    int ret = 0;

    for (uint64_t pos = 0; pos < len && ret == 0; pos += size) {
        size_t part = MIN(len - pos, size);
        struct iovec v;

        ret = node_co_preadv(src, src_off + pos, iov_one(&v, buf, part),
                             flags & IO_BACKGROUND);
        if (ret == 0) {
            ret = hand_co_write(n, off + pos, buf, part, flags);
        }
    }
    io_buf_put(buf, size);
    return ret;
}

/* A format that writes all in place. */
static CO_FN int copy_co_in_place(struct node *n, uint64_t off,
                                  struct node *src, uint64_t src_off,
                                  uint64_t len, unsigned flags)
{
    struct mapping m;
    int ret = node_co_map_begin(n, off, len, MAP_WRITE, &m);

    if (ret < 0) {
        return ret;
    }
    ret = m.in_place && m.len == len
              ? node_co_copy_in(m.child, m.host, src, src_off, len,
                                flags & ~(unsigned)IO_POPULATE)
              : -ENOTSUP;
    node_map_end(n, &m);
    return ret;
}

int node_co_copy_in(struct node *n, uint64_t off, struct node *src,
                    uint64_t src_off, uint64_t len, unsigned flags)
{
    bool own_range = n->priv->tracked && !(flags & IO_POPULATE);
    struct tracked t;
    int ret = -ENOTSUP;

    g_assert(n->drv->kind == NODE_PROTOCOL || (flags & IO_POPULATE) ||
             !n->drv->supports_backing);
    if (n->drv->can_copy_in) {
        ret = write_check(n, off, len);
        if (ret < 0 || len == 0) {
            return ret;
        }
        /* Of a file: like any other write, so that nobody cuts it off. */
        if (own_range) {
            track_co_begin(&t, n, off, len, TRACK_WRITE);
        }
        ret = n->drv->co_copy_in
                  ? n->drv->co_copy_in(n, off, src, src_off, len, flags)
                  : copy_co_in_place(n, off, src, src_off, len, flags);
        write_done(n, off, len, ret);
        if (!(flags & IO_POPULATE)) {
            bitmaps_mark(n, off, len);
        }
        if (own_range) {
            track_end(&t);
        }
    }
    trace_node_copy_in(n->name, off, len, src->name, src_off, ret);
    return ret == -ENOTSUP ? copy_co_by_hand(n, off, src, src_off, len, flags)
                           : ret;
}

/* --- from one chain to another --- */

/* The part of @at, beginning at @off of @n, that can be handed on: whole units.
 * What ends a disk inside one is copied. */
uint64_t copy_offload_whole(const struct node *n, uint64_t off,
                            const struct host_range *at)
{
    uint64_t unit = MAX(n->priv->limits.cluster_size, SHARE_UNIT);

    if (!at->node || at->off % SHARE_UNIT || off % unit) {
        return 0;
    }
    return round_down(at->len, unit);
}

int node_co_copy_range(struct node *src, uint64_t src_off, struct node *dst,
                       uint64_t dst_off, uint64_t len, uint64_t *ret_done)
{
    struct host_range at;
    struct tracked t;
    int ret;

    *ret_done = 0;
    len = dst_off < dst->size ? MIN(len, dst->size - dst_off) : 0;
    if (len == 0 || !node_is_writable(dst)) {
        return len == 0 ? 0 : -EPERM;
    }
    ret = node_co_locate(src, NULL, src_off, len, &at);
    len = ret < 0 ? 0 : copy_offload_whole(dst, dst_off, &at);
    if (len == 0 || !node_can_copy_in(dst, at.node)) {
        return ret;
    }
    track_co_begin(&t, dst, dst_off, len, TRACK_ALLOC);
    ret = node_co_copy_in(dst, dst_off, at.node, at.off, len, IO_POPULATE);
    if (ret == 0) {
        early_forget(dst, dst_off, len);
    }
    bitmaps_mark(dst, dst_off, len);
    track_end(&t);
    *ret_done = ret < 0 ? 0 : len;
    return ret;
}
