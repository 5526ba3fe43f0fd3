/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All bitmaps of one image into another one, by a single store: so nothing of
 * the file is given back on the way, and the copy takes what was measured for
 * it.  The bits are in memory one bitmap at a time.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/err.h"
#include "format/qcow2/bitmap/bitmap.h"

/* What there will be, with copies of what @from has, broken ones left out. */
static int copies_add(struct qcow2_image *img, struct qcow2_image *from,
                      GPtrArray *list, GPtrArray *copies, GError **err)
{
    for (guint i = 0; i < from->bitmaps->list->len; i++) {
        struct qcow2_bitmap *src = g_ptr_array_index(from->bitmaps->list, i);
        struct qcow2_bitmap *b;
        int ret;

        if (qcow2_bitmap_is_broken(src)) {
            continue;
        }
        ret = qcow2_bitmap_check_new(img, src->name,
                                     UINT64_C(1) << src->granularity_bits,
                                     list->len, err);
        if (ret < 0) {
            err_prefix(err, "Failed to create bitmap %s", src->name);
            return ret;
        }
        b = g_new0(struct qcow2_bitmap, 1);
        b->name = g_strdup(src->name);
        b->granularity_bits = src->granularity_bits;
        b->flags = src->flags & QCOW2_BITMAP_AUTO;
        b->from_image = from;
        b->from = src;
        g_ptr_array_add(list, b);
        g_ptr_array_add(copies, b);
    }
    return 0;
}

/* The copies are in the list now, or nobody's. */
static void copies_finish(struct qcow2_image *img, const GPtrArray *list,
                          const GPtrArray *copies)
{
    for (guint i = 0; i < copies->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(copies, i);

        b->from = NULL;
        b->from_image = NULL;
        if (img->bitmaps->list != list) {
            qcow2_bitmap_free(b);
        }
    }
}

int qcow2_co_bitmaps_copy(struct qcow2_image *img, struct qcow2_image *from,
                          GError **err)
{
    g_autoptr(GPtrArray) list = qcow2_bitmaps_list_copy(img);
    g_autoptr(GPtrArray) copies = g_ptr_array_new();
    int ret = 0;

    if (from->node->size != img->node->size) {
        return err_set(err, EINVAL,
                       "Bitmaps are of different sizes (destination size is "
                       "%" PRIu64 ", source size is %" PRIu64
                       ") and can't be merged",
                       img->node->size, from->node->size);
    }
    ret = copies_add(img, from, list, copies, err);
    if (ret == 0 && copies->len > 0) {
        ret = qcow2_co_bitmaps_commit(img, list, err);
    }
    copies_finish(img, list, copies);
    return ret;
}
