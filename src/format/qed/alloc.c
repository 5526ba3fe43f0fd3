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
#include <string.h>
#include "base/math.h"
#include "format/qed/qed.h"

/* Where @bytes free bytes begin, at @at or behind it: not in a gap, to which a
 * bad pointer leads.  The file grows around those and never as far as they
 * are. */
static uint64_t skip_gaps(const struct qed_image *img, uint64_t at,
                          uint64_t bytes)
{
    for (unsigned i = 0; i < img->n_gaps; i++) {
        if (img->gaps[i].end > at && img->gaps[i].start < at + bytes) {
            at = img->gaps[i].end;
        }
    }
    return at;
}

int qed_co_reserve(struct qed_image *img, uint64_t bytes, uint64_t *ret_offset)
{
    while (img->extending) {
        co_queue_co_wait(&img->extended);
    }
    uint64_t at = img->alloc_end;

    if (bytes <= (uint64_t)INT64_MAX - at) {
        at = skip_gaps(img, at, bytes);
    }
    if (bytes > (uint64_t)INT64_MAX - at) {
        return -EFBIG;
    }
    *ret_offset = at;
    img->alloc_end = at + bytes;
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

static void gap_remove(struct qed_image *img, unsigned i)
{
    img->n_gaps--;
    memmove(&img->gaps[i], &img->gaps[i + 1],
            (img->n_gaps - i) * sizeof(img->gaps[0]));
}

/* Make two gaps one: those with the least between them. */
static void gaps_merge_closest(struct qed_image *img)
{
    uint64_t least = UINT64_MAX;
    unsigned best = 0;

    for (unsigned i = 0; i + 1 < img->n_gaps; i++) {
        uint64_t between = img->gaps[i + 1].start - img->gaps[i].end;

        if (between < least) {
            least = between;
            best = i;
        }
    }
    img->gaps[best].end = img->gaps[best + 1].end;
    gap_remove(img, best + 1);
}

/* Sorted, none overlaps another. */
static void gap_add(struct qed_image *img, uint64_t start, uint64_t end)
{
    unsigned i = 0;

    while (i < img->n_gaps && img->gaps[i].end < start) {
        i++;
    }
    while (i < img->n_gaps && img->gaps[i].start <= end) {
        start = min_u64(start, img->gaps[i].start);
        end = max_u64(end, img->gaps[i].end);
        gap_remove(img, i);
    }
    memmove(&img->gaps[i + 1], &img->gaps[i],
            (img->n_gaps - i) * sizeof(img->gaps[0]));
    img->gaps[i] = (struct qed_gap) { start, end };
    img->n_gaps++;
    if (img->n_gaps == QED_GAPS_MAX) { /* room for the next one */
        gaps_merge_closest(img);
    }
}

void qed_note_offset(struct qed_image *img, uint64_t offset, uint64_t len)
{
    uint64_t end;

    if (offset <= QED_ENTRY_ZERO || offset & (qed_cluster_size(img) - 1) ||
        __builtin_add_overflow(offset, len, &end) || end > INT64_MAX ||
        end <= img->alloc_end) {
        return;
    }
    /* The pointer is bad and stays bad, though the file will grow past it. */
    gap_add(img, max_u64(offset, img->alloc_end), end);
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
