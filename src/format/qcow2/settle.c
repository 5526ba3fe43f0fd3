/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything to the file: flush, settling, and the drain.
 *
 * Refcounts never lag behind the tables here, lazy_refcounts or not: they cost
 * no flush of their own in a commit group.  So the dirty bit is never needed
 * while the image is in use; it is set for a repair that rewrites refcounts,
 * and found in images that others left.
 */
#include <errno.h>
#include "base/barrier.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

int qcow2_co_settle(struct qcow2_image *img)
{
    int ret = qcow2_co_ready(img);

    if (ret == 0 || img->corrupt) {
        ret = BARRIER(QCOW2_SETTLE, group_co_flush(img->group));
    }
    if (!img->space) { /* lost by a repair that failed */
        return ret < 0 ? ret : -EIO;
    }
    qcow2_co_reclaim(img);
    if (ret < 0 || !qcow2_refcounts_pending(img)) {
        return ret;
    }
    group_co_lock(img->group);
    ret = group_error(img->group);
    if (ret == 0) { /* what went down leaks if it is lost: no flush */
        ret = qcow2_co_refcounts_write(img, UINT64_MAX);
    }
    group_unlock(img->group);
    return ret;
}

int qcow2_co_flush(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret = 0;

    if (!img->group) { /* read-only; or what it held could not be written */
        return img->corrupt ? -EIO : 0;
    }
    if (img->data) { /* also what was written in place */
        ret = BARRIER(QCOW2_DATA_FILE,
                      node_co_sync(img->node, qcow2_data(img)));
    }
    return ret < 0 ? ret : group_co_flush(img->group);
}

void qcow2_co_quiesce(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);

    img->quiesced++;
    co_latch_co_wait(&img->preparing);
    if (!img->group) {
        return;
    }
    /* A copy of the file made while we are drained is complete (M9). Space is
     * lost by a repair that failed. */
    if (img->space &&
        (group_pending(img->group) || qcow2_refcounts_pending(img))) {
        qcow2_co_settle(img);
    }
    group_co_quiesce(img->group);
    qcow2_co_reclaim(img);
    co_latch_co_wait(&img->background);
}

void qcow2_resume(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);

    g_assert(img->quiesced > 0);
    img->quiesced--;
    if (img->group) {
        group_resume(img->group);
    }
}
