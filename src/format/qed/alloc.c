/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Space in the file: clusters are handed out at its end, in memory, to any
 * number of writers at once.
 *
 * A cluster must lie inside the file before a table points to it, but the data
 * of the last one may be shorter than the cluster.  The publisher then extends
 * the file.  A truncate to alloc_end must not meet a write beyond alloc_end
 * (it would cut that off), so reservations wait for it; writes to clusters
 * already reserved lie below and go on.
 */
#include "base/math.h"
#include "format/qed/qed.h"

/* How far beyond the end of the file a stray pointer is taken for one that a
 * crash left behind. */
#define STRAY_MAX (UINT64_C(1) << 40)

int qed_co_reserve(struct qed_image *img, uint64_t bytes, uint64_t *ret_offset)
{
    while (img->extending) {
        co_queue_co_wait(&img->extended);
    }
    if (bytes > (uint64_t)INT64_MAX - img->alloc_end) {
        return -EFBIG;
    }
    *ret_offset = img->alloc_end;
    img->alloc_end += bytes;
    return 0;
}

void qed_note_written(struct qed_image *img, uint64_t end)
{
    img->file_end = max_u64(img->file_end, end);
}

int qed_co_extend(struct qed_image *img, uint64_t end)
{
    uint64_t target = img->alloc_end;
    int ret;

    g_assert(end <= target && !img->extending);
    if (img->file_end >= end) {
        return 0;
    }
    img->extending = true;
    ret = node_co_truncate(qed_file(img), target, NULL);
    img->extending = false;
    if (ret == 0) {
        qed_note_written(img, target);
    }
    co_queue_wake_all(&img->extended);
    return ret;
}

void qed_note_offset(struct qed_image *img, uint64_t offset, uint64_t len)
{
    uint64_t end;

    if (offset <= QED_ENTRY_ZERO || offset & (qed_cluster_size(img) - 1) ||
        __builtin_add_overflow(offset, len, &end) || end <= img->alloc_end ||
        end - img->alloc_end > STRAY_MAX || img->n_gaps == QED_GAPS_MAX) {
        return;
    }
    /* The pointer is bad and stays bad, though the file will grow past it. */
    img->gaps[img->n_gaps++] = (struct qed_gap) { img->alloc_end, end };
    img->alloc_end = end;
}

bool qed_offset_valid(const struct qed_image *img, uint64_t offset,
                      uint64_t len)
{
    if (offset & (qed_cluster_size(img) - 1) || offset < img->header_bytes ||
        !range_inside(offset, len, img->alloc_end) ||
        ranges_overlap(offset, len, img->hdr.l1_table_offset,
                       img->table_bytes)) {
        return false;
    }
    for (unsigned i = 0; i < img->n_gaps; i++) {
        if (ranges_overlap(offset, len, img->gaps[i].start,
                           img->gaps[i].end - img->gaps[i].start)) {
            return false;
        }
    }
    return true;
}
