/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L2 tables: where they are, and how one gets into memory.
 *
 * Tables are not dirty outside a publish, which holds its table.
 */
#include <inttypes.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qed/qed.h"
#include "graph/memory.h"

uint64_t qed_l2_offset(const struct qed_image *img, uint32_t l1_idx)
{
    uint64_t off = get_le64(&img->l1[l1_idx]);

    if (off == 0 && img->fresh) {
        off = GPOINTER_TO_SIZE(
            g_hash_table_lookup(img->fresh, GUINT_TO_POINTER(l1_idx)));
    }
    return off;
}

/* The L1 entry, but @l1_idx, whose table overlaps the one at @off; UINT32_MAX:
 * none. Otherwise a small hostile image could have any number of tables. */
static uint32_t l1_find_overlap(const struct qed_image *img, uint32_t l1_idx,
                                uint64_t off)
{
    for (uint32_t i = 0; i < qed_entries(img); i++) {
        uint64_t other = get_le64(&img->l1[i]);

        if (other && i != l1_idx &&
            ranges_overlap(off, img->table_bytes, other, img->table_bytes)) {
            return i;
        }
    }
    return UINT32_MAX;
}

static CO_FN int l2_co_load(void *arg, struct table *t)
{
    struct qed_image *img = arg;
    uint32_t l1_idx = (uint32_t)t->key;
    uint64_t off = qed_l2_offset(img, l1_idx);
    uint32_t other;
    struct iovec v;
    int ret;

    if (!qed_offset_valid(img, off, img->table_bytes)) {
        return node_corrupt(img->node, NULL,
                            img->hdr.l1_table_offset + (uint64_t)l1_idx * 8,
                            "QED L1 entry %u is 0x%" PRIx64
                            ": no table of this file (run a check)",
                            l1_idx, off);
    }
    other = img->checking ? UINT32_MAX : l1_find_overlap(img, l1_idx, off);
    if (other != UINT32_MAX) {
        return node_corrupt(img->node, NULL,
                            img->hdr.l1_table_offset + (uint64_t)l1_idx * 8,
                            "QED L1 entry %u is 0x%" PRIx64
                            ": the table overlaps that of entry %u "
                            "(run a check)",
                            l1_idx, off, other);
    }
    node_co_debug_event(qed_file(img), DEBUG_L2_LOAD);
    ret = node_co_preadv(qed_file(img), off,
                         iov_one(&v, t->data, img->table_bytes), 0);
    if (ret == 0 && img->group) {
        for (uint32_t i = 0; i < qed_entries(img); i++) {
            qed_note_offset(img, get_le64(&qed_l2_entries(t)[i]),
                            qed_cluster_size(img));
        }
    }
    return ret;
}

void qed_l2_init(struct qed_image *img)
{
    metadata_cache_init(&img->l2, img->table_bytes, QED_CACHE_BYTES, l2_co_load,
                        img);
    metadata_cache_set_budget(&img->l2, graph_memory(img->node->graph),
                              METADATA_CACHE_IDLE_S);
}
