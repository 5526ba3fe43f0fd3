/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header in sector 0 (format/alloc/header-sector.h). */
#include <string.h>
#include "format/qed/qed.h"
#include "format/trace.h"

/* What the file shall have again after a write that failed. */
static void qed_sector_mirror(struct qed_image *img)
{
    qed_header_encode(&img->hdr, img->sector.bytes);
}

int qed_co_header_settle(struct qed_image *img)
{
    qed_sector_mirror(img);
    return header_sector_co_settle(&img->sector, img->node);
}

int qed_co_write_header(struct qed_image *img, const struct qed_header *h)
{
    uint8_t next[HEADER_SECTOR];
    int ret;

    qed_sector_mirror(img);
    memcpy(next, img->sector.bytes, HEADER_SECTOR);
    qed_header_encode(h, next);
    ret = header_sector_co_write(&img->sector, img->node, next);
    if (ret == 0) {
        img->hdr = *h;
    }
    trace_qed_header(img->node->name, h->features, h->image_size, ret);
    return ret;
}
