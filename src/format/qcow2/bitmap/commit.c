/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every change of the list of bitmaps begins and ends with: a copy of the
 * list, the check of a bitmap that is new, and the store of all.
 */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

GPtrArray *qcow2_bitmaps_list_copy(const struct qcow2_image *img)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < img->bitmaps->list->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(img->bitmaps->list, i));
    }
    return list;
}

int qcow2_bitmap_check_new(const struct qcow2_image *img, const char *name,
                           uint64_t granularity, guint n, GError **err)
{
    const char *node = img->node->name;

    if (!*name) {
        return err_set(err, EINVAL, "Bitmap name cannot be empty");
    }
    if (qcow2_bitmap_find(img, name)) {
        return err_set(err, EEXIST, "Bitmap already exists: %s", name);
    }
    if (!is_power_of_two(granularity) ||
        granularity < 1u << QCOW2_BITMAP_GRANULARITY_MIN ||
        granularity > 1u << QCOW2_BITMAP_GRANULARITY_MAX) {
        return err_set(err, EINVAL,
                       "Granularity must be power of 2 and at "
                       "least 512");
    }
    if (strlen(name) > QCOW2_BITMAP_NAME_MAX) {
        return err_set(err, EINVAL,
                       "Can't make bitmap '%s' persistent in "
                       "'%s': Name length exceeds maximum (%d characters)",
                       name, node, QCOW2_BITMAP_NAME_MAX);
    }
    if (img->shape.version < 3) {
        return err_set(err, ENOTSUP,
                       "Can't make bitmap '%s' persistent in "
                       "'%s': Cannot store dirty bitmaps in qcow2 v2 files",
                       name, node);
    }
    if (n >= QCOW2_BITMAPS_MAX) {
        return err_set(err, EFBIG,
                       "Can't make bitmap '%s' persistent in "
                       "'%s': Maximum number of persistent bitmaps is already "
                       "reached",
                       name, node);
    }
    return 0;
}

int qcow2_co_bitmaps_commit(struct qcow2_image *img, GPtrArray *list,
                            GError **err)
{
    int ret;

    qcow2_prepared_co_drop(img);
    ret = qcow2_co_settle(img);
    if (ret == 0) {
        group_co_lock(img->group);
        qcow2_co_reclaim(img);
        ret = qcow2_co_bitmaps_store(img, list);
        qcow2_co_reclaim(img);
        group_unlock(img->group);
    }
    return ret == 0
               ? 0
               : err_set_errno(err, -ret, "Could not store the bitmaps of '%s'",
                               node_title(img->node));
}
