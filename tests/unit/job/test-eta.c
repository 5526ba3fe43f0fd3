/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How long a job will take: nothing is said without a rate, and where the rate
 * varies the truth lies within what is said. */
#include <glib.h>
#include <math.h>
#include "job/eta.h"

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)
#define MIB (1024.0 * 1024)

static void test_unknown(void)
{
    struct eta e = { 0 };
    struct eta_answer a;

    g_assert_false(eta_get(&e, 1000, &a));
    for (uint64_t now = SEC; now < 20 * SEC; now += 100 * MS) {
        eta_update(&e, 5, now);
    }
    g_assert_false(eta_get(&e, 1000, &a)); /* nothing moves */
}

static void test_steady(void)
{
    struct eta e = { 0 };
    struct eta_answer a;

    for (uint64_t i = 0; i <= 100; i++) {
        eta_update(&e, (uint64_t)(MIB / 10) * i, SEC + i * 100 * MS);
    }
    g_assert_true(eta_get(&e, (uint64_t)(100 * MIB), &a));
    g_assert_cmpfloat(fabs(a.expected - 100), <=, 1);
    g_assert_cmpfloat(a.earliest, >=, 85);
    g_assert_cmpfloat(a.latest, <=, 115);
}

/* A rate that is drawn anew every second: of a thousand jobs nineteen in twenty
 * end when it was said, give or take. */
static void test_honest(void)
{
    unsigned early = 0, late = 0, rounds = 1000;

    for (unsigned i = 0; i < rounds; i++) {
        struct eta e = { 0 };
        struct eta_answer a;
        double offset = 0, end = 400 * MIB, rate = 0;
        uint64_t now = SEC, asked;

        for (; now < 17 * SEC; now += 100 * MS) {
            rate = now % SEC ? rate : g_test_rand_double_range(1, 9) * MIB;
            offset += rate / 10;
            eta_update(&e, (uint64_t)offset, now);
        }
        g_assert_true(eta_get(&e, (uint64_t)(end - offset), &a));
        g_assert_cmpfloat(a.earliest, <=, a.expected);
        g_assert_cmpfloat(a.expected, <=, a.latest);
        for (asked = now; offset < end; now += 100 * MS) {
            rate = now % SEC ? rate : g_test_rand_double_range(1, 9) * MIB;
            offset += rate / 10;
        }
        early += (double)(now - asked) / 1e9 < a.earliest;
        late += (double)(now - asked) / 1e9 > a.latest;
    }
    g_test_message("%u early, %u late of %u", early, late, rounds);
    g_assert_cmpuint(early + late, <=, rounds / 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/eta/unknown", test_unknown);
    g_test_add_func("/job/eta/steady", test_steady);
    g_test_add_func("/job/eta/honest", test_honest);
    return g_test_run();
}
