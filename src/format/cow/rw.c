/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and flushes.  (The map in status.c says where to read, and where a
 * write may go in place.)
 *
 * Every byte of the disk has the same offset in the data file, so a write goes
 * there whether the cluster is allocated or absent.  Where the cluster is
 * absent, the write covers all of it and its bit waits for the commit group.
 */
#include "base/barrier.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "format/trace.h"

static uint8_t cow_zeroes[65536] __attribute__((aligned(4096)));

/* What is written: bytes in memory, or of storage that may be shared. */
struct source {
    struct iov iov; /* !node */
    struct node *node;
    uint64_t off;
};

static CO_FN int cow_data_co_write(struct overlay *o, uint64_t off,
                                   const struct source *s, uint64_t skip,
                                   uint64_t len)
{
    node_co_debug_event(cow_file(o), DEBUG_WRITE_AIO);
    return s->node ? node_co_copy_in(cow_data(o), off, s->node, s->off + skip,
                                     len, 0)
                   : node_co_pwritev(cow_data(o), off,
                                     iov_slice(s->iov, skip, len), 0);
}

/* @len bytes with zeroes before and behind, in one write. */
static CO_FN int data_co_write_padded(struct overlay *o, uint64_t off,
                                      const struct source *s, uint64_t skip,
                                      uint64_t len, size_t pre, size_t post)
{
    struct iov part = iov_slice(s->iov, skip, len);
    struct iovec *v = g_new(struct iovec, part.n + 2);
    unsigned n = 0;
    size_t got;
    int ret;

    if (pre > 0) {
        v[n++] = (struct iovec) { cow_zeroes, pre };
    }
    n += iov_export(part, v + n, part.n, &got);
    if (post > 0) {
        v[n++] = (struct iovec) { cow_zeroes, post };
    }
    node_co_debug_event(cow_file(o), DEBUG_WRITE_AIO);
    ret = node_co_pwritev(cow_data(o), off - pre,
                          (struct iov) { v, n, 0, pre + got + post }, 0);
    g_free(v);
    return ret;
}

/* Data for clusters that are not here. Something may have been there before the
 * last crash that never got its bit: what is not written of the first and last
 * cluster is made to read as zeroes. */
static CO_FN int clusters_co_write(struct overlay *o, uint64_t off,
                                   const struct source *s, uint64_t skip,
                                   uint64_t len)
{
    uint64_t start = round_down(off, cow_cluster(o)), end = off + len;
    uint64_t last = min_u64(round_up(end, cow_cluster(o)), o->node->size);
    int ret = 0;

    if (start == off && last == end) {
        return cow_data_co_write(o, off, s, skip, len);
    }
    if (!s->node && off - start <= sizeof(cow_zeroes) &&
        last - end <= sizeof(cow_zeroes)) {
        return data_co_write_padded(o, off, s, skip, len, off - start,
                                    last - end);
    }
    if (start < off) {
        ret = node_co_zero(cow_data(o), start, off - start, IO_MAY_UNMAP);
    }
    if (ret == 0 && end < last) {
        ret = node_co_zero(cow_data(o), end, last - end, IO_MAY_UNMAP);
    }
    return ret < 0 ? ret : cow_data_co_write(o, off, s, skip, len);
}

static uint64_t cow_source_weight(const struct source *s, uint64_t len)
{
    return s->node ? len / GROUP_SHARED_WEIGHT : len;
}

static CO_FN int write_co_new(struct overlay *o, uint64_t off,
                              const struct source *s, uint64_t skip,
                              uint64_t len)
{
    uint64_t first = off >> o->cluster_bits;
    uint64_t n = ((off + len - 1) >> o->cluster_bits) - first + 1;
    uint64_t gen = group_join(o->group, cow_source_weight(s, len));
    int ret = clusters_co_write(o, off, s, skip, len);

    if (ret == 0) {
        cow_pending_add(o, gen, first, n);
    }
    group_data_done(o->group, gen);
    trace_overlay_alloc(o->node->name, off, len, ret);
    return ret;
}

static CO_FN int cow_write_co_source(struct overlay *o, uint64_t off,
                                     const struct source *s, uint64_t len)
{
    uint64_t done = 0, part = 0;
    int ret = 0;

    if (pending_count(&o->pending) >= OVERLAY_PENDING_MAX) {
        ret = group_co_flush(o->group);
    }
    while (done < len && ret == 0) {
        bool here = false;

        ret = cow_co_lookup(o, off + done, len - done, &here, &part);
        if (ret < 0) {
            break;
        }
        ret = here ? cow_data_co_write(o, off + done, s, done, part)
                   : write_co_new(o, off + done, s, done, part);
        done += part;
    }
    return ret;
}

int cow_co_pwritev(struct node *n, uint64_t off, struct iov iov, unsigned flags)
{
    struct source s = { .iov = iov };

    return cow_write_co_source(cow_of(n), off, &s, iov.len);
}

int cow_co_copy_in(struct node *n, uint64_t off, struct node *src,
                   uint64_t src_off, uint64_t len, unsigned flags)
{
    struct source s = { .node = src, .off = src_off };

    return cow_write_co_source(cow_of(n), off, &s, len);
}

CO_FN_LOOKS bool cow_can_copy_in(struct node *n, struct node *src)
{
    return node_can_copy_in(cow_data(cow_of(n)), src);
}

int cow_co_flush(struct node *n)
{
    struct overlay *o = cow_of(n);
    int ret = 0;

    if (!o->group) {
        return 0;
    }
    if (group_pending(o->group) || group_error(o->group)) {
        ret = group_co_flush(o->group);
    }
    /* And what was written in place: a flush of nothing costs nothing. */
    return ret < 0 ? ret
                   : BARRIER(OVERLAY_FLUSH, node_co_sync(o->node, cow_data(o)));
}
