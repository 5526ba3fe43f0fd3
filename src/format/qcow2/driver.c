/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of the qcow2 driver.  qcow2: a copy-on-write image with reference
 * counts, compression, snapshots; see wire/qcow2.h.
 */
#include "base/err.h"
#include "format/format.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/create/create.h"
#include "format/qcow2/data/data.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/snapshot.h"

static const char *const qcow2_option_names[] = { "file",
                                                  "data-file",
                                                  "backing",
                                                  "encrypt",
                                                  "lazy-refcounts",
                                                  "pass-discard-request",
                                                  "pass-discard-snapshot",
                                                  "pass-discard-other",
                                                  "overlap-check",
                                                  "cache-size",
                                                  "l2-cache-size",
                                                  "l2-cache-entry-size",
                                                  "refcount-cache-size",
                                                  "cache-clean-interval",
                                                  NULL };
/* In "json:" names. */
static const char *const qcow2_reference_options[] = { "data-file", NULL };

static int qcow2_driver_probe(const uint8_t *buf, size_t len)
{
    return qcow2_probe(buf, len) ? 100 : 0;
}

static void qcow2_driver_limits(struct node *n, struct node_limits *l)
{
    const struct qcow2_image *img = qcow2_image(n);

    /* Part of a cluster can be allocated with extended entries. */
    l->cluster_size = (uint32_t)qcow2_sub_size(img);
    l->compressed_unit = img->shape.data_file ||
                                 img->hdr.crypt_method != QCOW2_CRYPT_NONE
                             ? 0
                             : (uint32_t)qcow2_cluster_size(img);
    l->fast_zero = img->shape.version > 2 && !qcow2_data_is_raw(img);
    l->can_allocate = img->shape.version > 2 ||
                      img->hdr.crypt_method == QCOW2_CRYPT_NONE;
}

static const char *qcow2_driver_header_backing(const struct node *n,
                                               const char **ret_fmt)
{
    const struct qcow2_image *img = qcow2_image(n);

    *ret_fmt = img->backing_format;
    return img->backing_name;
}

const struct node_driver qcow2_driver = {
    .name = "qcow2",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct qcow2_image),
    .supports_backing = true,
    .option_names = qcow2_option_names,
    .reference_options = qcow2_reference_options,
    .probe = qcow2_driver_probe,
    .co_open = qcow2_co_open,
    .co_close = qcow2_co_close,
    .co_reopen = qcow2_co_reopen,
    .limits = qcow2_driver_limits,
    .co_info = qcow2_co_info,
    .header_backing = qcow2_driver_header_backing,
    .check_backing = qcow2_check_backing_name,
    .co_map = qcow2_co_map,
    .map_end = qcow2_map_end,
    .co_decode = qcow2_co_decode,
    .co_change_backing = qcow2_co_change_backing,
    .co_create = qcow2_co_create,
    .create_options = qcow2_create_options,
    .measure = qcow2_measure,
    .co_amend = qcow2_co_amend,
    .amend_options = qcow2_amend_options,
    .co_pwritev = qcow2_co_pwritev,
    .co_copy_in = qcow2_co_copy_in,
    .can_copy_in = qcow2_can_copy_in,
    .co_zero = qcow2_co_zero,
    .co_discard = qcow2_co_discard,
    .co_flush = qcow2_co_flush,
    .co_truncate = qcow2_co_truncate,
    .co_make_empty = qcow2_co_make_empty,
    .co_check = qcow2_co_check,
    .co_snapshot = qcow2_co_snapshot,
    .co_snapshot_prepare = qcow2_co_snapshot_prepare,
    .co_snapshot_tidy = qcow2_co_snapshot_tidy,
    .co_snapshot_gaps = qcow2_co_snapshot_gaps,
    .co_bitmap = qcow2_co_bitmap,
    .bitmap_at = qcow2_bitmap_at,
    .co_quiesce = qcow2_co_quiesce,
    .resume = qcow2_resume,
};
