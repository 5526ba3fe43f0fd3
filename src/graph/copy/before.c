/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See graph/before.h.
 *
 *   todo    clusters that are still to be copied: the disk has their old bytes
 *   access  clusters that can be read: those of todo from the disk, the others
 *           from the target
 *
 * A cluster is copied, and read from the disk, with its range taken; it leaves
 * todo when the target has it.  Whoever takes a range waits for those that read
 * or copy there, and looks at todo again: so nobody reads old bytes from the
 * disk where a guest finds that nothing is to be copied.
 *
 * The disk may be the backing file of the target: then a guest also waits for
 * reads of the target that were told that it has nothing there.
 */
#include "graph/before.h"
#include <errno.h>
#include "base/err.h"
#include "graph/graph-int.h"
#include "graph/io.h"
#include "graph/ranges.h"
#include "graph/transfer.h"
#include "loop/co.h"
#include "loop/loop.h"

#define CLUSTER_MIN (UINT32_C(64) << 10)
/* What is copied with one range taken. */
#define RUN_MAX (UINT64_C(1) << 20)

struct before {
    unsigned refs;
    struct node *disk, *target; /* referenced */
    struct dirty_map *todo, *access;
    struct ranges ranges;
    bool fleecing; /* who reads the target reads the disk below it */
    unsigned write_flags;
    bool top_only, break_snapshot;
    uint64_t timeout_ns;
    int error;
};

/* With larger clusters for a disk that has too many of @least. */
static struct dirty_map *map_of_clusters(uint64_t size, uint32_t least,
                                         GError **err)
{
    struct dirty_map *map = dirty_map_new(size, 0, err);
    uint32_t cluster = map ? dirty_map_granularity(map) : 0;

    if (map && cluster < least) {
        dirty_map_free(map);
        map = dirty_map_new(size, least, err);
    }
    return map;
}

struct before *before_new(struct node *disk, struct node *target,
                          uint32_t min_cluster, GError **err)
{
    uint32_t cluster = MAX(node_get_limits(target)->cluster_size, CLUSTER_MIN);
    struct dirty_map *todo = map_of_clusters(disk->size,
                                             MAX(cluster, min_cluster), err);
    struct before *b;

    if (!todo) {
        return NULL;
    }
    b = g_new0(struct before, 1);
    b->refs = 1;
    b->disk = node_ref(disk);
    b->target = node_ref(target);
    b->todo = todo;
    dirty_map_set(todo, 0, disk->size);
    b->access = dirty_map_copy(todo);
    b->fleecing = node_chain_contains(target, disk);
    if (b->fleecing) {
        target->priv->notes_reads++;
        target->graph->noting++;
    }
    return b;
}

struct before *before_ref(struct before *b)
{
    b->refs++;
    return b;
}

CO_FN void before_co_unref(struct before *b)
{
    if (--b->refs == 0) {
        if (b->fleecing) {
            b->target->priv->notes_reads--;
            b->target->graph->noting--;
        }
        node_co_unref(b->target);
        node_co_unref(b->disk);
        dirty_map_free(b->todo);
        dirty_map_free(b->access);
        g_free(b);
    }
}

void before_set_only(struct before *b, const struct dirty_map *map)
{
    dirty_map_clear(b->todo, 0, b->disk->size);
    dirty_map_merge(b->todo, map);
    dirty_map_free(b->access);
    b->access = dirty_map_copy(b->todo);
}

void before_set_top_only(struct before *b)
{
    b->top_only = true;
}

void before_set_break_snapshot(struct before *b, bool on)
{
    b->break_snapshot = on;
}

void before_set_timeout(struct before *b, uint64_t ns)
{
    b->timeout_ns = ns;
}

void before_set_write_flags(struct before *b, unsigned flags)
{
    b->write_flags = flags;
}

uint32_t before_cluster(const struct before *b)
{
    return dirty_map_granularity(b->todo);
}

const struct dirty_map *before_todo(const struct before *b)
{
    return b->todo;
}

int before_error(const struct before *b)
{
    return b->error;
}

struct before *node_before(const struct node *n)
{
    return n->drv->before ? n->drv->before(n) : NULL;
}

/* --- copying --- */

/* [@off, @off+@len), whose range is taken, by what the disk says of it. */
static CO_FN int copy_co_held(struct before *b, uint64_t off, uint64_t len,
                              bool urgent, struct copy_result *res)
{
    const struct transfer t = {
        .src = b->disk,
        .dst = b->target,
        .zero_flags = IO_MAY_UNMAP,
        .write_flags = b->write_flags,
        .urgent = urgent,
    };
    struct node *base = b->top_only ? node_backing(b->disk) : NULL;
    uint64_t end = off + len;
    int ret = 0;

    while (off < end && ret == 0) {
        struct copy_result part = { .is_read = true };
        struct extent ext = { 0 };

        ret = node_co_status_above(b->disk, base, off, end - off, &ext);
        /* Compressed clusters are written as a whole. */
        if (b->write_flags & IO_COMPRESSED && !(ext.flags & STATUS_ZERO)) {
            ext.len = MIN(end - off,
                          round_up(off + ext.len, before_cluster(b)) - off);
        }
        if (ret == 0 && !(base && ext.depth == 0)) {
            part.is_read = false;
            ret = transfer_co_copy(&t, off, ext.len, ext.flags & STATUS_ZERO,
                                   &part);
        }
        copy_result_add(res, &part);
        off += ext.len;
    }
    return ret;
}

/* The clusters from @off on, below @end, that are still to be copied, or the
 * first run of them; how far that was is *@ret_end. */
static CO_FN int copy_co_run(struct before *b, uint64_t off, uint64_t end,
                             bool urgent, struct copy_result *res,
                             uint64_t *ret_end)
{
    struct range r;
    uint64_t len;
    int ret = 0;

    end = MIN(end, off + RUN_MAX);
    ranges_co_take(&b->ranges, &r, off, end - off);
    if (dirty_map_run(b->todo, off, end - off, &len)) {
        ret = copy_co_held(b, off, len, urgent, res);
        if (ret == 0) {
            dirty_map_clear(b->todo, off, len);
        }
    }
    ranges_drop(&b->ranges, &r);
    *ret_end = off + len;
    return ret;
}

/* To whole clusters, within the disk. */
static uint64_t cluster_begin(const struct before *b, uint64_t off)
{
    return round_down(off, before_cluster(b));
}

static uint64_t end_of_cluster(const struct before *b, uint64_t end)
{
    return MIN(round_up(end, before_cluster(b)), b->disk->size);
}

static CO_FN int copy_co_clusters(struct before *b, uint64_t off, uint64_t end,
                                  bool urgent, struct copy_result *res)
{
    uint64_t len;
    int ret = 0;

    while (ret == 0 && off < end && dirty_map_next(b->todo, off, &off, &len) &&
           off < end) {
        ret = copy_co_run(b, off, MIN(end, off + len), urgent, res, &off);
    }
    return ret;
}

CO_FN int before_co_copy(struct before *b, uint64_t off, uint64_t len,
                         struct copy_result *res)
{
    return copy_co_clusters(b, cluster_begin(b, off),
                            end_of_cluster(b, off + len), false, res);
}

/* --- guests --- */

static CO_FN int change_co_prepare(struct before *b, uint64_t off, uint64_t end)
{
    struct copy_result res = { 0 };
    int ret = copy_co_clusters(b, off, end, true, &res);

    if (ret == 0 && b->fleecing) {
        ranges_co_wait(&b->target->priv->reads, off, end - off);
    }
    return ret;
}

/* A coroutine of its own, which may live longer than the guest waits. */
struct attempt {
    struct before *before;
    uint64_t off, end;
    int ret;
    bool over, left;
    struct co_queue done;
};

static CO_FN void attempt_entry(void *arg)
{
    struct attempt *a = arg;
    struct graph *g = a->before->disk->graph;
    bool left;

    a->ret = change_co_prepare(a->before, a->off, a->end);
    a->over = true;
    left = a->left;
    co_queue_wake_all(&a->done);
    if (left) {
        before_co_unref(a->before);
        g_free(a);
    }
    co_latch_done(&g->detached);
}

static CO_FN int change_co_prepare_in_time(struct before *b, uint64_t off,
                                           uint64_t end)
{
    struct loop *loop = graph_loop(b->disk->graph);
    uint64_t until = loop_clock_ns(loop) + b->timeout_ns;
    struct attempt *a = g_new0(struct attempt, 1);
    int ret;

    *a = (struct attempt) {
        .before = before_ref(b),
        .off = off,
        .end = end,
    };
    co_latch_add(&b->disk->graph->detached);
    co_start(loop, attempt_entry, a);
    while (!a->over && co_queue_co_wait_until(&a->done, until)) {
    }
    if (!a->over) {
        a->left = true;
        return -ETIMEDOUT;
    }
    ret = a->ret;
    before_co_unref(b);
    g_free(a);
    return ret;
}

/* Is nothing of it to be copied, and nobody to be waited for? */
static bool change_is_free(const struct before *b, uint64_t off, uint64_t end)
{
    uint64_t len;

    return !dirty_map_run(b->todo, off, end - off, &len) && len == end - off &&
           !(b->fleecing &&
             ranges_any(&b->target->priv->reads, off, end - off));
}

CO_FN int before_co_change(struct before *b, uint64_t off, uint64_t len)
{
    uint64_t end = end_of_cluster(b, off + len);
    int ret;

    off = cluster_begin(b, off);
    if (b->error || off >= end || change_is_free(b, off, end)) {
        return 0;
    }
    ret = b->timeout_ns ? change_co_prepare_in_time(b, off, end)
                        : change_co_prepare(b, off, end);
    if (ret < 0 && b->break_snapshot) {
        b->error = b->error ? b->error : ret;
        ret = 0;
    }
    return b->error ? 0 : ret;
}

/* --- reading the copy --- */

/* *@ret_len: how far one node has the old bytes; which, and with the range taken
 * when it is the disk. NULL: they cannot be read. */
static CO_FN struct node *read_co_begin(struct before *b, uint64_t off,
                                        uint64_t len, struct range *r,
                                        uint64_t *ret_len)
{
    if (b->error || off >= dirty_map_size(b->access) ||
        !dirty_map_run(b->access, off, len, &len)) {
        return NULL;
    }
    if (!dirty_map_run(b->todo, off, len, ret_len)) {
        return b->target;
    }
    ranges_co_take(&b->ranges, r, off, *ret_len);
    if (dirty_map_run(b->todo, off, *ret_len, ret_len)) {
        return b->disk;
    }
    ranges_drop(&b->ranges, r);
    return b->target;
}

/* A guest that did not wait has maybe changed what was read. */
static int read_end(struct before *b, struct node *n, struct range *r, int ret)
{
    if (n == b->disk) {
        ranges_drop(&b->ranges, r);
    }
    return b->error ? -EACCES : ret;
}

CO_FN int before_co_read(struct before *b, uint64_t off, struct iov iov,
                         unsigned flags)
{
    uint64_t pos = 0, len;
    int ret = 0;

    for (; pos < iov.len && ret == 0; pos += len) {
        struct range r;
        struct node *n = read_co_begin(b, off + pos, iov.len - pos, &r, &len);

        if (!n) {
            return -EACCES;
        }
        ret = node_co_preadv(n, off + pos, iov_slice(iov, pos, len), flags);
        ret = read_end(b, n, &r, ret);
    }
    return ret;
}

CO_FN int before_co_status(struct before *b, uint64_t off, uint64_t len,
                           struct extent *ret_ext)
{
    struct range r;
    struct node *n = read_co_begin(b, off, len, &r, &len);
    int ret;

    if (!n) {
        return -EACCES;
    }
    ret = node_co_status_above(n, NULL, off, len, ret_ext);
    return read_end(b, n, &r, ret);
}

CO_FN int before_co_discard(struct before *b, uint64_t off, uint64_t len)
{
    uint64_t end = off + len >= b->disk->size ? b->disk->size
                                              : cluster_begin(b, off + len);
    struct range r;
    int ret;

    off = round_up(off, before_cluster(b));
    if (off >= end) {
        return 0;
    }
    ranges_co_take(&b->ranges, &r, off, end - off);
    dirty_map_clear(b->todo, off, end - off);
    dirty_map_clear(b->access, off, end - off);
    ret = node_co_discard(b->target, off, end - off);
    ranges_drop(&b->ranges, &r);
    return ret;
}
