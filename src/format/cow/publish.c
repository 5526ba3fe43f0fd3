/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bits on their way to the sidecar: the commit group's steps.
 *
 * The data file is flushed first; then come the blocks of the map, each as a
 * whole, for a bit that is lost shows the backing file and one that is there
 * has its data (W2).  A group whose clusters all have their bits is marked in
 * the summary, and its block need not be written.
 *
 * The block of a group that the summary does not know may hold bits of a pass
 * that a crash cut short.  They must not come back: it begins as zeroes, and is
 * durable before the summary leads to it, once for each 32,768 clusters.
 */
#include "base/barrier.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "loop/parallel.h"
#include "format/trace.h"

/* A block to be written. */
struct item {
    uint64_t group;
    GTreeNode *first; /* run that meets it */
    bool fresh;       /* the summary does not know it yet */
};

static uint64_t cow_publish_run_first(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

static uint64_t cow_publish_run_end(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_value(t));
}

/* A group that the disk ends in is never marked as a whole: it may grow. */
static bool group_is_whole(const struct overlay *o, uint64_t group)
{
    return (group + 1) << COW_GROUP_BITS <= cow_clusters(&o->hdr);
}

static void items_collect_run(struct overlay *o, GTreeNode *t)
{
    uint64_t first = cow_publish_run_first(t), end = cow_publish_run_end(t);

    for (uint64_t g = first >> COW_GROUP_BITS; g << COW_GROUP_BITS < end; g++) {
        struct item *last = o->items->len
                                ? &g_array_index(o->items, struct item,
                                                 o->items->len - 1)
                                : NULL;

        if (first <= g << COW_GROUP_BITS && end >= (g + 1) << COW_GROUP_BITS &&
            group_is_whole(o, g)) {
            cow_summary_set(o, g, COW_GROUP_ALL);
        } else if (cow_summary_get(o, g) != COW_GROUP_ALL &&
                   !(last && last->group == g)) {
            struct item item = {
                g,
                t,
                cow_summary_get(o, g) == COW_GROUP_NONE,
            };

            g_array_append_val(o->items, item);
        }
    }
}

static void bits_set(uint8_t *block, unsigned at, unsigned end)
{
    for (; at < end && at % 8; at++) {
        block[at / 8] |= (uint8_t)(1u << at % 8);
    }
    for (; at + 8 <= end; at += 8) {
        block[at / 8] = 0xff;
    }
    for (; at < end; at++) {
        block[at / 8] |= (uint8_t)(1u << at % 8);
    }
}

static bool block_is_full(const uint8_t *block)
{
    for (unsigned i = 0; i < COW_BLOCK_BYTES; i++) {
        if (block[i] != 0xff) {
            return false;
        }
    }
    return true;
}

static CO_FN int block_co_get(struct overlay *o, const struct item *item,
                              struct table **ret_t)
{
    if (!item->fresh) {
        return metadata_cache_co_get(&o->blocks, item->group, ret_t);
    }
    metadata_cache_forget(&o->blocks, item->group); /* of a pass that failed */
    return metadata_cache_co_new(&o->blocks, item->group, ret_t);
}

static CO_FN int cow_item_co_write(void *arg, unsigned i)
{
    struct overlay *o = arg;
    struct item item = g_array_index(o->items, struct item, i);
    uint64_t base = item.group << COW_GROUP_BITS;
    struct table *t;
    struct iovec v;
    int ret = block_co_get(o, &item, &t);

    if (ret < 0) {
        return ret;
    }
    for (GTreeNode *r = item.first;
         r && cow_publish_run_first(r) < base + OVERLAY_GROUP;
         r = g_tree_node_next(r)) {
        bits_set(
            t->data, (unsigned)(max_u64(cow_publish_run_first(r), base) - base),
            (unsigned)(min_u64(cow_publish_run_end(r), base + OVERLAY_GROUP) -
                       base));
    }
    if (group_is_whole(o, item.group) && block_is_full(t->data)) {
        cow_summary_set(o, item.group, COW_GROUP_ALL);
    } else {
        ret = node_co_pwritev(cow_file(o),
                              COW_MAP_AT + item.group * COW_BLOCK_BYTES,
                              iov_one(&v, t->data, COW_BLOCK_BYTES), 0);
    }
    metadata_cache_put(&o->blocks, t);
    return ret;
}

/* Let the summary lead to the new blocks. */
static CO_FN int cow_fresh_co_link(struct overlay *o)
{
    bool any = false;
    int ret = 0;

    for (unsigned i = 0; i < o->items->len; i++) {
        any = any || g_array_index(o->items, struct item, i).fresh;
    }
    if (any) {
        ret = BARRIER(OVERLAY_BLOCK, group_co_sync(o->group));
    }
    for (unsigned i = 0; i < o->items->len && ret == 0; i++) {
        cow_summary_set(o, g_array_index(o->items, struct item, i).group,
                        COW_GROUP_SOME);
    }
    return ret;
}

static CO_FN int summary_co_write(struct overlay *o)
{
    size_t n = o->summary_bytes / COW_BLOCK_BYTES;
    int ret = 0;

    for (size_t i = 0; i < n && ret == 0; i++) {
        struct iovec v;

        if (o->summary_dirty[i]) {
            ret = node_co_pwritev(
                cow_file(o), COW_SUMMARY_AT + i * COW_BLOCK_BYTES,
                iov_one(&v, o->summary + i * COW_BLOCK_BYTES, COW_BLOCK_BYTES),
                0);
            o->summary_dirty[i] = ret < 0;
        }
    }
    return ret;
}

static CO_FN int cow_publish_co_before(void *arg, uint64_t gen)
{
    struct overlay *o = arg;

    /* First of all: should this fail, there is room for another generation. */
    cow_pending_merge(o, gen);
    return BARRIER(OVERLAY_DATA, node_co_sync(o->node, cow_data(o)));
}

static CO_FN int publish_co_bits(void *arg, uint64_t gen)
{
    struct overlay *o = arg;
    struct pending_gen *p = cow_pending_merge(o, gen);
    int ret;

    if (!p) { /* every data write of the group failed */
        return 0;
    }
    g_array_set_size(o->items, 0);
    for (GTreeNode *t = g_tree_node_first(p->map); t; t = g_tree_node_next(t)) {
        items_collect_run(o, t);
    }
    trace_overlay_publish(o->node->name, gen, g_tree_nnodes(p->map),
                          o->items->len);
    ret = parallel_co_for(o->loop, o->items->len, OVERLAY_WORKERS,
                          cow_item_co_write, o);
    if (ret == 0) {
        ret = cow_fresh_co_link(o);
    }
    return ret < 0 ? ret : summary_co_write(o);
}

static void cow_publish_done(void *arg, uint64_t gen)
{
    struct overlay *o = arg;

    pending_drop(&o->pending, gen);
}

GArray *cow_items_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(struct item));
}

const struct group_ops cow_group_ops = {
    .co_before = cow_publish_co_before,
    .co_publish = publish_co_bits,
    .published = cow_publish_done,
};
