/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dirty and the corrupt bit, and the drain.
 *
 * Refcounts never lag behind the tables here, lazy_refcounts or not: they cost no
 * flush of their own in a commit group.  So the dirty bit is never needed while
 * the image is in use; it is set for a repair that rewrites refcounts, and found
 * in images that others left.
 *
 * The corrupt bit is written by a coroutine of its own, as whoever finds the
 * defect may be inside a pass; nothing else is written any more.
 */
#include <errno.h>
#include "base/barrier.h"
#include "base/err.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/refcount.h"
#include "format/qcow2/space/space.h"
#include "format/trace.h"

static CO_FN void corrupt_entry(void *arg)
{
    struct qcow2_image *img = arg;
    struct qcow2_header h;

    group_co_lock(img->group);
    h = img->hdr;
    h.incompat |= QCOW2_I_CORRUPT;
    /* If that fails nothing else can be done. */
    if (qcow2_co_write_header(img, &h) == 0) {
        node_co_sync(img->node, qcow2_file(img));
    }
    group_unlock(img->group);
    co_latch_done(&img->background);
}

int qcow2_co_corrupt(struct qcow2_image *img, uint64_t at, const char *fmt,
                     ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    node_corrupt(img->node, NULL, at, "%s", text);
    g_free(text);
    if (img->group && !img->corrupt && img->shape.version >= 3) {
        co_latch_add(&img->background);
        co_start(img->loop, corrupt_entry, img);
    }
    img->corrupt = img->corrupt || img->group;
    return -EIO;
}

int qcow2_co_ready(struct qcow2_image *img)
{
    int ret;

    if (img->corrupt || !img->header_unknown) {
        return img->corrupt ? -EIO : 0;
    }
    group_co_lock(img->group);
    ret = qcow2_co_header_settle(img);
    group_unlock(img->group);
    return ret;
}

int qcow2_check_writable(const struct qcow2_image *img, GError **err)
{
    if (!img->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    return img->corrupt ? err_set(err, EIO, "The image is corrupt: nothing is "
                                  "written to it any more") : 0;
}

/* --- everything to the file --- */

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
    if (ret < 0 || g_hash_table_size(img->refcounts->dirty) == 0) {
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

void qcow2_co_quiesce(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);

    img->quiesced++;
    if (!img->group) {
        return;
    }
    /* A copy of the file made while we are drained is complete (M9). Space is
     * lost by a repair that failed. */
    if (img->space && (group_pending(img->group) ||
        g_hash_table_size(img->refcounts->dirty) > 0)) {
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
