/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coverage of a reply, against one flag a byte. */
#include <glib.h>
#include <string.h>
#include "storage/nbd/nbd-cover.h"

enum { LEN = 24, ROUNDS = 20000, BASE = 1000 };

static void test_random(void)
{
    unsigned whole = 0;

    for (int round = 0; round < ROUNDS; round++) {
        struct nbd_cover c = {};
        bool seen[LEN] = {}, full = true;

        for (int i = 0; i < 12; i++) {
            int a = g_test_rand_int_range(0, LEN);
            int b = g_test_rand_int_range(a + 1, LEN + 1);
            bool fresh = !memchr(seen + a, true, (size_t)(b - a));

            g_assert_true(nbd_cover_add(&c, BASE + (unsigned)a,
                                        BASE + (unsigned)b) == fresh);
            if (fresh) {
                memset(seen + a, true, (size_t)(b - a));
            }
        }
        full = !memchr(seen, false, LEN);
        whole += full;
        g_assert_true(nbd_cover_is(&c, BASE, BASE + LEN) == full);
    }
    g_assert_cmpuint(whole, >, 10);
}

static void test_disorder(void)
{
    struct nbd_cover c = {};

    for (unsigned i = 0; i < NBD_COVER_RUNS; i++) {
        g_assert_true(nbd_cover_add(&c, 4 * i, 4 * i + 1));
    }
    g_assert_false(nbd_cover_add(&c, 1000, 1001));
    g_assert_false(nbd_cover_add(&c, 5, 5));
    g_assert_true(nbd_cover_add(&c, 1, 4));
    g_assert_true(nbd_cover_add(&c, 1000, 1001));
    g_assert_false(nbd_cover_is(&c, 0, 5));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd-cover/random", test_random);
    g_test_add_func("/nbd-cover/disorder", test_disorder);
    return g_test_run();
}
