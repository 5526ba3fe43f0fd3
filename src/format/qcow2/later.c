/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refusals of what the driver cannot do yet: external data files,
 * bitmaps.  Whoever adds one of them takes its part away.
 */
#include "base/err.h"
#include "format/qcow2/qcow2.h"

int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                            unsigned flags, GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}

int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err)
{
    return 0;
}

/* They are not kept: nobody may take them for true any more. */
int qcow2_co_bitmaps_begin_writes(struct qcow2_image *img, GError **err)
{
    struct qcow2_header h = img->hdr;
    int ret = 0;

    if (h.autoclear & QCOW2_A_BITMAPS) {
        h.autoclear &= ~QCOW2_A_BITMAPS;
        ret = qcow2_co_write_header(img, &h);
        if (ret == 0) {
            ret = node_co_flush(qcow2_file(img));
        }
    }
    return ret < 0 ? err_set_errno(err, -ret, "Could not update the qcow2 "
                                   "header") : 0;
}

int qcow2_co_bitmaps_end_writes(struct qcow2_image *img)
{
    return 0;
}

void qcow2_bitmaps_mark(struct qcow2_image *img, uint64_t off, uint64_t len)
{
}

int qcow2_co_bitmaps_visit(struct qcow2_image *img,
                           int (*visit)(void *arg, uint64_t host, uint64_t len),
                           void *arg)
{
    return 0;
}

void qcow2_bitmaps_close(struct qcow2_image *img)
{
}

int qcow2_co_bitmaps_info(struct qcow2_image *img, json_t *data, GError **err)
{
    return 0;
}

int qcow2_co_data_file_create(const struct qcow2_create *c, struct node *file,
                              GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}
