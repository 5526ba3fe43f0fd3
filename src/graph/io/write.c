/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing.  Storage with an alignment gets read-modify-write here, serialised
 * over the aligned blocks by TRACK_ALLOC.  Overlays are
 * written by allocating-write.c.
 */
#include <string.h>
#include "base/barrier.h"
#include "graph/io/dispatch.h"
#include "graph/trace.h"
#include "loop/io.h"

#define ZERO_BUF_SIZE 65536
#define ZERO_VECS 16

static uint8_t zero_buf[ZERO_BUF_SIZE] __attribute__((aligned(4096)));

static CO_FN int write_co_op(struct node *n, uint64_t off, struct iov iov,
                             unsigned flags)
{
    int ret;

    if (!n->drv->handles_fua) {
        flags &= ~(unsigned)IO_FUA;
    }
    node_co_debug_event(n, DEBUG_PWRITEV);
    ret = n->drv->co_pwritev(n, off, iov, flags);
    node_co_debug_event(n, DEBUG_PWRITEV_DONE);
    write_done(n, off, iov.len, ret);
    return ret;
}

/* Read one block into @buf, for the part of it that is not written. */
static CO_FN int write_co_read_block(struct node *n, uint64_t off, uint8_t *buf,
                                     uint32_t align)
{
    struct iovec store;

    if (off >= n->size) {
        memset(buf, 0, align);
        return 0;
    }
    return n->drv->co_preadv(n, off, iov_one(&store, buf, align), 0);
}

/* Widen to whole blocks in a buffer of our own. The blocks are held. */
static CO_FN int write_co_bounced(struct node *n, uint64_t off, struct iov iov,
                                  unsigned flags)
{
    uint32_t align = n->priv->limits.request_alignment;
    uint64_t end = off + iov.len;
    uint64_t start = round_down(off, align);
    size_t len = round_up(end, align) - start;
    uint8_t *buf = io_buf_get(len);
    struct iovec store;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    if (start != off) {
        node_co_debug_event(n, DEBUG_PWRITEV_RMW_HEAD);
        ret = write_co_read_block(n, start, buf, align);
        node_co_debug_event(n, DEBUG_PWRITEV_RMW_AFTER_HEAD);
    }
    if (ret == 0 && start + len != end && (len > align || start == off)) {
        node_co_debug_event(n, DEBUG_PWRITEV_RMW_TAIL);
        ret = write_co_read_block(n, start + len - align, buf + len - align,
                                  align);
        node_co_debug_event(n, DEBUG_PWRITEV_RMW_AFTER_TAIL);
    }
    if (ret == 0) {
        iov_to_buf(iov, 0, buf + (off - start), iov.len);
        ret = write_co_op(n, start, iov_one(&store, buf, len), flags);
    }
    io_buf_put(buf, len);
    return ret;
}

int write_co_in_place(struct node *n, const struct mapping *m, uint64_t off,
                      struct iov iov, unsigned flags)
{
    int ret;

    node_co_debug_event(n, DEBUG_PWRITEV);
    node_co_debug_event(node_file(n), DEBUG_WRITE_AIO);
    ret = node_co_pwritev(m->child, m->host, iov, flags);
    node_co_debug_event(n, DEBUG_PWRITEV_DONE);
    write_done(n, off, iov.len, ret);
    return ret;
}

/* A format that has no write of its own: all of it may be written in place, and
 * what is durable there is durable here. */
static CO_FN int write_co_by_map(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    struct mapping m;
    int ret = node_co_map_begin(n, off, iov.len, MAP_WRITE, &m);

    if (ret == 0) {
        g_assert(m.in_place && m.len == iov.len);
        ret = write_co_in_place(n, &m, off, iov, flags);
        node_map_end(n, &m);
    }
    return ret;
}

int write_co_driver(struct node *n, uint64_t off, struct iov iov,
                    unsigned flags)
{
    const struct pieces p = pieces_of(n, off, iov);
    size_t pos = 0;
    int ret = 0;

    if (!n->drv->co_pwritev) {
        return node_is_filter(n)
                   ? node_co_pwritev(node_file(n), off, iov, flags)
               : n->drv->co_map ? write_co_by_map(n, off, iov, flags)
                                : -EPERM;
    }
    if (n->flags & NODE_NO_FLUSH && n->drv->kind == NODE_PROTOCOL) {
        flags &= ~(unsigned)IO_FUA;
    }
    if (pieces_is_one(&p, iov.len)) {
        ret = write_co_op(n, off, iov, flags);
        return fua_co_finish(n, flags, ret);
    }
    while (pos < iov.len && ret == 0) {
        uint64_t at = off + pos;
        size_t len = pieces_next(&p, at, iov.len - pos);
        struct iov part = iov_slice(iov, pos, len);

        ret = p.bounce ? write_co_bounced(n, at, part, flags)
                       : write_co_op(n, at, part, flags);
        pos += len;
    }
    return fua_co_finish(n, flags, ret);
}

/* Is [.., @end) inside storage that whole blocks would make longer? */
static bool write_extends(const struct node *n, uint64_t end)
{
    return n->priv->growable && end <= n->size &&
           round_up(end, n->priv->limits.request_alignment) > n->size;
}

/* The last block of storage whose length is no multiple of a block: a guest
 * would see a raw image that has grown.  Nobody may write behind it meanwhile,
 * since the end is put back where it was. */
static CO_FN int write_co_tail(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    uint64_t start = round_down(off, n->priv->limits.request_alignment);
    struct tracked t;
    int ret;

    track_co_begin(&t, n, start, INT64_MAX - start, TRACK_ALLOC);
    n->priv->end_held = write_extends(n, off + iov.len);
    ret = write_co_driver(n, off, iov, flags & ~(unsigned)IO_FUA);
    if (n->priv->end_held) {
        int cut = n->drv->co_truncate(n, n->size, NULL);

        ret = ret < 0 ? ret : cut;
        n->priv->write_gen++;
        n->priv->end_held = false;
    }
    track_end(&t);
    return ret == 0 && (flags & IO_FUA) ? BARRIER(TAIL_FUA, node_co_flush(n))
                                        : ret;
}

/* Nodes without a backing file. */
static CO_FN int write_co_plain(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    uint32_t align = n->priv->limits.request_alignment;
    uint64_t start = round_down(off, align);
    uint64_t end = round_up(off + iov.len, align);
    bool whole = start == off && end == off + iov.len;
    struct tracked t;
    int ret;

    if (!n->priv->tracked) {
        return write_co_driver(n, off, iov, flags);
    }
    if (write_extends(n, off + iov.len)) {
        return write_co_tail(n, off, iov, flags);
    }
    track_co_begin(&t, n, start, end - start,
                   whole ? TRACK_WRITE : TRACK_ALLOC);
    ret = write_co_driver(n, off, iov, flags);
    track_end(&t);
    return ret;
}

int write_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                      unsigned flags)
{
    if (flags & IO_POPULATE) {
        return write_co_driver(n, off, iov, flags);
    }
    return n->drv->supports_backing ? alloc_write_co_write(n, off, iov, flags)
                                    : write_co_plain(n, off, iov, flags);
}

int write_co_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct iovec v[ZERO_VECS];
    int ret = 0;

    for (unsigned i = 0; i < ZERO_VECS; i++) {
        v[i] = (struct iovec) { zero_buf, ZERO_BUF_SIZE };
    }
    flags &= ~(unsigned)(IO_MAY_UNMAP | IO_FAST);
    while (len > 0 && ret == 0) {
        size_t part = MIN(len, sizeof(zero_buf) * ZERO_VECS);
        struct iov iov = { v, ZERO_VECS, 0, part };

        ret = write_co_dispatch(n, off, iov, flags);
        off += part;
        len -= part;
    }
    return ret;
}
