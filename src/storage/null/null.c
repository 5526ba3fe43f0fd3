/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * null-co, null-aio: storage of any size that keeps nothing.  For tests and for
 * measuring everything but storage.
 *
 * Reads give zeroes always, so that no memory of the process leaks out;
 * read-zeroes=on also says so in the status.  null-aio finishes each request in
 * a later turn of the loop, null-co at once unless latency-ns delays it.
 */
#include "base/options.h"
#include "base/units.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "storage/storage.h"

#define NULL_SIZE_DEFAULT (1ull << 30)

struct null_state {
    uint64_t latency_ns;
    bool read_zeroes;
};

static CO_FN void null_co_delay(struct node *n)
{
    const struct null_state *s = n->state;

    if (s->latency_ns) {
        co_sleep(s->latency_ns);
    } else if (n->drv == &null_aio_driver) {
        co_relax();
    }
}

static CO_FN int null_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    struct null_state *s = n->state;
    int ret;

    n->size = NULL_SIZE_DEFAULT;
    ret = opts_take_size(o, "size", &n->size, err);
    if (ret >= 0) {
        ret = opts_take_size(o, "latency-ns", &s->latency_ns, err);
    }
    if (ret >= 0) {
        ret = opts_take_bool(o, "read-zeroes", &s->read_zeroes, err);
    }
    return MIN(ret, 0);
}

static void null_describe(struct node *n)
{
    g_free(n->filename);
    n->filename = g_strdup_printf("%s://", n->drv->name);
}

static CO_FN int null_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    null_co_delay(n);
    iov_memset(iov, 0, 0, iov.len);
    return 0;
}

static CO_FN int null_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    null_co_delay(n);
    return 0;
}

static CO_FN int null_co_zero(struct node *n, uint64_t off, uint64_t len,
                              unsigned flags)
{
    null_co_delay(n);
    return 0;
}

static CO_FN int null_co_flush(struct node *n)
{
    null_co_delay(n);
    return 0;
}

static CO_FN int null_co_map(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags, struct mapping *ret_map)
{
    const struct null_state *s = n->state;

    ret_map->kind = s->read_zeroes ? MAP_ZERO : MAP_DATA;
    return 0;
}

static CO_FN int null_co_reopen(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    struct null_state *s = n->state;
    int ret = opts_take_size(o, "size", &n->size, err);

    if (ret >= 0) {
        ret = opts_take_size(o, "latency-ns", &s->latency_ns, err);
    }
    if (ret >= 0) {
        ret = opts_take_bool(o, "read-zeroes", &s->read_zeroes, err);
    }
    return MIN(ret, 0);
}

static const char *const null_options[] = {
    "size",
    "latency-ns",
    "read-zeroes",
    NULL,
};

static const char *const null_reference_options[] = { "size", "read-zeroes",
                                                      NULL };

static void null_reference(const struct node *n, json_t *o)
{
    json_object_set_new(o, "size", json_integer((json_int_t)n->size));
}

#define NULL_DRIVER(driver_name) \
    .name = driver_name, .kind = NODE_PROTOCOL, \
    .state_size = sizeof(struct null_state), .handles_fua = true, \
    .option_names = null_options, .reference_options = null_reference_options, \
    .reference = null_reference, .co_open = null_co_open, \
    .co_reopen = null_co_reopen, .describe = null_describe, \
    .co_preadv = null_co_preadv, .co_pwritev = null_co_pwritev, \
    .co_zero = null_co_zero, .co_flush = null_co_flush, .co_map = null_co_map

const struct node_driver null_co_driver = { NULL_DRIVER("null-co") };
const struct node_driver null_aio_driver = { NULL_DRIVER("null-aio") };
