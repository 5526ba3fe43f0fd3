/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * May the image be written to?  The corrupt bit, and a header that is not
 * known.
 *
 * The corrupt bit is written by a coroutine of its own, as whoever finds the
 * defect may be inside a pass; nothing else is written any more.
 */
#include "base/err.h"
#include "format/qcow2/meta/meta.h"

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

int qcow2_co_corrupt(struct qcow2_image *img, uint64_t at, const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    node_corrupt(img->node, NULL, at, "%s", text);
    if (!img->corrupt) {
        node_tell_corruption(img->node, img->group != NULL, at, text);
    }
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

    if (img->corrupt || !img->sector.unknown) {
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
    return img->corrupt ? err_set(err, EIO,
                                  "The image is corrupt: nothing is "
                                  "written to it any more")
                        : 0;
}
