/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A commit group's changes reach the file.
 *
 * Before the group's first flush: L2 tables that do not exist yet, or that a
 * snapshot shares (a copy), complete with this group's changes, as nothing
 * leads to them; then refcounts.  After it: sectors of the tables that are ours
 * alone, and the L1 entries of the new ones.  After the second flush: what the
 * changes took pointers from may be given back.
 *
 * Invariants
 *   - The changes being published sit in one frozen pending map: the group let
 *     none join it any more, and the map is dropped only by published().
 *   - A table is in `fresh` only when its cluster reads as what it replaces
 *     (zeroes, or the table it is a copy of), so that its slices can be loaded.
 *   - Called again after a failure for want of space all steps are repeated;
 *     `fresh` remembers which tables already have a cluster.
 */
#include <errno.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/prepared.h"
#include "format/qcow2/space/space.h"
#include "format/trace.h"
#include "loop/io.h"
#include "loop/parallel.h"

/* Two dirty spots of a table this close become one write. */
#define MERGE_BYTES 4096
#define PUBLISH_WORKERS 16

/* Changes of one slice in the pass under way. */
struct item {
    uint64_t slice;
    GTreeNode *first;
};

struct qcow2_publish {
    GArray *items; /* struct item */
    GArray *l1;    /* uint32_t: tables of `items`, ordered */
};

void qcow2_publish_open(struct qcow2_image *img)
{
    img->publish = g_new0(struct qcow2_publish, 1);
    img->publish->items = g_array_new(FALSE, FALSE, sizeof(struct item));
    img->publish->l1 = g_array_new(FALSE, FALSE, sizeof(uint32_t));
}

void qcow2_publish_close(struct qcow2_image *img)
{
    if (img->publish) {
        g_array_unref(img->publish->items);
        g_array_unref(img->publish->l1);
        g_clear_pointer(&img->publish, g_free);
    }
    if (img->fresh) {
        g_hash_table_remove_all(img->fresh);
    }
}

/* --- what is to be done --- */

static uint64_t qcow2_publish_node_idx(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

static unsigned slices_bits(const struct qcow2_image *img)
{
    return img->l2_bits - img->slice_bits;
}

static void qcow2_collect_items(struct qcow2_image *img, GTree *map)
{
    struct qcow2_publish *p = img->publish;
    uint64_t last = UINT64_MAX;

    g_array_set_size(p->items, 0);
    g_array_set_size(p->l1, 0);
    for (GTreeNode *t = g_tree_node_first(map); t; t = g_tree_node_next(t)) {
        struct item it = { qcow2_publish_node_idx(t) >> img->slice_bits, t };
        uint32_t l1_idx = (uint32_t)(it.slice >> slices_bits(img));

        if (it.slice == last) {
            continue;
        }
        g_array_append_val(p->items, it);
        if (last == UINT64_MAX || last >> slices_bits(img) != l1_idx) {
            g_array_append_val(p->l1, l1_idx);
        }
        last = it.slice;
    }
}

static bool is_fresh(const struct qcow2_image *img, uint32_t l1_idx)
{
    return g_hash_table_contains(img->fresh, GUINT_TO_POINTER(l1_idx));
}

static uint32_t item_l1(const struct qcow2_image *img, const struct item *it)
{
    return (uint32_t)(it->slice >> slices_bits(img));
}

/* --- new tables --- */

static CO_FN int table_co_copy(struct qcow2_image *img, uint64_t from,
                               uint64_t to)
{
    size_t len = qcow2_cluster_size(img);
    uint8_t *buf = io_buf_get(len);
    struct iovec v;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    node_co_debug_event(qcow2_file(img), DEBUG_L2_ALLOC_COW_READ);
    ret = node_co_preadv(qcow2_file(img), from, iov_one(&v, buf, len), 0);
    if (ret == 0) {
        ret = qcow2_co_write_meta(img, QCOW2_META_L2, to, buf, len);
    }
    io_buf_put(buf, len);
    return ret;
}

static CO_FN int table_co_zero(struct qcow2_image *img, uint64_t at)
{
    int ret = qcow2_co_check_overlap(img, QCOW2_META_L2, at,
                                     qcow2_cluster_size(img));

    return ret < 0
               ? ret
               : node_co_zero(qcow2_file(img), at, qcow2_cluster_size(img), 0);
}

/* A new cluster for the table of L1 entry number @i of the pass. */
static CO_FN int table_co_alloc(void *arg, unsigned i)
{
    struct qcow2_image *img = arg;
    uint32_t l1_idx = g_array_index(img->publish->l1, uint32_t, i);
    uint64_t old = qcow2_l2_entry(img, l1_idx), host;
    uint64_t len = qcow2_cluster_size(img);
    bool fresh;
    int ret;

    if (old & QCOW2_COPIED) {
        return 0;
    }
    old &= QCOW2_OFFSET_MASK;
    ret = qcow2_co_alloc(img, 0, len, &host, &fresh);
    if (ret < 0) {
        return ret;
    }
    node_co_debug_event(qcow2_file(img), DEBUG_L2_ALLOC_WRITE);
    if (old) {
        ret = table_co_copy(img, old, host);
    } else if (!fresh) {
        ret = table_co_zero(img, host);
    }
    if (ret < 0) {
        qcow2_unalloc(img, 0, host, len);
        return ret;
    }
    qcow2_meta_add(img, QCOW2_META_L2, host, len);
    g_hash_table_insert(img->fresh, GUINT_TO_POINTER(l1_idx),
                        GSIZE_TO_POINTER(host));
    return 0;
}

/* --- one slice --- */

/* The next change of the same slice, or NULL. */
static GTreeNode *next_of_slice(const struct qcow2_image *img, GTreeNode *t)
{
    uint64_t slice = qcow2_publish_node_idx(t) >> img->slice_bits;

    t = g_tree_node_next(t);
    return t && qcow2_publish_node_idx(t) >> img->slice_bits == slice ? t
                                                                      : NULL;
}

static uint32_t desc_of(const struct qcow2_image *img, GTreeNode *t)
{
    return (uint32_t)(qcow2_publish_node_idx(t) &
                      ((UINT64_C(1) << img->slice_bits) - 1));
}

static void qcow2_item_apply(const struct qcow2_image *img,
                             const struct item *it, void *table)
{
    for (GTreeNode *t = it->first; t; t = next_of_slice(img, t)) {
        uint32_t i = desc_of(img, t);
        struct qcow2_desc d = qcow2_desc_get(&img->shape, table, i);

        qcow2_desc_put(&img->shape, table, i,
                       qcow2_delta_apply(d, g_tree_node_value(t)));
    }
}

/* The dirty spots of a slice, which is at @host. */
static CO_FN int qcow2_item_co_write(struct qcow2_image *img,
                                     const struct item *it,
                                     const uint8_t *table, uint64_t host)
{
    uint32_t size = img->shape.extended ? 16 : 8;
    GTreeNode *t = it->first;
    int ret = 0;

    while (t && ret == 0) {
        uint64_t a = (uint64_t)desc_of(img, t) * size, b = a + size;

        while ((t = next_of_slice(img, t)) &&
               (uint64_t)desc_of(img, t) * size < b + MERGE_BYTES) {
            b = (uint64_t)desc_of(img, t) * size + size;
        }
        a = round_down(a, QCOW2_SECTOR);
        b = round_up(b, QCOW2_SECTOR);
        node_co_debug_event(qcow2_file(img), DEBUG_L2_UPDATE);
        ret = qcow2_co_write_meta(img, QCOW2_META_L2, host + a, table + a,
                                  b - a);
    }
    return ret;
}

static CO_FN int item_co_publish(struct qcow2_image *img, const struct item *it)
{
    uint64_t entry = qcow2_l2_entry(img, item_l1(img, it));
    uint64_t within = it->slice & ((UINT64_C(1) << slices_bits(img)) - 1);
    struct table *t;
    int ret = metadata_cache_co_get(&img->slices, it->slice, &t);

    if (ret < 0) {
        return ret;
    }
    qcow2_item_apply(img, it, t->data);
    ret = qcow2_item_co_write(img, it, t->data,
                              (entry & QCOW2_OFFSET_MASK) +
                                  within * qcow2_slice_bytes(img));
    metadata_cache_put(&img->slices, t);
    qcow2_prepared_table_changed(img, item_l1(img, it));
    return ret;
}

static struct item *qcow2_item_at(struct qcow2_image *img, unsigned i)
{
    return &g_array_index(img->publish->items, struct item, i);
}

static CO_FN int fresh_co_publish(void *arg, unsigned i)
{
    struct qcow2_image *img = arg;
    struct item *it = qcow2_item_at(img, i);

    return is_fresh(img, item_l1(img, it)) ? item_co_publish(img, it) : 0;
}

static CO_FN int existing_co_publish(void *arg, unsigned i)
{
    struct qcow2_image *img = arg;
    struct item *it = qcow2_item_at(img, i);

    return is_fresh(img, item_l1(img, it)) ? 0 : item_co_publish(img, it);
}

/* --- the pass --- */

static CO_FN int qcow2_fresh_co_write(struct qcow2_image *img)
{
    int ret = parallel_co_for(img->loop, img->publish->l1->len, PUBLISH_WORKERS,
                              table_co_alloc, img);

    return ret < 0 ? ret
                   : parallel_co_for(img->loop, img->publish->items->len,
                                     PUBLISH_WORKERS, fresh_co_publish, img);
}

static CO_FN int qcow2_publish_co_before(void *arg, uint64_t gen)
{
    struct qcow2_image *img = arg;
    struct pending_gen *p = qcow2_pending_merge(img, gen);
    int ret = img->corrupt ? -EIO : qcow2_co_header_settle(img);

    if (ret < 0) {
        return ret;
    }
    g_array_set_size(img->publish->items, 0);
    g_array_set_size(img->publish->l1, 0);
    if (img->data) {
        ret = BARRIER(QCOW2_DATA_FILE,
                      node_co_sync(img->node, qcow2_data(img)));
    }
    if (p && ret == 0) {
        qcow2_collect_items(img, p->map);
        trace_qcow2_publish(img->node->name, gen, g_tree_nnodes(p->map),
                            img->publish->items->len);
        ret = BARRIER(QCOW2_TABLE_FIRST, qcow2_fresh_co_write(img));
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_REFCOUNTS, qcow2_co_refcounts_write(img, gen));
    }
    return ret;
}

/* L1 entry @i as it shall be; the old table loses a pointer. */
static void l1_entry_set(struct qcow2_image *img, uint64_t gen, uint32_t i)
{
    uint64_t was = get_be64(&img->l1[i]) & QCOW2_OFFSET_MASK;
    uint64_t entry = qcow2_l2_entry(img, i);

    if (was && was != (entry & QCOW2_OFFSET_MASK)) {
        qcow2_refcount_decrement(img, gen, was, qcow2_cluster_size(img));
    }
    put_be64(&img->l1[i], entry);
    qcow2_prepared_table_changed(img, i);
}

/* Let the L1 table point to the new tables. */
static CO_FN int qcow2_fresh_co_link(struct qcow2_image *img, uint64_t gen)
{
    const GArray *l1 = img->publish->l1;
    int ret = 0;

    for (unsigned i = 0; i < l1->len; i++) {
        l1_entry_set(img, gen, g_array_index(l1, uint32_t, i));
    }
    for (unsigned i = 0; i < l1->len && ret == 0;) {
        uint64_t a, b;

        if (!is_fresh(img, g_array_index(l1, uint32_t, i))) {
            i++;
            continue;
        }
        a = (uint64_t)g_array_index(l1, uint32_t, i) * 8;
        b = a + 8;
        while (++i < l1->len &&
               (uint64_t)g_array_index(l1, uint32_t, i) * 8 < b + MERGE_BYTES) {
            b = (uint64_t)g_array_index(l1, uint32_t, i) * 8 + 8;
        }
        a = round_down(a, QCOW2_SECTOR);
        b = min_u64(round_up(b, QCOW2_SECTOR), (uint64_t)img->hdr.l1_size * 8);
        node_co_debug_event(qcow2_file(img), DEBUG_L1_UPDATE);
        ret = qcow2_co_write_meta(img, QCOW2_META_L1, img->hdr.l1_offset + a,
                                  (uint8_t *)img->l1 + a, b - a);
    }
    return ret;
}

static CO_FN int qcow2_publish_co_pointers(void *arg, uint64_t gen)
{
    struct qcow2_image *img = arg;
    int ret = BARRIER_LATE(QCOW2_REFCOUNTS, qcow2_co_refcounts_write(img, gen));

    if (ret == 0) {
        ret = BARRIER_LATE(QCOW2_TABLE_FIRST, qcow2_fresh_co_write(img));
    }
    if (ret == 0) {
        ret = parallel_co_for(img->loop, img->publish->items->len,
                              PUBLISH_WORKERS, existing_co_publish, img);
    }
    return ret < 0 ? ret : qcow2_fresh_co_link(img, gen);
}

static void qcow2_publish_done(void *arg, uint64_t gen)
{
    struct qcow2_image *img = arg;

    if (!img->publish) {
        return;
    }
    g_array_set_size(img->publish->items, 0);
    g_array_set_size(img->publish->l1, 0);
    g_hash_table_remove_all(img->fresh);
    pending_drop(&img->pending, gen);
    qcow2_space_published(img, gen);
}

const struct group_ops qcow2_group_ops = {
    .co_before = qcow2_publish_co_before,
    .co_publish = qcow2_publish_co_pointers,
    .published = qcow2_publish_done,
};
