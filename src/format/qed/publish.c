/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A commit group's pointers reach the file.
 *
 * Before the group's first flush: NEED_CHECK (only without a backing file, M6);
 * tables that do not exist yet, complete with this group's pointers, as nothing
 * leads to them; the length of the file.  After it: sectors of existing tables,
 * and the L1 entries of the new ones.
 *
 * Invariants
 *   - The pointers being published sit in one frozen pending map: the group let
 *     no write join it any more, and the map is dropped only by published().
 *   - Space of a new table was never written before, so its sectors without
 *     pointers need no write: they read as zeroes.
 *   - Called again after a failure for want of space all steps are repeated;
 *     `fresh` remembers which tables already have clusters.
 */
#include <inttypes.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/math.h"
#include "loop/parallel.h"
#include "format/qed/qed.h"
#include "format/trace.h"

/* Two dirty spots of a table this close become one write. */
#define MERGE_ENTRIES 512

/* --- helpers shared with check.c --- */

int qed_co_write_entries(struct qed_image *img, const uint64_t *entries,
                         uint64_t table, uint32_t first, uint32_t end)
{
    struct node *file = qed_file(img);
    uint64_t unit = max_u64(QED_SECTOR,
                            node_get_limits(file)->request_alignment);
    uint64_t a = round_down((uint64_t)first * 8, unit);
    uint64_t b = min_u64(round_up((uint64_t)end * 8, unit), img->table_bytes);
    struct iovec v;
    int ret;

    ret = node_co_pwritev(
        file, table + a, iov_one(&v, (char *)(uintptr_t)entries + a, b - a), 0);
    if (ret == 0) {
        qed_note_written(img, table + b);
    }
    return ret;
}

/* --- one table --- */

static uint64_t qed_publish_node_idx(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

/* The next pointer of the same table, or NULL. */
static GTreeNode *next_of_table(const struct qed_image *img, GTreeNode *t)
{
    uint64_t l1_idx = qed_publish_node_idx(t) >> img->entry_bits;

    t = g_tree_node_next(t);
    return t && qed_publish_node_idx(t) >> img->entry_bits == l1_idx ? t : NULL;
}

static uint32_t qed_entry_of(const struct qed_image *img, GTreeNode *t)
{
    return (uint32_t)(qed_publish_node_idx(t) & (qed_entries(img) - 1));
}

static void qed_item_apply(const struct qed_image *img,
                           const struct qed_item *it, uint64_t *entries)
{
    for (GTreeNode *t = it->first; t; t = next_of_table(img, t)) {
        put_le64(&entries[qed_entry_of(img, t)],
                 GPOINTER_TO_SIZE(g_tree_node_value(t)));
    }
}

static CO_FN int qed_item_co_write(struct qed_image *img,
                                   const struct qed_item *it,
                                   const uint64_t *entries)
{
    uint64_t table = qed_l2_offset(img, it->l1_idx);
    GTreeNode *t = it->first;
    int ret = 0;

    while (t && ret == 0) {
        uint32_t first = qed_entry_of(img, t), end = first + 1;
        while ((t = next_of_table(img, t)) &&
               qed_entry_of(img, t) < end + MERGE_ENTRIES) {
            end = qed_entry_of(img, t) + 1;
        }
        node_co_debug_event(qed_file(img), DEBUG_L2_UPDATE);
        ret = qed_co_write_entries(img, entries, table, first, end);
    }
    return ret;
}

static CO_FN int item_co_write_table(struct qed_image *img,
                                     const struct qed_item *it, bool is_new)
{
    struct table *t;
    int ret = is_new ? metadata_cache_co_new(&img->l2, it->l1_idx, &t)
                     : metadata_cache_co_get(&img->l2, it->l1_idx, &t);

    if (ret < 0) {
        return ret;
    }
    qed_item_apply(img, it, qed_l2_entries(t));
    ret = qed_item_co_write(img, it, qed_l2_entries(t));
    metadata_cache_put(&img->l2, t);
    return ret;
}

/* --- the pass --- */

static void qed_collect_items(struct qed_image *img, GTree *map)
{
    uint64_t last = UINT64_MAX;

    g_array_set_size(img->items, 0);
    for (GTreeNode *t = g_tree_node_first(map); t; t = g_tree_node_next(t)) {
        uint64_t l1_idx = qed_publish_node_idx(t) >> img->entry_bits;
        if (l1_idx != last) {
            struct qed_item it = {
                .l1_idx = (uint32_t)l1_idx,
                .fresh = img->l1[l1_idx] == 0 ||
                         g_hash_table_contains(img->fresh,
                                               GUINT_TO_POINTER((guint)l1_idx)),
                .first = t,
            };
            g_array_append_val(img->items, it);
            last = l1_idx;
        }
    }
}

static struct qed_item *qed_item_at(struct qed_image *img, unsigned i)
{
    return &g_array_index(img->items, struct qed_item, i);
}

static CO_FN int write_fresh_entry(void *arg, unsigned i)
{
    struct qed_image *img = arg;
    struct qed_item *it = qed_item_at(img, i);
    bool is_new;
    uint64_t off;
    int ret;

    if (!it->fresh) {
        return 0;
    }
    is_new = qed_l2_offset(img, it->l1_idx) == 0;
    if (is_new) {
        ret = qed_co_reserve(img, img->table_bytes, &off);
        if (ret < 0) {
            return ret;
        }
        g_hash_table_insert(img->fresh, GUINT_TO_POINTER(it->l1_idx),
                            GSIZE_TO_POINTER(off));
    }
    return item_co_write_table(img, it, is_new);
}

static CO_FN int write_existing_entry(void *arg, unsigned i)
{
    struct qed_image *img = arg;
    struct qed_item *it = qed_item_at(img, i);

    return it->fresh ? 0 : item_co_write_table(img, it, false);
}

static unsigned workers_for(const struct qed_image *img)
{
    return (unsigned)CLAMP(img->l2.max_bytes / 2 / img->table_bytes, 1,
                           QED_WORKERS);
}

static CO_FN int qed_fresh_co_write(struct qed_image *img)
{
    return parallel_co_for(img->loop, img->items->len, workers_for(img),
                           write_fresh_entry, img);
}

static uint64_t fresh_end(struct qed_image *img)
{
    GHashTableIter iter;
    gpointer off;
    uint64_t end = 0;

    g_hash_table_iter_init(&iter, img->fresh);
    while (g_hash_table_iter_next(&iter, NULL, &off)) {
        end = max_u64(end, GPOINTER_TO_SIZE(off) + img->table_bytes);
    }
    return end;
}

static CO_FN int need_check_co_set(struct qed_image *img)
{
    struct qed_header h = img->hdr;

    if (h.features & (QED_F_BACKING_FILE | QED_F_NEED_CHECK)) {
        return qed_co_header_settle(img);
    }
    h.features |= QED_F_NEED_CHECK;
    return qed_co_write_header(img, &h);
}

static CO_FN int qed_publish_co_before(void *arg, uint64_t gen)
{
    struct qed_image *img = arg;
    struct pending_gen *p = qed_pending_merge(img, gen);
    uint64_t end;
    int ret;

    if (!p) { /* every data write of the group failed */
        g_array_set_size(img->items, 0);
        return 0;
    }
    qed_collect_items(img, p->map);
    end = p->end;
    trace_qed_publish(img->node->name, gen, g_tree_nnodes(p->map),
                      img->items->len);
    ret = BARRIER(NEED_CHECK, need_check_co_set(img));
    if (ret == 0) {
        ret = BARRIER(TABLE_FIRST, qed_fresh_co_write(img));
    }
    if (ret == 0) {
        ret = BARRIER(FILE_LENGTH,
                      qed_co_extend(img, max_u64(end, fresh_end(img))));
    }
    return ret;
}

/* Let the L1 table point to the new tables. */
static CO_FN int qed_fresh_co_link(struct qed_image *img)
{
    unsigned n = img->items->len;
    int ret = 0;

    for (unsigned i = 0; i < n; i++) {
        uint32_t l1_idx = qed_item_at(img, i)->l1_idx;
        put_le64(&img->l1[l1_idx], qed_l2_offset(img, l1_idx));
    }
    for (unsigned i = 0; i < n && ret == 0;) {
        uint32_t first, end;
        if (!qed_item_at(img, i)->fresh) {
            i++;
            continue;
        }
        first = qed_item_at(img, i)->l1_idx;
        end = first + 1;
        while (++i < n && qed_item_at(img, i)->l1_idx < end + MERGE_ENTRIES) {
            end = qed_item_at(img, i)->fresh ? qed_item_at(img, i)->l1_idx + 1
                                             : end;
        }
        node_co_debug_event(qed_file(img), DEBUG_L1_UPDATE);
        ret = qed_co_write_entries(img, img->l1, img->hdr.l1_table_offset,
                                   first, end);
    }
    return ret;
}

static CO_FN int qed_publish_co_pointers(void *arg, uint64_t gen)
{
    struct qed_image *img = arg;
    int ret = BARRIER_LATE(NEED_CHECK, need_check_co_set(img));

    if (ret == 0) {
        ret = BARRIER_LATE(TABLE_FIRST, qed_fresh_co_write(img));
    }
    if (ret == 0) {
        ret = BARRIER_LATE(TABLE_FIRST, qed_co_extend(img, fresh_end(img)));
    }
    if (ret == 0) {
        ret = parallel_co_for(img->loop, img->items->len, workers_for(img),
                              write_existing_entry, img);
    }
    return ret < 0 ? ret : qed_fresh_co_link(img);
}

static void qed_publish_done(void *arg, uint64_t gen)
{
    struct qed_image *img = arg;
    bool any = img->pending.n && img->pending.gens[0].gen <= gen;

    if (any) {
        g_array_set_size(img->items, 0);
        g_hash_table_remove_all(img->fresh);
        pending_drop(&img->pending, gen);
        qed_arm_clear(img);
    }
}

const struct group_ops qed_group_ops = {
    .co_before = qed_publish_co_before,
    .co_publish = qed_publish_co_pointers,
    .published = qed_publish_done,
};
