/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeroes and discards, whole clusters.
 *
 * A cluster without a host cluster gets a zero marker, never a hole that would
 * show the backing file (G8).  One with a host cluster keeps it, and its bytes
 * become a hole in the file: nothing leaks, and no pointer needs to change.
 */
#include "base/math.h"
#include "format/qed/qed.h"

/* Markers that are entered before others get a turn. */
#define MARKERS_AT_ONCE (1 << 16)
/* A marker's share of a group: a million of them close it. */
#define MARKER_COST 64

/* Without a backing file, attached or named, nothing reads as zeroes anyhow. */
static bool qed_has_backing(const struct qed_image *img)
{
    return (img->hdr.features & QED_F_BACKING_FILE) ||
           node_child(img->node, "backing");
}

static CO_FN int markers_co_add(struct qed_image *img, uint64_t first,
                                uint64_t n)
{
    while (n > 0) {
        uint64_t now = min_u64(n, MARKERS_AT_ONCE), gen;

        if (pending_count(&img->pending) >= QED_PENDING_MAX) {
            int ret = group_co_flush(img->group);
            if (ret < 0) {
                return ret;
            }
        }
        gen = group_join(img->group, now * MARKER_COST);
        qed_pending_add(img, gen, first, now, QED_ENTRY_ZERO);
        group_data_done(img->group, gen);
        first += now;
        n -= now;
        if (n > 0) {
            co_relax();
        }
    }
    return 0;
}

static CO_FN int qed_clusters_co_zero(struct qed_image *img, uint64_t off,
                                      uint64_t len, unsigned flags)
{
    uint64_t end = off + len;
    int ret = 0;

    while (off < end && ret == 0) {
        struct qed_run run;

        ret = qed_co_lookup(img, off, end - off, &run);
        if (ret < 0) {
            break;
        }
        if (run.kind == QED_DATA) {
            uint64_t have = run.host < img->file_end
                                ? min_u64(run.len, img->file_end - run.host)
                                : 0;
            if (have > 0) { /* what is past the file's end is zero already */
                ret = node_co_zero(qed_file(img), run.host, have,
                                   flags & IO_MAY_UNMAP);
            }
        } else if (run.kind == QED_ABSENT && qed_has_backing(img)) {
            uint64_t first = off >> img->cluster_bits;
            uint64_t last = (off + run.len - 1) >> img->cluster_bits;
            ret = markers_co_add(img, first, last - first + 1);
        }
        off += run.len;
    }
    return ret;
}

int qed_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct qed_image *img = qed_image(n);
    uint64_t mask = qed_cluster_size(img) - 1;

    if ((off & mask) || (((off + len) & mask) && off + len != n->size)) {
        return -ENOTSUP;
    }
    return qed_clusters_co_zero(img, off, len, flags);
}

int qed_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    return qed_co_zero(n, off, len, IO_MAY_UNMAP);
}
