/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of the QED driver.  QED: a copy-on-write image with two levels of
 * tables, no reference counts and no snapshots; see wire/qed.h.
 */
#include "format/qed/qed.h"
#include "format/format.h"

static const char *const qed_option_names[] = { "file", "backing", NULL };
/* In "json:" names. */
static const char *const qed_reference_options[] = { NULL };

static int qed_driver_probe(const uint8_t *buf, size_t len)
{
    return qed_probe(buf, len) ? 100 : 0;
}

static void qed_driver_limits(struct node *n, struct node_limits *l)
{
    l->cluster_size = (uint32_t)qed_cluster_size(qed_image(n));
    l->fast_zero = true;
}

static const char *qed_driver_header_backing(const struct node *n,
                                             const char **ret_fmt)
{
    const struct qed_image *img = qed_image(n);

    *ret_fmt = img->hdr.features & QED_F_NO_PROBE ? "raw" : NULL;
    return img->backing_name;
}

const struct node_driver qed_driver = {
    .name = "qed",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct qed_image),
    .supports_backing = true,
    .option_names = qed_option_names,
    .reference_options = qed_reference_options,
    .probe = qed_driver_probe,
    .co_open = qed_co_open,
    .co_close = qed_co_close,
    .co_reopen = qed_co_reopen,
    .limits = qed_driver_limits,
    .co_info = qed_co_info,
    .header_backing = qed_driver_header_backing,
    .co_pwritev = qed_co_pwritev,
    .co_copy_in = qed_co_copy_in,
    .can_copy_in = node_file_can_copy_in,
    .co_zero = qed_co_zero,
    .co_discard = qed_co_discard,
    .co_flush = qed_co_flush,
    .co_map = qed_co_map,
    .co_truncate = qed_co_truncate,
    .check_backing = qed_check_backing_name,
    .co_change_backing = qed_co_change_backing,
    .co_make_empty = qed_co_make_empty,
    .co_check = qed_co_check,
    .co_create = qed_co_create,
    .create_options = qed_create_options,
    .co_quiesce = qed_co_quiesce,
    .resume = qed_resume,
};
