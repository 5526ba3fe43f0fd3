/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata that a smaller disk has no use for: L2 tables past its end, and
 * refcount blocks that count nothing.
 *
 * By now the clusters that were cut off are given up, so those tables hold no
 * entry, and the new size is in the header.  What fails here leaves metadata
 * that nobody looks at.
 */
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

/* Clear L1 entries [@first, @end) in memory. Returns the host offsets of their
 * tables (uint64_t). */
static GArray *l1_entries_clear(struct qcow2_image *img, uint32_t first,
                                uint32_t end)
{
    GArray *tables = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    for (uint32_t i = first; i < end; i++) {
        uint64_t host = get_be64(&img->l1[i]) & QCOW2_OFFSET_MASK;

        if (host) {
            g_array_append_val(tables, host);
        }
        put_be64(&img->l1[i], 0);
    }
    return tables;
}

static CO_FN int l1_entries_co_write(struct qcow2_image *img, uint32_t first,
                                     uint32_t end)
{
    uint64_t a = round_down((uint64_t)first * 8, QCOW2_SECTOR);
    uint64_t b = min_u64(round_up((uint64_t)end * 8, QCOW2_SECTOR),
                         (uint64_t)img->hdr.l1_size * 8);

    node_co_debug_event(qcow2_file(img), DEBUG_L1_SHRINK_WRITE_TABLE);
    return qcow2_co_write_meta(img, QCOW2_META_L1, img->hdr.l1_offset + a,
                               (uint8_t *)img->l1 + a, b - a);
}

/* A write that failed may have reached the file: then the entries stay cleared
 * in memory, and the tables, which are empty, keep their clusters. */
static CO_FN int l2_tables_co_drop(struct qcow2_image *img, uint32_t first,
                                   uint32_t end)
{
    uint64_t cluster = qcow2_cluster_size(img);
    GArray *tables = l1_entries_clear(img, first, end);
    int ret = tables->len > 0 ? l1_entries_co_write(img, first, end) : 0;

    if (tables->len > 0 && ret == 0) {
        node_co_debug_event(qcow2_file(img), DEBUG_L1_SHRINK_FREE_L2_CLUSTERS);
    }
    for (unsigned i = 0; i < tables->len; i++) {
        uint64_t host = g_array_index(tables, uint64_t, i);

        if (ret < 0) {
            qcow2_leak(img, host >> img->cluster_bits, 1, ret);
        } else { /* with the next pass, and so after a flush */
            qcow2_refcount_decrement(img, 0, host, cluster);
        }
    }
    g_array_unref(tables);
    return ret;
}

/* The group is locked. */
static CO_FN int shrink_co_tables(struct qcow2_image *img, uint64_t old,
                                  uint64_t size)
{
    bool extended = img->shape.extended;
    uint64_t first = qcow2_l1_entries(size, img->cluster_bits, extended);
    uint64_t end = min_u64(qcow2_l1_entries(old, img->cluster_bits, extended),
                           img->hdr.l1_size);

    /* A table that two entries lead to may be needed by the other one. */
    if (first >= end || group_pending(img->group) ||
        qcow2_l1_has_duplicates(img->l1, img->hdr.l1_size)) {
        return 0;
    }
    return l2_tables_co_drop(img, (uint32_t)first, (uint32_t)end);
}

/* The group is locked. */
static CO_FN int shrink_co_blocks(struct qcow2_image *img, uint64_t old,
                                  uint64_t size)
{
    return qcow2_co_empty_blocks_free(img);
}

void qcow2_co_shrink_metadata(struct qcow2_image *img, uint64_t old,
                              uint64_t size)
{
    int (*const steps[])(struct qcow2_image *, uint64_t,
                         uint64_t) = { shrink_co_tables, shrink_co_blocks };
    int ret = qcow2_co_settle(img);

    for (unsigned i = 0; i < G_N_ELEMENTS(steps) && ret == 0; i++) {
        group_co_lock(img->group);
        ret = group_error(img->group);
        if (ret == 0) {
            ret = steps[i](img, old, size);
        }
        group_unlock(img->group);
        if (ret == 0) {
            ret = qcow2_co_settle(img);
        }
    }
}
