/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sector 0, which holds the header. */
#include <string.h>
#include "format/qed/qed.h"
#include "format/trace.h"
#include "loop/io.h"

/* One aligned write of sector 0, which becomes @h. */
static CO_FN int qed_sector_co_put(struct qed_image *img,
                                   const struct qed_header *h)
{
    uint8_t *buf = io_buf_get(QED_SECTOR);
    struct iovec v;
    int ret;

    memcpy(buf, img->sector, QED_SECTOR);
    qed_header_encode(h, buf);
    ret = node_co_pwritev(qed_file(img), 0, iov_one(&v, buf, QED_SECTOR), 0);
    if (ret == 0) {
        memcpy(img->sector, buf, QED_SECTOR);
        img->hdr = *h;
    }
    io_buf_put(buf, QED_SECTOR);
    trace_qed_header(img->node->name, h->features, h->image_size, ret);
    return ret;
}

/* The way back: sector 0 as memory has it, durably. */
static CO_FN int qed_sector_co_restore(struct qed_image *img)
{
    struct qed_header h = img->hdr;
    int ret = qed_sector_co_put(img, &h);

    if (ret == 0) {
        ret = node_co_sync(img->node, qed_file(img));
    }
    img->header_unknown = ret < 0;
    return ret;
}

int qed_co_header_settle(struct qed_image *img)
{
    return img->header_unknown ? qed_sector_co_restore(img) : 0;
}

int qed_co_write_header(struct qed_image *img, const struct qed_header *h)
{
    int ret = qed_co_header_settle(img);

    if (ret == 0) {
        ret = qed_sector_co_put(img, h);
        if (ret < 0) { /* it may be in the file all the same (M12) */
            (void)qed_sector_co_restore(img);
        }
    }
    return ret;
}
