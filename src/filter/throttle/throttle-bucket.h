/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leaky buckets: the arithmetic of throttle groups, without clocks or I/O.
 *
 * A request pours its units (bytes, or operations) into each bucket that
 * counts it; buckets leak at the rate of their limit.  A request may pass
 * while no bucket is over its brim, whatever its own size, so that a request
 * larger than the bucket is late but never stuck.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/options.h"

/* The order is that of the option names. */
enum bucket_kind {
    BUCKET_IOPS_TOTAL,
    BUCKET_IOPS_READ,
    BUCKET_IOPS_WRITE,
    BUCKET_BPS_TOTAL,
    BUCKET_BPS_READ,
    BUCKET_BPS_WRITE,
    BUCKET_COUNT
};

struct bucket_limit {
    uint64_t rate;   /* units a second; 0 = no limit */
    uint64_t max;    /* units a second in a burst; 0 = no bursts */
    uint64_t length; /* of a burst at @max, seconds */
};
struct throttle_limits {
    struct bucket_limit bucket[BUCKET_COUNT];
    uint64_t iops_size; /* a request counts once for each so many bytes */
};

struct bucket_level {
    double level; /* units over the sustained rate */
    double burst; /* units over the burst rate */
};
struct throttle_levels {
    struct bucket_level bucket[BUCKET_COUNT];
    uint64_t at_ns; /* when they were last leaked */
};

void throttle_limits_init(struct throttle_limits *l);
/* Take what @o holds of the names, each with @prefix before it ("x-" or ""). */
int throttle_limits_take(struct throttle_limits *l, struct opts *o,
                         const char *prefix, GError **err);
/* Do the limits fit together? 0 or -EINVAL. */
int throttle_limits_check(const struct throttle_limits *l, GError **err);
/* As a ThrottleLimits object; owned. */
json_t *throttle_limits_json(const struct throttle_limits *l);

/* Leak up to @now_ns. */
void throttle_levels_leak(struct throttle_levels *v,
                          const struct throttle_limits *l, uint64_t now_ns);
/* Nanoseconds until a read or write may pass; 0: now. */
uint64_t throttle_levels_wait(const struct throttle_levels *v,
                              const struct throttle_limits *l, bool is_write);
void throttle_levels_pour(struct throttle_levels *v,
                          const struct throttle_limits *l, bool is_write,
                          uint64_t bytes);
