/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing the disk: one header field.
 *
 * The new part reads as zeroes, whatever lies behind it: bytes of the last
 * cluster past the old end, and a backing file that is longer than the disk
 * was.  Whole clusters are settled, durably, before the header grows.  A last
 * cluster that a longer backing file would show was allocated by the
 * dispatcher, which alone can hold its range against the guest.
 */
#include <inttypes.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qed/qed.h"

/* Bytes of an allocated last cluster past the old end. */
static CO_FN int tail_co_clear(struct node *n, uint64_t old)
{
    struct qed_image *img = qed_image(n);
    uint64_t cluster = qed_cluster_size(img);
    uint64_t start = round_down(old, cluster);
    struct qed_run run;
    int ret;

    if (start == old) {
        return 0;
    }
    ret = qed_co_lookup(img, start, 1, &run);
    if (ret < 0) {
        return ret;
    }
    return run.kind == QED_DATA
               ? node_co_zero(qed_file(img), run.host + (old - start),
                              start + cluster - old, 0)
               : 0;
}

static CO_FN int qed_new_part_co_clear(struct node *n, uint64_t old,
                                       uint64_t size)
{
    struct qed_image *img = qed_image(n);
    uint64_t cluster = qed_cluster_size(img);
    struct edge *e = node_child(n, "backing");
    uint64_t base = e ? e->child->size : 0;
    uint64_t from = round_up(old, cluster);
    uint64_t to = round_up(min_u64(base, size), cluster);
    int ret = tail_co_clear(n, old);

    if (ret == 0 && from < to) {
        ret = qed_co_zero(n, from, to - from, 0);
    }
    return ret;
}

static int qed_size_validate(struct node *n, uint64_t size, GError **err)
{
    struct qed_image *img = qed_image(n);
    uint64_t max = qed_max_image_size(img->hdr.cluster_size,
                                      img->hdr.table_size);

    if (!img->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    if (size % QED_SECTOR || size > max) {
        return err_set(err, EINVAL,
                       "QED image size must be a multiple of %d "
                       "and at most %" PRIu64 " bytes",
                       QED_SECTOR, max);
    }
    if (size < n->size) {
        return err_set(err, ENOTSUP, "Shrinking QED images is not supported");
    }
    return 0;
}

int qed_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct qed_image *img = qed_image(n);
    uint64_t old = n->size;
    struct qed_header h;
    int ret = qed_size_validate(n, size, err);

    if (ret < 0 || size == old) {
        return ret;
    }
    ret = qed_new_part_co_clear(n, old, size);
    if (ret == 0) {
        ret = BARRIER(RESIZE_CLEAR, group_co_flush(img->group));
    }
    if (ret == 0) {
        group_co_lock(img->group);
        h = img->hdr;
        h.image_size = size;
        ret = group_error(img->group);
        if (ret == 0) {
            ret = qed_co_write_header(img, &h);
        }
        if (ret == 0) {
            ret = BARRIER(RESIZE_HEADER,
                          node_co_sync(img->node, qed_file(img)));
        }
        group_unlock(img->group);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not resize the QED image");
    }
    n->size = size;
    return 0;
}
