/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where guest clusters are: pending pointers first, newest generation first,
 * then the tables.
 *
 * A lookup may yield to load one table; its answer is then formed without
 * yielding, so it is a snapshot.  It stays true for whoever holds the range:
 * clusters only go from absent to zero to data, and never move.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qed/qed.h"

/* --- pending pointers --- */

void qed_pending_add(struct qed_image *img, uint64_t gen, uint64_t idx,
                     uint64_t n, uint64_t entry)
{
    struct pending_gen *p = pending_of(&img->pending, gen, NULL);

    for (uint64_t i = 0; i < n; i++) {
        g_tree_replace(p->map, GSIZE_TO_POINTER(idx + i),
                       GSIZE_TO_POINTER(entry));
        if (entry != QED_ENTRY_ZERO) {
            entry += qed_cluster_size(img);
        }
    }
    if (entry != QED_ENTRY_ZERO) {
        p->end = max_u64(p->end, entry);
    }
}

static gboolean qed_pending_older(gpointer key, gpointer value, gpointer map)
{
    if (!g_tree_lookup(map, key)) {
        g_tree_insert(map, key, value);
    }
    return FALSE;
}

struct pending_gen *qed_pending_merge(struct qed_image *img, uint64_t gen)
{
    return pending_merge(&img->pending, gen, qed_pending_older);
}

/* --- lookup --- */

/* True with *@ret_entry when a pointer for @idx is pending; else *@ret_next is
 * the next index that has one, or UINT64_MAX. */
static bool qed_pending_find(struct pending_walk *w, uint64_t idx,
                             uint64_t *ret_entry, uint64_t *ret_next)
{
    *ret_next = pending_walk_to(w, idx);
    for (unsigned i = 0; *ret_next == idx && i < w->p->n; i++) {
        gpointer entry = pending_walk_value(w, i, idx);

        if (entry) { /* a newer generation overrides */
            *ret_entry = GPOINTER_TO_SIZE(entry);
        }
    }
    return *ret_next == idx;
}

/* Clusters that one rule answers for: @n entries, the first is @entry; those
 * that follow count up by clusters if it is an offset. */
struct segment {
    uint64_t n, entry;
};

static void table_segment(const struct qed_image *img, const struct table *t,
                          uint64_t idx, uint64_t limit, struct segment *ret)
{
    uint64_t mask = qed_entries(img) - 1;
    uint64_t step, want;

    ret->entry = get_le64(&qed_l2_entries(t)[idx & mask]);
    step = ret->entry > QED_ENTRY_ZERO ? qed_cluster_size(img) : 0;
    want = ret->entry;
    for (ret->n = 1; idx + ret->n < limit; ret->n++) {
        want += step;
        if (get_le64(&qed_l2_entries(t)[(idx + ret->n) & mask]) != want) {
            break;
        }
    }
}

/* The cluster index at which the L1 entries from @l1_idx that have no table
 * end, seen as far as @limit. */
static uint64_t qed_no_tables_end(const struct qed_image *img, uint32_t l1_idx,
                                  uint64_t limit)
{
    uint64_t end = limit >> img->entry_bits;

    while (++l1_idx < end && img->l1[l1_idx] == 0) {
    }
    return (uint64_t)l1_idx << img->entry_bits;
}

/* What stands in the tables from @idx up to @limit. 0, -EAGAIN when a table
 * must be loaded first, -EINVAL. */
static int metadata_cache_segment(struct qed_image *img, uint64_t idx,
                                  uint64_t limit, struct segment *ret)
{
    uint32_t l1_idx = (uint32_t)(idx >> img->entry_bits);
    uint64_t span_end = ((uint64_t)l1_idx + 1) << img->entry_bits;
    uint64_t table = get_le64(&img->l1[l1_idx]);
    uint64_t bytes;
    struct table *t;

    if (table == 0) {
        *ret = (struct segment) {
            .n = min_u64(limit, qed_no_tables_end(img, l1_idx, limit)) - idx,
            .entry = QED_ENTRY_NONE,
        };
        return 0;
    }
    limit = min_u64(limit, span_end);
    t = metadata_cache_peek(&img->l2, l1_idx);
    if (!t) {
        return -EAGAIN;
    }
    table_segment(img, t, idx, limit, ret);
    if (ret->entry <= QED_ENTRY_ZERO) {
        return 0;
    }
    if (qed_offset_valid(img, ret->entry, ret->n << img->cluster_bits)) {
        return 0;
    }
    /* The good ones before the first bad one, if there are any. */
    bytes = qed_cluster_size(img);
    if (qed_offset_valid(img, ret->entry, bytes)) {
        uint64_t n = 1;
        while (qed_offset_valid(img, ret->entry + (n << img->cluster_bits),
                                bytes)) {
            n++;
        }
        ret->n = n;
        return 0;
    }
    return node_corrupt(img->node, NULL,
                        table + (idx & (qed_entries(img) - 1)) * 8,
                        "QED L2 entry of guest offset %" PRIu64 " is 0x%" PRIx64
                        ": no cluster of this file (run a check)",
                        idx << img->cluster_bits, ret->entry);
}

static enum qed_kind entry_kind(uint64_t entry)
{
    return entry == QED_ENTRY_NONE   ? QED_ABSENT
           : entry == QED_ENTRY_ZERO ? QED_ZERO
                                     : QED_DATA;
}

/* From memory alone: clusters [@first, ...) as one segment, up to @last. */
static int qed_scan(struct qed_image *img, uint64_t first, uint64_t last,
                    struct segment *ret)
{
    struct pending_walk w;
    struct segment s = { .n = 0 };

    pending_walk_init(&w, &img->pending, first);
    ret->n = 0;
    while (first + ret->n < last) {
        uint64_t idx = first + ret->n, next;
        enum qed_kind kind;

        if (qed_pending_find(&w, idx, &s.entry, &next)) {
            s.n = 1;
        } else {
            int r = metadata_cache_segment(img, idx, min_u64(next, last), &s);
            if (r < 0) {
                return ret->n ? 0 : r;
            }
        }
        kind = entry_kind(s.entry);
        if (ret->n == 0) {
            *ret = s;
        } else if (kind == entry_kind(ret->entry) &&
                   (kind != QED_DATA ||
                    s.entry == ret->entry + (ret->n << img->cluster_bits))) {
            ret->n += s.n;
        } else {
            break;
        }
    }
    return 0;
}

/* In a read-only image a table that lies in a hole of the file says "absent"
 * for all it spans, and need not be read: a sparse file may have any number of
 * tables. (Asking a server would cost a round trip.) */
static CO_FN bool qed_map_table_co_is_hole(struct qed_image *img, uint64_t idx)
{
    const struct node *storage = node_storage(img->node);
    uint64_t table = qed_l2_offset(img, (uint32_t)(idx >> img->entry_bits));
    uint64_t len = img->table_bytes;
    struct extent ext;

    return !img->group && storage && !strcmp(storage->drv->name, "file") &&
           qed_offset_valid(img, table, len) &&
           node_co_status(qed_file(img), table, len, &ext) == 0 &&
           (ext.flags & STATUS_ZERO) && ext.len == len;
}

int qed_co_lookup(struct qed_image *img, uint64_t off, uint64_t len,
                  struct qed_run *ret_run)
{
    uint64_t first = off >> img->cluster_bits;
    uint64_t last = ((off + len - 1) >> img->cluster_bits) + 1;
    uint64_t skip = off & (qed_cluster_size(img) - 1);
    struct table *t = NULL;
    struct segment s = { .n = 0 };
    int ret;

    ret = qed_scan(img, first, last, &s);
    if (ret == -EAGAIN && qed_map_table_co_is_hole(img, first)) {
        uint64_t mask = qed_entries(img) - 1;

        s = (struct segment) {
            .n = min_u64(last, (first | mask) + 1) - first,
            .entry = QED_ENTRY_NONE,
        };
        ret = 0;
    }
    if (ret == -EAGAIN) {
        ret = metadata_cache_co_get(&img->l2, first >> img->entry_bits, &t);
        if (ret < 0) {
            return ret;
        }
        ret = qed_scan(img, first, last, &s);
        g_assert(ret != -EAGAIN);
        metadata_cache_put(&img->l2, t);
    }
    if (ret < 0) {
        return ret;
    }
    ret_run->kind = entry_kind(s.entry);
    ret_run->len = min_u64((s.n << img->cluster_bits) - skip, len);
    ret_run->host = ret_run->kind == QED_DATA ? s.entry + skip : 0;
    return 0;
}
