/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Persistent dirty bitmaps while the image is written to.
 *
 * Before the first change of what the guest sees, the file says that its bitmaps
 * are no longer valid: nobody may take a stale one for true.
 */
#include <errno.h>
#include "base/err.h"
#include "format/qcow2/bitmap.h"
#include "format/trace.h"

int qcow2_co_bitmaps_begin_writes(struct qcow2_image *img, GError **err)
{
    return 0;
}

int qcow2_co_bitmaps_end_writes(struct qcow2_image *img)
{
    return 0;
}

static CO_FN int autoclear_co_drop(struct qcow2_image *img)
{
    struct qcow2_header h;
    int ret;

    group_co_lock(img->group);
    ret = group_error(img->group);
    h = img->hdr;
    h.autoclear &= ~QCOW2_A_BITMAPS;
    if (ret == 0 && h.autoclear != img->hdr.autoclear) {
        ret = qcow2_co_write_header(img, &h);
        if (ret == 0) {
            ret = node_co_flush(qcow2_file(img));
        }
    }
    group_unlock(img->group);
    return ret;
}

int qcow2_co_bitmaps_mark(struct qcow2_image *img, uint64_t off, uint64_t len)
{
    int ret;

    if (!(img->hdr.autoclear & QCOW2_A_BITMAPS)) {
        return 0;
    }
    ret = autoclear_co_drop(img);
    if (ret == 0) {
        trace_qcow2_bitmaps_drop(img->node->name, img->bitmaps->list->len);
        g_ptr_array_set_size(img->bitmaps->list, 0);
    }
    return ret;
}
