/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A loaded image becomes writable, and ends to be.
 *
 * Before the first write an image that was not closed properly gets its
 * refcounts rebuilt.  At the end all is published, what that set free is
 * counted, and the file is flushed.
 */
#include <errno.h>
#include "base/err.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"

static CO_FN int dirty_co_repair(struct qcow2_image *img, GError **err)
{
    struct check_result res = { 0 };
    int ret = qcow2_co_check(img->node, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS,
                             &res, err);

    if (ret < 0) {
        err_prefix(err, "Could not repair dirty image");
        return ret;
    }
    if (res.corruptions || res.check_errors) {
        return err_set(err, EIO,
                       "qcow2 image was not closed properly and "
                       "could not be repaired: run a check with repair");
    }
    return 0;
}

int qcow2_co_begin_writes(struct qcow2_image *img, unsigned flags, GError **err)
{
    int ret = qcow2_co_state_open(img, flags, err);

    if (ret < 0) {
        return ret;
    }
    img->corrupt = false;
    img->group = group_new(img->loop, img->node, NULL, &qcow2_group_ops, img, 0,
                           0);
    if ((img->hdr.incompat & QCOW2_I_DIRTY) && !(flags & NODE_CHECK)) {
        ret = dirty_co_repair(img, err);
    }
    if (ret < 0) {
        co_latch_co_wait(&img->background);
        group_co_free(img->group);
        img->group = NULL;
        qcow2_state_close(img);
    }
    return ret;
}

int qcow2_co_end_writes(struct qcow2_image *img)
{
    int ret;

    if (!img->group) {
        return 0;
    }
    ret = qcow2_co_settle(img);
    co_latch_co_wait(&img->background);
    group_co_free(img->group);
    qcow2_co_reclaim(img);
    img->group = NULL;
    qcow2_state_close(img);
    return ret;
}
