/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rate limit: exact in the long run, even in the short, at once when
 * changed. A sender of the test asks as soon as it may, on its own clock. */
#include <glib.h>
#include "base/bucket.h"

#define SEC UINT64_C(1000000000)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

struct flow {
    uint64_t bytes;      /* in the whole run */
    uint64_t window_max; /* most bytes in any window of 200 ms */
    uint64_t window_min; /* least, but for the first */
};

/* Send for @ns; each wake-up is up to @jitter_ns late. */
static struct flow run(struct bucket *b, uint64_t from_ns, uint64_t ns,
                       uint64_t unit, uint64_t jitter_ns, GRand *rand)
{
    struct flow f = { .window_min = UINT64_MAX };
    uint64_t now = from_ns, slot = 0, in_slot = 0;

    while (now - from_ns < ns) {
        uint64_t wait = bucket_wait_ns(b, now);
        uint64_t len = bucket_request_size(b->rate, unit, MIB);

        if (wait) {
            now += wait;
            if (jitter_ns) {
                now += g_rand_int(rand) % jitter_ns;
            }
            continue;
        }
        bucket_take(b, len, now);
        f.bytes += len;
        if ((now - from_ns) / (SEC / 5) != slot) {
            f.window_max = MAX(f.window_max, in_slot);
            f.window_min = MIN(f.window_min, in_slot);
            slot = (now - from_ns) / (SEC / 5);
            in_slot = 0;
        }
        in_slot += len;
    }
    return f;
}

static void test_accuracy(void)
{
    static const uint64_t rates[] = { 64 * KIB, 256 * KIB, MIB,
                                      3333333,  10 * MIB,  100 * MIB };
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    for (unsigned i = 0; i < G_N_ELEMENTS(rates); i++) {
        for (uint64_t jitter = 0; jitter <= SEC / 200; jitter += SEC / 200) {
            struct bucket b = { 0 };
            double want = (double)rates[i] * 60;
            struct flow f;

            bucket_set_rate(&b, rates[i], SEC);
            f = run(&b, SEC, 60 * SEC, 64 * KIB, jitter, rand);
            g_test_message("%" G_GUINT64_FORMAT " B/s jitter %" G_GUINT64_FORMAT
                           ": %.4f",
                           rates[i], jitter, (double)f.bytes / want);
            g_assert_cmpfloat((double)f.bytes, >=, want * 0.99);
            g_assert_cmpfloat((double)f.bytes, <=, want * 1.02 + 64 * KIB);
        }
    }
}

static void test_even(void)
{
    struct bucket b = { 0 };
    struct flow f;

    /* 1 MiB/s: about 205 KiB in each fifth of a second, never a whole chunk
     * and then silence. */
    bucket_set_rate(&b, MIB, 0);
    f = run(&b, 0, 30 * SEC, 64 * KIB, 0, NULL);
    g_assert_cmpuint(f.window_max, <=, 320 * KIB);
    g_assert_cmpuint(f.window_min, >=, 128 * KIB);
    bucket_set_rate(&b, 100 * MIB, 30 * SEC);
    f = run(&b, 31 * SEC, 10 * SEC, 64 * KIB, 0, NULL);
    g_assert_cmpuint(f.window_max, <=, 23 * MIB);
    g_assert_cmpuint(f.window_min, >=, 17 * MIB);
}

static void test_idle_is_not_saved(void)
{
    struct bucket b = { 0 };
    uint64_t sent = 0;

    bucket_set_rate(&b, 10 * MIB, SEC);
    bucket_take(&b, MIB, SEC);
    /* An hour later: at most the jitter allowance and one request at once. */
    while (bucket_wait_ns(&b, 3601 * SEC) == 0) {
        bucket_take(&b, 64 * KIB, 3601 * SEC);
        sent += 64 * KIB;
    }
    g_assert_cmpuint(sent, <=, 10 * MIB / 50 + 128 * KIB);
}

/* Who was kept from sending for half a second makes up for it, if that was
 * asked for. */
static void test_burst(void)
{
    struct bucket b = { .burst_ns = SEC / 2 };
    uint64_t sent = 0;

    bucket_set_rate(&b, 10 * MIB, SEC);
    bucket_take(&b, MIB, SEC);
    while (bucket_wait_ns(&b, 3601 * SEC) == 0) {
        bucket_take(&b, 64 * KIB, 3601 * SEC);
        sent += 64 * KIB;
    }
    g_assert_cmpuint(sent, >=, 5 * MIB);
    g_assert_cmpuint(sent, <=, 5 * MIB + 128 * KIB);
}

static void test_change(void)
{
    struct bucket b = { 0 };
    uint64_t now = 5 * SEC;

    bucket_set_rate(&b, 64 * KIB, now);
    bucket_take(&b, 640 * KIB, now);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, 10 * SEC);
    bucket_set_rate(&b, 640 * KIB, now);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, SEC);
    bucket_set_rate(&b, 64 * KIB, now);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, 10 * SEC);
    bucket_give_back(&b, 320 * KIB);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, 5 * SEC);
    bucket_set_rate(&b, 0, now);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, 0);
    bucket_set_rate(&b, MIB, now);
    g_assert_cmpuint(bucket_wait_ns(&b, now), ==, 0);
}

static void test_extremes(void)
{
    struct bucket b = { 0 };

    bucket_set_rate(&b, 1, SEC);
    bucket_take(&b, UINT64_C(1) << 40, SEC);
    g_assert_cmpuint(bucket_wait_ns(&b, SEC), >, 1000 * SEC);
    bucket_set_rate(&b, INT64_MAX, SEC);
    g_assert_cmpuint(bucket_wait_ns(&b, SEC), <, SEC);
    g_assert_cmpuint(bucket_request_size(1, 64 * KIB, MIB), ==, 64 * KIB);
    g_assert_cmpuint(bucket_request_size(INT64_MAX, 64 * KIB, MIB), ==, MIB);
    g_assert_cmpuint(bucket_request_size(0, 64 * KIB, MIB), ==, MIB);
    g_assert_cmpuint(bucket_request_size(10 * MIB, 64 * KIB, MIB), ==,
                     512 * KIB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/bucket/accuracy", test_accuracy);
    g_test_add_func("/base/bucket/even", test_even);
    g_test_add_func("/base/bucket/idle-is-not-saved", test_idle_is_not_saved);
    g_test_add_func("/base/bucket/burst", test_burst);
    g_test_add_func("/base/bucket/change", test_change);
    g_test_add_func("/base/bucket/extremes", test_extremes);
    return g_test_run();
}
