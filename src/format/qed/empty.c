/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Emptying an image, as commit does after it has merged the image down: the L1
 * table is cleared, durably, and only then is the file cut off behind it.
 *
 * A torn write of the table leaves some clusters mapped, others not; both read
 * the same once the base holds what was here.
 */
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qed/qed.h"

static CO_FN int empty_co_tables(struct qed_image *img)
{
    uint64_t end = MAX(img->header_bytes,
                       img->hdr.l1_table_offset + img->table_bytes);
    int ret = node_co_zero(qed_file(img), img->hdr.l1_table_offset,
                           img->table_bytes, 0);

    if (ret == 0) {
        ret = BARRIER(EMPTY_TABLES, node_co_sync(img->node, qed_file(img)));
    }
    if (ret < 0) {
        /* The table in the file may be empty, the one in memory is not: what a
         * guest writes now through it could be lost. */
        node_fail(img->node);
        return ret;
    }
    memset(img->l1, 0, img->table_bytes);
    metadata_cache_clear(&img->l2);
    img->n_gaps = 0;
    img->alloc_end = round_up(end, qed_cluster_size(img));
    img->file_end = img->alloc_end;
    return 0;
}

int qed_co_make_empty(struct node *n, GError **err)
{
    struct qed_image *img = qed_image(n);
    int ret;

    if (!img->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    ret = group_co_flush(img->group);
    if (ret == 0) {
        group_co_lock(img->group);
        ret = empty_co_tables(img);
        group_unlock(img->group);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not clear the tables");
    }
    ret = node_co_truncate(qed_file(img), img->alloc_end, err);
    return ret;
}
