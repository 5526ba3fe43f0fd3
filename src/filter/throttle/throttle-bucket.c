/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Limits of a throttle group and the levels of its buckets. */
#include "filter/throttle/throttle-bucket.h"
#include <math.h>
#include "base/err.h"

#define LIMIT_MAX 1000000000000000ull /* 1e15 */
/* Without bursts a bucket holds this part of a second's units. */
#define BASE_BUCKET_SECONDS 0.1
#define NS_PER_S 1e9

static const char *const bucket_names[BUCKET_COUNT] = {
    [BUCKET_IOPS_TOTAL] = "iops-total", [BUCKET_IOPS_READ] = "iops-read",
    [BUCKET_IOPS_WRITE] = "iops-write", [BUCKET_BPS_TOTAL] = "bps-total",
    [BUCKET_BPS_READ] = "bps-read",     [BUCKET_BPS_WRITE] = "bps-write",
};

/* The buckets that count a read, a write. */
static const enum bucket_kind counted_by[2][4] = {
    { BUCKET_IOPS_TOTAL, BUCKET_IOPS_READ, BUCKET_BPS_TOTAL, BUCKET_BPS_READ },
    { BUCKET_IOPS_TOTAL, BUCKET_IOPS_WRITE, BUCKET_BPS_TOTAL,
      BUCKET_BPS_WRITE },
};

static bool counts_bytes(enum bucket_kind k)
{
    return k >= BUCKET_BPS_TOTAL;
}

void throttle_limits_init(struct throttle_limits *l)
{
    *l = (struct throttle_limits) { 0 };
    for (unsigned i = 0; i < BUCKET_COUNT; i++) {
        l->bucket[i].length = 1;
    }
}

static int take_one(struct opts *o, const char *prefix, const char *name,
                    const char *suffix, uint64_t *ret, GError **err)
{
    g_autofree char *full = g_strconcat(prefix, name, suffix, NULL);
    int64_t v;
    int r = opts_take_int(o, full, &v, err);

    if (r <= 0) {
        return r;
    }
    if (v < 0 || (uint64_t)v > LIMIT_MAX) {
        return err_set(err, EINVAL, "'%s' must be within [0, %llu]", full,
                       LIMIT_MAX);
    }
    *ret = v;
    return 0;
}

int throttle_limits_take(struct throttle_limits *l, struct opts *o,
                         const char *prefix, GError **err)
{
    for (unsigned i = 0; i < BUCKET_COUNT; i++) {
        struct bucket_limit *b = &l->bucket[i];
        int r = take_one(o, prefix, bucket_names[i], "", &b->rate, err);

        if (r == 0) {
            r = take_one(o, prefix, bucket_names[i], "-max", &b->max, err);
        }
        if (r == 0) {
            r = take_one(o, prefix, bucket_names[i], "-max-length", &b->length,
                         err);
        }
        if (r < 0) {
            return r;
        }
    }
    return take_one(o, prefix, "iops-size", "", &l->iops_size, err);
}

static int check_bucket(const struct bucket_limit *b, const char *name,
                        GError **err)
{
    if (b->length == 0) {
        return err_set(err, EINVAL, "'%s-max-length' cannot be 0", name);
    }
    if (b->length > 1 && !b->max) {
        return err_set(err, EINVAL, "'%s-max-length' needs '%s-max'", name,
                       name);
    }
    if (b->max && b->length > LIMIT_MAX / b->max) {
        return err_set(err, EINVAL,
                       "'%s-max-length' is too high for this "
                       "'%s-max'",
                       name, name);
    }
    if (b->max && !b->rate) {
        return err_set(err, EINVAL, "'%s-max' needs '%s'", name, name);
    }
    if (b->max && b->max < b->rate) {
        return err_set(err, EINVAL, "'%s-max' cannot be lower than '%s'", name,
                       name);
    }
    return 0;
}

int throttle_limits_check(const struct throttle_limits *l, GError **err)
{
    bool any_iops = false;

    for (unsigned i = 0; i < BUCKET_COUNT; i++) {
        int r = check_bucket(&l->bucket[i], bucket_names[i], err);

        if (r < 0) {
            return r;
        }
        any_iops |= !counts_bytes(i) && l->bucket[i].rate;
    }
    for (unsigned i = 0; i < BUCKET_COUNT; i += 3) {
        const struct bucket_limit *b = &l->bucket[i];

        if ((b[0].rate && (b[1].rate || b[2].rate)) ||
            (b[0].max && (b[1].max || b[2].max))) {
            return err_set(err, EINVAL,
                           "'%s' and '%s' or '%s' cannot be used "
                           "at the same time",
                           bucket_names[i], bucket_names[i + 1],
                           bucket_names[i + 2]);
        }
    }
    if (l->iops_size && !any_iops) {
        return err_set(err, EINVAL, "'iops-size' needs an iops value");
    }
    return 0;
}

static void json_put(json_t *obj, const char *name, const char *suffix,
                     uint64_t v)
{
    g_autofree char *full = g_strconcat(name, suffix, NULL);

    json_object_set_new(obj, full, json_integer(v));
}

json_t *throttle_limits_json(const struct throttle_limits *l)
{
    json_t *obj = json_object();

    for (unsigned i = 0; i < BUCKET_COUNT; i++) {
        json_put(obj, bucket_names[i], "", l->bucket[i].rate);
        json_put(obj, bucket_names[i], "-max", l->bucket[i].max);
        json_put(obj, bucket_names[i], "-max-length", l->bucket[i].length);
    }
    json_put(obj, "iops-size", "", l->iops_size);
    return obj;
}

void throttle_levels_leak(struct throttle_levels *v,
                          const struct throttle_limits *l, uint64_t now_ns)
{
    double seconds = now_ns > v->at_ns ? (now_ns - v->at_ns) / NS_PER_S : 0;

    v->at_ns = now_ns;
    for (unsigned i = 0; i < BUCKET_COUNT; i++) {
        struct bucket_level *b = &v->bucket[i];

        b->level = fmax(b->level - l->bucket[i].rate * seconds, 0);
        b->burst = fmax(b->burst - l->bucket[i].max * seconds, 0);
    }
}

/* Seconds until one bucket is no longer over its brim. */
static double bucket_wait(const struct bucket_level *v,
                          const struct bucket_limit *l)
{
    double brim, wait = 0;

    if (!l->rate) {
        return 0;
    }
    brim = l->max ? (double)l->max * l->length : l->rate * BASE_BUCKET_SECONDS;
    if (v->level > brim) {
        wait = (v->level - brim) / l->rate;
    }
    if (l->length > 1) {
        /* A long burst goes at its rate, not all at once. */
        double burst_brim = l->max * BASE_BUCKET_SECONDS;

        if (v->burst > burst_brim) {
            wait = fmax(wait, (v->burst - burst_brim) / l->max);
        }
    }
    return wait;
}

uint64_t throttle_levels_wait(const struct throttle_levels *v,
                              const struct throttle_limits *l, bool is_write)
{
    double wait = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(counted_by[0]); i++) {
        enum bucket_kind k = counted_by[is_write][i];

        wait = fmax(wait, bucket_wait(&v->bucket[k], &l->bucket[k]));
    }
    /* Rounded up: a timer that fires a little early would only spin. */
    return (uint64_t)ceil(wait * NS_PER_S);
}

void throttle_levels_pour(struct throttle_levels *v,
                          const struct throttle_limits *l, bool is_write,
                          uint64_t bytes)
{
    double ops = l->iops_size && bytes > l->iops_size
                     ? (double)bytes / l->iops_size
                     : 1;

    for (unsigned i = 0; i < G_N_ELEMENTS(counted_by[0]); i++) {
        enum bucket_kind k = counted_by[is_write][i];
        double units = counts_bytes(k) ? (double)bytes : ops;

        v->bucket[k].level += units;
        if (l->bucket[k].length > 1) {
            v->bucket[k].burst += units;
        }
    }
}
