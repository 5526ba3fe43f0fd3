/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeroing and discarding: whole clusters by the driver, the ragged ends as data
 * unless they read as zeroes already.  In an overlay neither ever lets the base
 * show (G8).
 */
#include "base/barrier.h"
#include "graph/io/early.h"
#include "graph/model/model.h"
#include "graph/trace.h"

/* The whole units within a range; empty when start == end. */
struct span {
    uint64_t start, end;
};

static uint64_t zero_unit(const struct node *n)
{
    const struct node_limits *l = &n->priv->limits;

    if (n->drv->kind == NODE_FILTER) {
        return 1;
    }
    return MAX(l->request_alignment, l->cluster_size);
}

static struct span whole_units(const struct node *n, uint64_t off, uint64_t len)
{
    uint64_t unit = MAX(zero_unit(n), 1), end = off + len;
    struct span s = { round_up(off, unit), round_down(end, unit) };

    /* What ends with the disk is whole. */
    if (end == n->size && n->drv->kind != NODE_PROTOCOL) {
        s.end = end;
    }
    if (s.start >= s.end) {
        s.start = s.end = end;
    }
    return s;
}

/* Whole units; the range is held or need not be. */
static CO_FN int zero_co_driver(struct node *n, uint64_t off, uint64_t len,
                                unsigned flags)
{
    unsigned pass = n->drv->handles_fua ? flags : flags & ~(unsigned)IO_FUA;
    int ret;

    if (!n->drv->co_zero) {
        return node_is_filter(n) && !n->drv->co_pwritev
                   ? node_co_zero(node_file(n), off, len, flags)
                   : -ENOTSUP;
    }
    if (n->priv->no_discard) {
        pass &= ~(unsigned)IO_MAY_UNMAP;
    }
    node_co_debug_event(n, DEBUG_PWRITEV_ZERO);
    ret = n->drv->co_zero(n, off, len, pass);
    node_co_debug_event(n, DEBUG_PWRITEV_DONE);
    node_note_change(n, off, len);
    if (ret == 0) {
        n->priv->write_highest = MAX(n->priv->write_highest, off + len);
        if (n->drv->kind == NODE_PROTOCOL && off + len > n->size) {
            n->size = off + len;
            node_notify_changed(n);
        }
    }
    return fua_co_finish(n, flags, ret);
}

static CO_FN int zero_co_tracked(struct node *n, struct span s, unsigned flags)
{
    struct tracked t;
    int ret;

    if (!n->priv->tracked) {
        return zero_co_driver(n, s.start, s.end - s.start, flags);
    }
    track_co_begin(&t, n, s.start, s.end - s.start,
                   n->drv->supports_backing ? TRACK_ALLOC : TRACK_WRITE);
    ret = zero_co_driver(n, s.start, s.end - s.start, flags);
    if (ret == 0) {
        early_forget(n, s.start, s.end - s.start);
    }
    track_end(&t);
    return ret;
}

/* Less than a unit. */
static CO_FN int zero_co_ragged(struct node *n, uint64_t off, uint64_t end,
                                unsigned flags)
{
    if (off >= end ||
        (n->drv->supports_backing && status_co_is_zero(n, off, end - off))) {
        return 0;
    }
    return write_co_zeroes(n, off, end - off, flags);
}

/* Before anything changes: would the ends need data writes? */
static CO_FN bool zero_co_ends_are_zero(struct node *n, uint64_t off,
                                        uint64_t end, struct span s)
{
    return (off == s.start || status_co_is_zero(n, off, s.start - off)) &&
           (end == s.end || status_co_is_zero(n, s.end, end - s.end));
}

static CO_FN int zero_co_parts(struct node *n, uint64_t off, uint64_t len,
                               unsigned flags)
{
    struct span s = whole_units(n, off, len);
    int ret = 0;

    if (flags & IO_FAST) {
        if (!zero_co_ends_are_zero(n, off, off + len, s)) {
            return -ENOTSUP;
        }
        return s.start < s.end ? zero_co_tracked(n, s, flags) : 0;
    }
    if (s.start < s.end) {
        ret = zero_co_tracked(n, s, flags);
        if (ret == -ENOTSUP) {
            ret = write_co_zeroes(n, s.start, s.end - s.start, flags);
        }
    }
    if (ret == 0) {
        ret = zero_co_ragged(n, off, s.start, flags);
    }
    if (ret == 0) {
        ret = zero_co_ragged(n, s.end, off + len, flags);
    }
    return ret;
}

int zero_co_dispatch(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    bool own_flush = (flags & IO_FUA) && !node_is_filter(n);
    int ret;

    if (flags & IO_POPULATE) {
        return zero_co_driver(n, off, len, flags);
    }
    /* A part may be left out because it reads as zeroes already, by a change
     * that is not durable yet: one flush behind all parts. */
    ret = zero_co_parts(n, off, len,
                        own_flush ? flags & ~(unsigned)IO_FUA : flags);
    return ret == 0 && own_flush ? BARRIER(ZERO_FUA, node_co_flush(n)) : ret;
}

static CO_FN int discard_co_driver(struct node *n, struct span s)
{
    int ret;

    if (n->drv->co_discard) {
        ret = n->drv->co_discard(n, s.start, s.end - s.start);
        node_note_change(n, s.start, s.end - s.start);
    } else if (n->priv->backing) {
        /* Zero clusters free the storage and cover the base. */
        ret = zero_co_driver(n, s.start, s.end - s.start,
                             IO_MAY_UNMAP | IO_FAST);
    } else {
        ret = 0;
    }
    return ret == -ENOTSUP ? 0 : ret;
}

int discard_co_dispatch(struct node *n, uint64_t off, uint64_t len)
{
    struct span s = whole_units(n, off, len);
    struct tracked t;
    int ret;

    if (node_is_filter(n) && !n->drv->co_discard) {
        return node_co_discard(node_file(n), off, len);
    }
    if (s.start == s.end) {
        return 0;
    }
    if (!n->priv->tracked) {
        return discard_co_driver(n, s);
    }
    track_co_begin(&t, n, s.start, s.end - s.start, TRACK_ALLOC);
    ret = discard_co_driver(n, s);
    if (ret == 0) {
        ret = early_co_forget_mapped(n, s.start, s.end - s.start);
    }
    track_end(&t);
    return ret;
}
