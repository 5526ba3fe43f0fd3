/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of the cow driver: an overlay beside a data file, which ends as
 * that file alone; see wire/cow.h and doc/cow-format.rst.
 */
#include "format/cow/overlay.h"
#include "format/format.h"

static const char *const cow_option_names[] = { "file", "data-file", "backing",
                                                NULL };
/* In "json:" names. */
static const char *const cow_reference_options[] = { NULL };

static int cow_driver_probe(const uint8_t *buf, size_t len)
{
    return cow_probe(buf, len) ? 100 : 0;
}

static void cow_driver_limits(struct node *n, struct node_limits *l)
{
    struct node *data = cow_data(cow_of(n));

    l->cluster_size = (uint32_t)cow_cluster(cow_of(n));
    if (data && data->drv == &raw_driver) {
        data = node_file(data); /* raw passes zeroes on */
    }
    l->fast_zero = data && node_get_limits(data)->fast_zero;
}

static const char *cow_driver_header_backing(const struct node *n,
                                             const char **ret_fmt)
{
    const struct overlay *o = cow_of(n);

    *ret_fmt = o->hdr.backing_format[0] ? o->hdr.backing_format : NULL;
    return o->hdr.backing[0] ? o->hdr.backing : NULL;
}

const struct node_driver cow_driver = {
    .name = "cow",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct overlay),
    .supports_backing = true,
    .option_names = cow_option_names,
    .reference_options = cow_reference_options,
    .probe = cow_driver_probe,
    .co_successor = cow_co_successor,
    .co_open = cow_co_open,
    .co_close = cow_co_close,
    .co_reopen = cow_co_reopen,
    .describe = cow_describe,
    .limits = cow_driver_limits,
    .co_info = cow_co_info,
    .header_backing = cow_driver_header_backing,
    .co_pwritev = cow_co_pwritev,
    .co_copy_in = cow_co_copy_in,
    .can_copy_in = cow_can_copy_in,
    .co_zero = cow_co_zero,
    .co_discard = cow_co_discard,
    .co_flush = cow_co_flush,
    .co_map = cow_co_map,
    .co_truncate = cow_co_truncate,
    .co_change_backing = cow_co_change_backing,
    .co_chain_opened = cow_co_chain_opened,
    .co_forget_base = cow_co_forget_base,
    .co_make_empty = cow_co_make_empty,
    .co_check = cow_co_check,
    .co_create = cow_co_create,
    .create_options = cow_create_options,
    .co_uncreate = cow_co_uncreate,
    .creates_over = true,
    .measure = cow_measure,
    .co_quiesce = cow_co_quiesce,
    .resume = cow_resume,
};
