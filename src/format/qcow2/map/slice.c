/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Slices of L2 tables: how one gets into memory.  A table of a large cluster is
 * taken in parts, so that one lookup does not read 2 MiB.
 *
 * Slices are not dirty outside a publish, which holds its slice.
 */
#include <inttypes.h>
#include "base/math.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "graph/memory.h"

static uint64_t slice_offset(const struct qcow2_image *img, uint64_t slice)
{
    unsigned bits = img->l2_bits - img->slice_bits;
    uint64_t entry = qcow2_l2_entry(img, (uint32_t)(slice >> bits));
    uint64_t within = slice & ((UINT64_C(1) << bits) - 1);

    return (entry & QCOW2_OFFSET_MASK) + within * qcow2_slice_bytes(img);
}

/* A table begins at a cluster, behind the header, and inside the file. */
static bool l2_offset_valid(const struct qcow2_image *img, uint64_t offset)
{
    return offset && !(offset & (qcow2_cluster_size(img) - 1)) &&
           offset < qcow2_file(img)->size;
}

static CO_FN int slice_co_load(void *arg, struct table *t)
{
    struct qcow2_image *img = arg;
    unsigned bits = img->l2_bits - img->slice_bits;
    uint32_t l1_idx = (uint32_t)(t->key >> bits);
    uint64_t entry = qcow2_l2_entry(img, l1_idx);
    bool is_new = g_hash_table_contains(img->fresh, GUINT_TO_POINTER(l1_idx));
    struct iovec v;
    uint32_t duplicate;

    if (!is_new && !l2_offset_valid(img, entry & QCOW2_OFFSET_MASK)) {
        return qcow2_co_corrupt(img, img->hdr.l1_offset + (uint64_t)l1_idx * 8,
                                "L1 entry %u is 0x%" PRIx64
                                ": no L2 table of this file (run a "
                                "check)",
                                l1_idx, entry);
    }
    duplicate = qcow2_l1_duplicate(img, l1_idx);
    if (duplicate != UINT32_MAX) {
        return qcow2_co_corrupt(img, img->hdr.l1_offset + (uint64_t)l1_idx * 8,
                                "L1 entry %u is 0x%" PRIx64
                                ": the table of entry %u, too (run a "
                                "check)",
                                l1_idx, entry, duplicate);
    }
    /* A new table is known to be empty, or was a moment ago. */
    if (!is_new) {
        node_co_debug_event(qcow2_file(img), DEBUG_L2_LOAD);
    }
    return node_co_preadv(qcow2_file(img), slice_offset(img, t->key),
                          iov_one(&v, t->data, qcow2_slice_bytes(img)), 0);
}

void qcow2_slices_init(struct qcow2_image *img)
{
    metadata_cache_init(&img->slices, qcow2_slice_bytes(img),
                        img->opts.cache_bytes, slice_co_load, img);
    metadata_cache_set_budget(&img->slices, graph_memory(img->node->graph),
                              img->opts.cache_idle_s);
}
