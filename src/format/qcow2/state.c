/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a writable image keeps in memory beside its tables: made, and given
 * up. */
#include "format/qcow2/data/data.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/refcount.h"

void qcow2_state_close(struct qcow2_image *img)
{
    qcow2_overlap_close(img);
    qcow2_space_close(img);
    qcow2_refcounts_close(img);
    qcow2_publish_close(img);
    qcow2_cluster_locks_close(img);
}

int qcow2_co_state_open(struct qcow2_image *img, unsigned flags, GError **err)
{
    int ret = qcow2_co_refcounts_open(img, err);

    if (ret == 0) {
        ret = qcow2_co_space_open(img, flags, err);
    }
    if (ret < 0) {
        qcow2_state_close(img);
        return ret;
    }
    qcow2_overlap_open(img, img->refcounts->table, img->refcounts->used);
    qcow2_publish_open(img);
    qcow2_cluster_locks_open(img);
    return 0;
}

int qcow2_co_space_reload(struct qcow2_image *img, GError **err)
{
    qcow2_state_close(img);
    return qcow2_co_state_open(img, 0, err);
}
