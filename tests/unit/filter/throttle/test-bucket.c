/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The arithmetic of throttle groups, with a clock of our own. */
#include <errno.h>
#include <glib.h>
#include <jansson.h>
#include "filter/throttle/throttle-bucket.h"

#define S 1000000000ull

/* Units that pass until @seconds have gone, requests of @bytes as fast as they
 * may. */
static uint64_t pass(const struct throttle_limits *l, struct throttle_levels *v,
                     bool is_write, uint64_t bytes, uint64_t seconds)
{
    uint64_t now = v->at_ns, end = now + seconds * S, count = 0;

    for (;;) {
        uint64_t wait;

        throttle_levels_leak(v, l, now);
        wait = throttle_levels_wait(v, l, is_write);
        if (now + wait > end) {
            break;
        }
        if (wait) {
            now += wait;
            continue;
        }
        throttle_levels_pour(v, l, is_write, bytes);
        count++;
    }
    throttle_levels_leak(v, l, end);
    return count;
}

static void test_rate(void)
{
    struct throttle_limits l;
    struct throttle_levels v = { 0 };

    throttle_limits_init(&l);
    l.bucket[BUCKET_BPS_TOTAL].rate = 1000000;
    /* 10 s, and what the bucket holds at the start. */
    g_assert_cmpuint(pass(&l, &v, false, 10000, 10), <=, 1000 + 10 + 2);
    g_assert_cmpuint(pass(&l, &v, true, 10000, 10), >=, 990);
    g_assert_cmpuint(pass(&l, &v, true, 10000, 10), <=, 1002);
}

static void test_directions(void)
{
    struct throttle_limits l;
    struct throttle_levels v = { 0 };

    throttle_limits_init(&l);
    l.bucket[BUCKET_IOPS_READ].rate = 100;
    l.bucket[BUCKET_BPS_WRITE].rate = 1000;
    g_assert_cmpuint(pass(&l, &v, false, 1 << 30, 10), <=, 1012);
    g_assert_cmpuint(throttle_levels_wait(&v, &l, true), ==, 0);
    throttle_levels_pour(&v, &l, true, 1000);
    /* 900 bytes over the brim, of 1000 a second. */
    g_assert_cmpuint(throttle_levels_wait(&v, &l, true), ==, S * 9 / 10);
}

static void test_iops_size(void)
{
    struct throttle_limits l;
    struct throttle_levels v = { 0 };

    throttle_limits_init(&l);
    l.bucket[BUCKET_IOPS_TOTAL].rate = 100;
    l.iops_size = 4096;
    g_assert_cmpuint(pass(&l, &v, false, 512, 10), >=, 1000);
    g_assert_cmpuint(pass(&l, &v, false, 40960, 10), <=, 101);
    g_assert_cmpuint(pass(&l, &v, false, 40960, 10), >=, 99);
}

static void test_burst(void)
{
    struct throttle_limits l;
    struct throttle_levels v = { 0 };
    uint64_t n;

    throttle_limits_init(&l);
    l.bucket[BUCKET_IOPS_TOTAL] = (struct bucket_limit) { 100, 1000, 5 };
    /* Five seconds at the burst rate (the bucket leaks meanwhile) ... */
    n = pass(&l, &v, false, 1, 5);
    g_assert_cmpuint(n, >=, 4900);
    g_assert_cmpuint(n, <=, 5102);
    /* ... then a little more, then the sustained rate. */
    pass(&l, &v, false, 1, 5);
    n = pass(&l, &v, false, 1, 10);
    g_assert_cmpuint(n, >=, 990);
    g_assert_cmpuint(n, <=, 1010);
}

static void test_large_request(void)
{
    struct throttle_limits l;
    struct throttle_levels v = { 0 };

    throttle_limits_init(&l);
    l.bucket[BUCKET_BPS_TOTAL].rate = 1;
    g_assert_cmpuint(throttle_levels_wait(&v, &l, true), ==, 0);
    throttle_levels_pour(&v, &l, true, 100);
    throttle_levels_leak(&v, &l, 100 * S);
    g_assert_cmpuint(throttle_levels_wait(&v, &l, true), ==, 0);
}

static int parse(struct throttle_limits *l, const char *json, GError **err)
{
    json_t *obj = json_loads(json, 0, NULL);
    struct opts *o = opts_new(obj);
    int r;

    throttle_limits_init(l);
    r = throttle_limits_take(l, o, "", err);
    if (r == 0) {
        r = opts_finish(o, err);
    }
    if (r == 0) {
        r = throttle_limits_check(l, err);
    }
    opts_free(o);
    json_decref(obj);
    return r;
}

static void test_parse(void)
{
    struct throttle_limits l;
    json_t *obj;

    g_assert_cmpint(parse(&l,
                          "{\"bps-read\": 5, \"bps-read-max\": 7, "
                          "\"bps-read-max-length\": 3, \"iops-total\": 9, "
                          "\"iops-size\": 4096}",
                          NULL),
                    ==, 0);
    obj = throttle_limits_json(&l);
    g_assert_cmpuint(json_object_size(obj), ==, 19);
    g_assert_cmpint(json_integer_value(json_object_get(obj, "bps-read-max")),
                    ==, 7);
    g_assert_cmpint(json_integer_value(json_object_get(obj, "iops-total")), ==,
                    9);
    g_assert_cmpint(
        json_integer_value(json_object_get(obj, "bps-write-max-length")), ==,
        1);
    json_decref(obj);
}

static void test_refused(void)
{
    static const char *const bad[] = {
        "{\"bps-total\": -1}",
        "{\"bps-total\": 1000000000000001}",
        "{\"bps-total\": 1, \"bps-read\": 1}",
        "{\"iops-total\": 1, \"iops-write\": 1}",
        "{\"iops-total-max\": 5}",
        "{\"iops-total\": 10, \"iops-total-max\": 5}",
        "{\"iops-total\": 10, \"iops-total-max-length\": 5}",
        "{\"iops-total\": 10, \"iops-total-max\": 20, "
        "\"iops-total-max-length\": 0}",
        "{\"iops-total\": 10, \"iops-total-max\": 1000000000000000, "
        "\"iops-total-max-length\": 1000000000000000}",
        "{\"iops-size\": 512, \"bps-total\": 1}",
        "{\"bps\": 1}",
        "{\"bps-total\": []}",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct throttle_limits l;
        GError *err = NULL;

        g_assert_cmpint(parse(&l, bad[i], &err), ==, -EINVAL);
        g_assert_nonnull(err);
        g_test_message("%s: %s", bad[i], err->message);
        g_error_free(err);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/filter/bucket/rate", test_rate);
    g_test_add_func("/filter/bucket/directions", test_directions);
    g_test_add_func("/filter/bucket/iops-size", test_iops_size);
    g_test_add_func("/filter/bucket/burst", test_burst);
    g_test_add_func("/filter/bucket/large-request", test_large_request);
    g_test_add_func("/filter/bucket/parse", test_parse);
    g_test_add_func("/filter/bucket/refused", test_refused);
    return g_test_run();
}
