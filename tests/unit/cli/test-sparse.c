/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of zeroes: against a slow model, over random buffers. */
#include <glib.h>
#include <string.h>

#include "cli/sparse.h"

#define SIZE 65536

static void test_known(void)
{
    static guint8 buf[SIZE];
    bool zero;

    memset(buf, 0, SIZE);
    g_assert_cmpuint(sparse_run(buf, SIZE, 4096, 4096, &zero), ==, SIZE);
    g_assert_true(zero);
    /* All of a buffer is a hole, however short. */
    g_assert_cmpuint(sparse_run(buf, 512, 512, 4096, &zero), ==, 512);
    g_assert_true(zero);
    buf[8192] = 1;
    g_assert_cmpuint(sparse_run(buf, SIZE, 4096, 4096, &zero), ==, 8192);
    g_assert_true(zero);
    g_assert_cmpuint(sparse_run(buf + 8192, SIZE - 8192, 4096, 4096, &zero), ==,
                     4096);
    g_assert_false(zero);
    /* 8 KiB of zeroes are too few. */
    buf[SIZE - 1] = 1;
    g_assert_cmpuint(sparse_run(buf, SIZE, 512, 49152 + 8192, &zero), ==, SIZE);
    g_assert_false(zero);
    /* A byte at the end of the buffer that is no whole unit. */
    memset(buf, 0, SIZE);
    buf[5000] = 1;
    g_assert_cmpuint(sparse_run(buf, 5001, 4096, 4096, &zero), ==, 4096);
    g_assert_true(zero);
}

/* Do the runs tile the buffer, hide no data, and leave no long zeroes? */
static void check_tiling(const guint8 *buf, gsize len, gsize unit, gsize min)
{
    gsize at = 0, holes = 0;
    bool zero, before = false;

    while (at < len) {
        gsize n = sparse_run(buf + at, len - at, unit, min, &zero);

        g_assert_cmpuint(n, >, 0);
        g_assert_cmpuint(n, <=, len - at);
        g_assert_true(n % unit == 0 || at + n == len);
        g_assert_true(at == 0 || zero != before);
        for (gsize i = 0; zero && i < n; i++) {
            g_assert_cmpuint(buf[at + i], ==, 0);
        }
        g_assert_true(!zero || n >= min || n == len);
        holes += zero ? n : 0;
        before = zero;
        at += n;
    }
    for (gsize i = 0, run = 0; i < len; i += unit) {
        gsize step = MIN(unit, len - i), j = 0;

        while (j < step && !buf[i + j]) {
            j++;
        }
        run = j == step ? run + step : 0;
        g_assert_true(run < min || holes > 0);
    }
}

static void test_random(void)
{
    static guint8 buf[SIZE];

    for (int round = 0; round < 300; round++) {
        gsize unit = 512u << g_test_rand_int_range(0, 4);
        gsize min = 512 * (gsize)g_test_rand_int_range(1, 40);
        gsize len = (gsize)g_test_rand_int_range(1, SIZE + 1);

        memset(buf, 0, SIZE);
        for (int i = g_test_rand_int_range(0, 12); i > 0; i--) {
            buf[g_test_rand_int_range(0, SIZE)] = 7;
        }
        check_tiling(buf, len, unit, MAX(min, unit));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/sparse/known", test_known);
    g_test_add_func("/cli/sparse/random", test_random);
    return g_test_run();
}
