/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The completion of early writes, and the reads and writes of what waits for it.
 *
 * The completion reads the base with nothing held, as every write does; a
 * populate or another read of the same bytes shares that.  What the guest writes
 * meanwhile goes into the buffer and is not overwritten: each sector has a bit.
 * Then the range is taken, so nobody writes into the buffer or the cluster, and
 * the driver gets all of it.
 *
 * A request whose ends are inside sectors, or that has to be durable, waits for
 * the completion.
 *
 * Only writes above storage that is far are kept.  A base that is at hand takes no
 * longer than the write itself, and the copy in memory would only cost.
 */
#include "graph/io/early.h"
#include <string.h>
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/trace.h"
#include "loop/io.h"

#define TRIM_UNIT 4096u

static unsigned sector_of(const struct early *e, uint64_t off)
{
    return (unsigned)((off - e->start) / EARLY_SECTOR);
}

/* The end of the run from @off of sectors that are, or are not, there. */
static uint64_t run_end(const struct early *e, uint64_t off, bool there)
{
    unsigned i = sector_of(e, off);

    while (i < e->sectors && early_has(e, i) == there) {
        i++;
    }
    return MIN(e->start + (uint64_t)i * EARLY_SECTOR, e->end);
}

/* --- the completion --- */

/* What nobody has written is as @base, which has all of the cluster. */
static void early_merge(struct early *e, const uint8_t *base)
{
    for (unsigned i = 0; i < e->sectors && e->missing > 0; i++) {
        size_t at = (size_t)i * EARLY_SECTOR;

        if (!early_has(e, i)) {
            memcpy(e->buf + at, base + at,
                   MIN(EARLY_SECTOR, e->end - e->start - at));
            early_set(e, i);
        }
    }
    co_queue_wake_all(&e->changed);
}

static CO_FN int complete_co_join(struct early *e, struct inflight *f)
{
    int ret;

    inflight_ref(f);
    ret = inflight_co_wait_ready(f);
    if (ret == 0) {
        early_merge(e, f->buf + (e->start - f->off));
    }
    inflight_unref(f);
    return ret;
}

static CO_FN int complete_co_read(struct early *e)
{
    struct inflight *f = inflight_find(e->node, e->start);
    int ret = f ? complete_co_join(e, f) : -EAGAIN;

    if (ret == 0 || has_given_up(ret)) {
        return ret;
    }
    f = inflight_begin(e->node, e->start, e->end - e->start);
    if (!f) {
        return -ENOMEM;
    }
    ret = inflight_co_read(f, 0);
    if (ret == 0) {
        early_merge(e, f->buf);
    }
    inflight_end(f);
    return ret;
}

static bool is_zero(const struct early *e, size_t off, size_t len)
{
    struct iovec store;

    return iov_is_zero(iov_one(&store, e->buf + off, len));
}

/* Zeroes at both ends are left to the driver, which makes what is not written
 * of a new cluster read as zeroes. */
static void trim_zeroes(const struct early *e, size_t *ret_from, size_t *ret_to)
{
    size_t from = 0, to = e->end - e->start;

    while (to - from > TRIM_UNIT && is_zero(e, from, TRIM_UNIT)) {
        from += TRIM_UNIT;
    }
    while (to - from > TRIM_UNIT && to % TRIM_UNIT == 0 &&
           is_zero(e, to - TRIM_UNIT, TRIM_UNIT)) {
        to -= TRIM_UNIT;
    }
    *ret_from = from;
    *ret_to = to;
}

/* The cluster is held and @e has all of it. A write that failed may have left a
 * part of it in the driver: then the zeroes are written, too. */
static CO_FN int complete_co_write_held(struct early *e)
{
    size_t from = 0, to = e->end - e->start;
    struct node *n = e->node;
    struct iovec store;
    struct mapping m;
    int ret;

    if (!node_is_writable(n)) {
        return -EPERM;
    }
    ret = map_co_driver(n, e->start, to, 0, &m);
    if (ret < 0) {
        return ret;
    }
    node_map_end(n, &m);
    if (m.kind == MAP_ABSENT && m.len == to) {
        trim_zeroes(e, &from, &to);
    }
    ret = write_co_driver(n, e->start + from,
                          iov_one(&store, e->buf + from, to - from), 0);
    if (ret == 0) {
        early_drop(e);
    }
    return ret;
}

static CO_FN int complete_co_write(struct early *e)
{
    struct tracked t;
    int ret;

    track_co_begin(&t, e->node, e->start, e->end - e->start, TRACK_ALLOC);
    ret = e->state == EARLY_GONE ? 0 : complete_co_write_held(e);
    track_end(&t);
    return ret;
}

static CO_FN void complete_entry(void *arg)
{
    struct early *e = arg;
    int ret = e->missing > 0 && e->state != EARLY_GONE ? complete_co_read(e)
                                                       : 0;

    if (ret == 0) {
        ret = complete_co_write(e);
    }
    early_completed(e, ret);
}

/* --- writes --- */

bool early_fits(const struct node *n, uint64_t off, uint64_t len)
{
    return off % EARLY_SECTOR == 0 &&
           (len % EARLY_SECTOR == 0 || off + len == n->size);
}

void early_put(struct early *e, uint64_t off, struct iov iov)
{
    unsigned end = sector_of(e, off + iov.len + EARLY_SECTOR - 1);

    iov_to_buf(iov, 0, e->buf + (off - e->start), iov.len);
    for (unsigned i = sector_of(e, off); i < end; i++) {
        early_set(e, i);
    }
}

static bool chain_is_far(struct node *n)
{
    if (n->graph->early_always) {
        return true;
    }
    for (; n; n = node_backing(n)) {
        struct node *storage = node_storage(n);

        if (storage && storage->drv->is_remote) {
            return true;
        }
    }
    return false;
}

static bool early_may_begin(struct node *n, uint64_t start, unsigned flags)
{
    struct node *backing = node_backing(n);

    /* Whoever changes the base waits for reads that are noted; a completion is none. */
    return (flags & IO_DEMAND) && !(flags & (IO_FUA | IO_COMPRESSED)) &&
           backing && start < backing->size && !node_failure(n) &&
           !n->priv->notes_reads && !early_any_failed(n) &&
           chain_is_far(backing);
}

static uint64_t cluster_of(const struct node *n)
{
    return MAX(n->priv->limits.cluster_size, 1);
}

uint64_t early_split(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t cluster = cluster_of(n), end = off + len;
    uint64_t first = round_up(off, cluster), last = round_down(end, cluster);

    if (!early_fits(n, off, len) || !early_may_begin(n, off, flags)) {
        return len;
    }
    if (first != off) { /* up to where its cluster ends */
        return MIN(first, end) - off;
    }
    return last > off && end != n->size ? last - off : len;
}

bool early_begin_write(struct node *n, uint64_t off, struct iov iov,
                       unsigned flags)
{
    uint64_t start = round_down(off, cluster_of(n));
    uint64_t end = MIN(start + cluster_of(n), n->size);
    struct early *e;

    if (off + iov.len > end || iov.len == end - start ||
        !early_fits(n, off, iov.len) || !early_may_begin(n, start, flags)) {
        return false;
    }
    e = early_open(n, start, end, complete_entry);
    if (!e) {
        return false;
    }
    early_put(e, off, iov);
    node_note_change(n, start, end - start);
    return true;
}

/* --- reads --- */

/* From @off on nothing is there up to the end of @iov. */
static CO_FN int early_co_read_missing(struct early *e, uint64_t off,
                                       struct iov iov, unsigned flags,
                                       size_t *ret_done)
{
    *ret_done = 0;
    if (e->on_the_way) {
        co_queue_co_wait(&e->changed);
        return 0;
    }
    *ret_done = iov.len;
    return inflight_co_read_below(e->node, off, iov,
                                  flags & (IO_DEMAND | IO_BACKGROUND));
}

int early_co_read(struct early *e, uint64_t off, struct iov iov, unsigned flags)
{
    size_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        uint64_t at = off + done;
        bool there = early_has(e, sector_of(e, at));
        size_t len = MIN(run_end(e, at, there) - at, iov.len - done);

        if (there) {
            iov_from_buf(iov, done, e->buf + (at - e->start), len);
        } else {
            ret = early_co_read_missing(e, at, iov_slice(iov, done, len), flags,
                                        &len);
        }
        done += len;
    }
    return ret;
}

/* --- other changes --- */

void early_forget(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t at;

    while ((at = early_next(n, off)) < off + len) {
        early_drop(early_find(n, at));
    }
}

int early_co_forget_mapped(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t at = early_next(n, off);
    int ret = 0;

    while (at < off + len && ret == 0) {
        struct early *e = early_ref(early_find(n, at));
        struct mapping m;

        ret = map_co_driver(n, e->start, e->end - e->start, 0, &m);
        if (ret == 0) {
            node_map_end(n, &m);
            if (m.kind != MAP_ABSENT) {
                early_drop(e);
            }
        }
        at = early_next(n, e->end);
        early_unref(e);
    }
    return ret;
}
