/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions of the dispatcher that drivers and the layers above call.
 * Ranges are checked here and zero lengths end here; read.c, write.c, zero.c
 * and status.c do the rest.  No one else calls a driver's I/O operations.
 *
 * A flush of storage is left out when nothing has changed since the last one
 * that succeeded (the first is not: somebody else wrote before us).  One that
 * failed is never asked for again: whatever the storage says the second time,
 * it may have dropped what the first was to keep (G6).  The failure stays with
 * the storage, and with the driver that asked for the flush: a filter between
 * the two may have failed only this flush.
 */
#include "base/barrier.h"
#include "graph/demand.h"
#include "graph/io/dispatch.h"
#include "graph/io/join.h"
#include "graph/model/early.h"
#include "graph/trace.h"

static int dispatch_result(struct node *n, const char *op, uint64_t off,
                           uint64_t len, int ret)
{
    if (ret < 0 && ret != -ENOTSUP) {
        trace_node_error(n->name, op, off, len, ret);
    }
    return ret;
}

/* The image of @n's chain that notes who reads it, so that its backing file is
 * not changed under them (graph/copy/before.c). */
static struct node *read_notes(struct node *n)
{
    while (n && !n->priv->notes_reads) {
        n = n->priv->backing ? n->priv->backing->child : NULL;
    }
    return n;
}

static CO_FN int read_co_far_or_near(struct node *n, uint64_t off,
                                     struct iov iov, unsigned flags)
{
    static const struct far_reader reader = { read_co_dispatch };

    return n->drv->is_remote && !node_is_writable(n)
               ? join_co_read(n, off, iov, flags, &reader)
               : read_co_dispatch(n, off, iov, flags);
}

static CO_FN int read_co_checked(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    uint64_t have;
    int ret = read_check(n, off, iov.len, &have);

    if (ret < 0) {
        return ret;
    }
    if (have < iov.len) {
        iov_memset(iov, have, 0, iov.len - have);
    }
    if (have == 0) {
        return 0;
    }
    iov = iov_slice(iov, 0, have);
    if (demand_counts(n, flags)) {
        demand_reaches_storage(n, flags);
        ret = read_co_far_or_near(n, off, iov, flags);
        demand_leaves_storage(n, flags);
    } else {
        ret = read_co_far_or_near(n, off, iov, flags);
    }
    return dispatch_result(n, "read", off, have, ret);
}

int node_co_preadv(struct node *n, uint64_t off, struct iov iov, unsigned flags)
{
    struct node *notes = n->graph->noting > 0 ? read_notes(n) : NULL;
    struct range r;
    int ret;

    if (!notes) {
        return read_co_checked(n, off, iov, flags);
    }
    ranges_add(&notes->priv->reads, &r, off, iov.len);
    ret = read_co_checked(n, off, iov, flags);
    ranges_drop(&notes->priv->reads, &r);
    return ret;
}

static int compressed_check(const struct node *n, uint64_t off, uint64_t len)
{
    uint32_t unit = n->priv->limits.compressed_unit;
    uint64_t end = off + len;

    if (unit == 0) {
        return -ENOTSUP;
    }
    return off % unit == 0 && (end % unit == 0 || end == n->size) ? 0 : -EINVAL;
}

int node_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                    unsigned flags)
{
    int ret = write_check(n, off, iov.len);

    if (ret == 0 && iov.len > 0 && (flags & IO_COMPRESSED)) {
        ret = compressed_check(n, off, iov.len);
    }
    if (ret < 0 || iov.len == 0) {
        return ret;
    }
    if (n->priv->detect_zeroes != DETECT_OFF && !(flags & IO_POPULATE) &&
        iov_is_zero(iov)) {
        flags |= n->priv->detect_zeroes == DETECT_UNMAP ? IO_MAY_UNMAP : 0;
        return node_co_zero(n, off, iov.len, flags);
    }
    if (demand_counts(n, flags)) {
        demand_reaches_storage(n, flags);
        ret = write_co_dispatch(n, off, iov, flags);
        demand_leaves_storage(n, flags);
    } else {
        ret = write_co_dispatch(n, off, iov, flags);
    }
    if (!(flags & IO_POPULATE)) {
        bitmaps_mark(n, off, iov.len); /* failed: old, new, or both */
    }
    return dispatch_result(n, "write", off, iov.len, ret);
}

int node_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int ret = write_check(n, off, len);

    if (ret < 0 || len == 0) {
        return ret;
    }
    ret = zero_co_dispatch(n, off, len, flags);
    if (!(flags & IO_POPULATE)) {
        bitmaps_mark(n, off, len);
    }
    return dispatch_result(n, "zero", off, len, ret);
}

int node_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    int ret = write_check(n, off, len);

    if (ret < 0 || len == 0 || n->priv->no_discard) {
        return ret;
    }
    ret = discard_co_dispatch(n, off, len);
    bitmaps_mark(n, off, len);
    return dispatch_result(n, "discard", off, len, ret);
}

void node_fail(struct node *n)
{
    if (!node_is_filter(n) && !n->priv->failure) {
        n->priv->failure = -EIO;
        trace_node_failed(n->name);
    }
}

int node_failure(const struct node *n)
{
    return n->priv->failure;
}

/* Nothing to flush? */
static bool is_flushed(const struct node *n)
{
    return n->drv->kind == NODE_PROTOCOL &&
           ((n->flags & NODE_NO_FLUSH) || !node_is_writable(n) ||
            (!n->priv->failure && n->priv->write_gen == n->priv->flushed_gen));
}

static CO_FN int flush_co_driver(struct node *n)
{
    struct edge *file = n->priv->file;
    int ret = 0;

    if (file) {
        node_co_debug_event(file->child, DEBUG_FLUSH_TO_OS);
    }
    if (n->drv->co_flush) {
        ret = n->drv->co_flush(n);
        if (ret < 0 && n->drv->kind == NODE_PROTOCOL) {
            node_fail(n);
        }
    } else if (file) {
        node_co_debug_event(file->child, DEBUG_FLUSH_TO_DISK);
        ret = node_co_flush(file->child);
    }
    return ret;
}

int flush_co_written(struct node *n)
{
    struct node_int *p = n->priv;
    uint64_t gen = p->write_gen;
    int ret;

    if (is_flushed(n)) {
        return 0;
    }
    ret = p->failure ? p->failure : flush_co_driver(n);
    if (ret == 0 && p->failure) { /* another one failed meanwhile */
        ret = p->failure;
    }
    if (ret == 0) {
        p->flushed_gen = MAX(p->flushed_gen, gen);
    }
    return dispatch_result(n, "flush", 0, 0, ret);
}

int node_co_flush(struct node *n)
{
    int kept = BARRIER(EARLY_FLUSH, early_co_settle_all(n));
    int ret = flush_co_written(n);

    return ret < 0 ? ret : kept;
}

int node_co_sync(struct node *n, struct node *child)
{
    int ret = n->priv->failure ? n->priv->failure : node_co_flush(child);

    if (ret < 0) {
        node_fail(n);
    }
    return ret;
}

int fua_co_finish(struct node *n, unsigned flags, int ret)
{
    if (ret == 0 && (flags & IO_FUA) && !n->drv->handles_fua) {
        ret = BARRIER(DRIVER_FUA, node_co_flush(n));
    }
    return ret;
}
