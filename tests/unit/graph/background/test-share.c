/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The histogram of latencies, and how a rate is divided among several. */
#include <glib.h>
#include "graph/background/control.h"

#define SEC UINT64_C(1000000000)
#define MIB (1024.0 * 1024)

/* A quantile is that of the sorted numbers, at most a sixteenth above. */
static void test_quantile(void)
{
    for (unsigned round = 0; round < 50; round++) {
        g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(gint64));
        struct latency h = { 0 };
        int n = g_test_rand_int_range(1, 3000);

        for (int i = 0; i < n; i++) {
            gint64 ns = (gint64)g_test_rand_int_range(1, 1 << 30)
                        << g_test_rand_int_range(0, 3);

            ns >>= g_test_rand_int_range(0, 24);
            g_array_append_val(all, ns);
            latency_add(&h, (uint64_t)ns);
        }
        for (unsigned percent = 1; percent <= 100; percent += 7) {
            uint64_t got = latency_quantile(&h, percent), over = 0, below = 0;

            for (int i = 0; i < n; i++) {
                uint64_t ns = (uint64_t)g_array_index(all, gint64, i);

                below += ns <= got;
                over += (double)ns > (double)got * (1 - 1.0 / 15) - 1024;
            }
            g_assert_cmpuint(below * 100, >=, (uint64_t)n * percent);
            g_assert_cmpuint(over * 100, >, (uint64_t)n * (100 - percent) / 2);
        }
    }
}

static void test_over(void)
{
    struct latency h = { 0 }, more = { 0 };

    g_assert_cmpuint(latency_quantile(&h, 99), ==, 0);
    for (unsigned i = 0; i < 99; i++) {
        latency_add(&h, 100000);
    }
    latency_add(&h, 5000000);
    g_assert_cmpuint(latency_over(&h, 200000), ==, 1);
    g_assert_cmpuint(latency_over(&h, 50000), ==, 100);
    g_assert_cmpuint(latency_over(&h, 100000), ==, 1);
    g_assert_cmpuint(latency_quantile(&h, 99), <, 110000);
    g_assert_cmpuint(latency_quantile(&h, 100), >=, 5000000);
    latency_add(&more, UINT64_MAX);
    latency_merge(&h, &more);
    g_assert_cmpuint(h.total, ==, 101);
    g_assert_cmpuint(latency_over(&h, 5000000000), ==, 1);
}

/* @n members that used so many MiB/s in the last second; negative: and were
 * held back. */
static void divide(const double *used, unsigned n, double rate,
                   struct member *m)
{
    struct member *list[8];

    for (unsigned i = 0; i < n; i++) {
        m[i] = (struct member) {
            .bytes = (uint64_t)(ABS(used[i]) * MIB),
            .wanting = used[i] < 0,
        };
        list[i] = &m[i];
    }
    share_divide(list, n, rate * MIB, SEC);
}

static void test_divide(void)
{
    struct member m[8];

    divide((double[]) { -50, -50, -50, -50 }, 4, 100, m);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmpfloat(m[i].rate, ==, 25 * MIB);
        g_assert_cmpuint(m[i].bytes, ==, 0);
    }
    /* One that is slow by itself leaves what it does not need. */
    divide((double[]) { 2, -30, -30 }, 3, 100, m);
    g_assert_cmpfloat(m[1].rate, >=, 47 * MIB);
    g_assert_cmpfloat(m[1].rate, <=, 49 * MIB);
    /* ... and may become faster: all have the same bound. */
    g_assert_cmpfloat(m[0].rate, ==, m[1].rate);
    divide((double[]) { -1 }, 1, 7, m);
    g_assert_cmpfloat(m[0].rate, ==, 7 * MIB);
    share_divide((struct member *[]) { m }, 1, RATE_NONE, SEC);
    g_assert_true(m[0].rate == RATE_NONE);
    share_divide((struct member *[]) { m }, 1, 0, SEC);
    g_assert_cmpfloat(m[0].rate, ==, 0);
    share_divide(NULL, 0, 5, SEC);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/background/latency/quantile", test_quantile);
    g_test_add_func("/graph/background/latency/over", test_over);
    g_test_add_func("/graph/background/share/divide", test_divide);
    return g_test_run();
}
