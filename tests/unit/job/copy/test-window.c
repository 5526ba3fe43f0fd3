/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The window against a simulated link: a pipe of fixed rate, then a delay that
 * may vary. It must reach the bandwidth-delay product and find it again when it
 * changes. */
#include <glib.h>
#include "job/copy/window.h"

#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define MIB (UINT64_C(1) << 20)
#define IN_FLIGHT_MAX 128

struct link {
    double rate; /* bytes/ns */
    uint64_t delay_ns;
    double jitter; /* of the delay, 0..1 */

    GRand *rand;
    struct window w;
    uint64_t now, free_at, in_flight, sent, done;
    unsigned n;
    struct {
        uint64_t at, mark;
    } q[IN_FLIGHT_MAX];
};

static void link_init(struct link *l, double mib_s, uint64_t delay_ns)
{
    *l = (struct link) { .rate = mib_s * (double)MIB / 1e9,
                         .delay_ns = delay_ns,
                         .now = SEC };
    l->rand = g_rand_new_with_seed(42);
    window_init(&l->w, MIB, 64 * MIB, l->now);
}

static void link_send(struct link *l)
{
    uint64_t start = MAX(l->free_at, l->now);

    l->free_at = start + (uint64_t)((double)MIB / l->rate);
    l->q[l->n].at = l->free_at + l->delay_ns +
                    (uint64_t)(g_rand_double(l->rand) * l->jitter *
                               (double)l->delay_ns);
    l->q[l->n++].mark = window_sent(&l->w);
    l->in_flight += MIB;
}

static void link_receive(struct link *l)
{
    unsigned next = 0;

    for (unsigned i = 1; i < l->n; i++) {
        if (l->q[i].at < l->q[next].at) {
            next = i;
        }
    }
    l->now = MAX(l->now, l->q[next].at);
    l->in_flight -= MIB;
    l->done += MIB;
    window_done(&l->w, l->q[next].mark, MIB, l->now);
    l->q[next] = l->q[--l->n];
}

/* Run for @ns; returns MiB/s over that time. */
static double link_run(struct link *l, uint64_t ns)
{
    uint64_t from = l->now, done = l->done;

    while (l->now - from < ns) {
        while (l->in_flight + MIB <= window_limit(&l->w) || l->in_flight == 0) {
            link_send(l);
        }
        link_receive(l);
    }
    return (double)(l->done - done) / (double)MIB /
           ((double)(l->now - from) / 1e9);
}

static void test_reaches_bdp(void)
{
    static const struct {
        double mib_s;
        uint64_t delay_ms;
    } links[] = { { 100, 1 },   { 1000, 1 },  { 3000, 1 },
                  { 1000, 5 },  { 1000, 10 }, { 300, 50 },
                  { 1000, 50 }, { 100, 200 }, { 280, 200 } };

    for (unsigned i = 0; i < G_N_ELEMENTS(links); i++) {
        for (double jitter = 0; jitter <= 0.5; jitter += 0.25) {
            struct link l;
            double early, late;

            link_init(&l, links[i].mib_s, links[i].delay_ms * MS);
            l.jitter = jitter;
            early = link_run(&l, 8 * links[i].delay_ms * MS + 50 * MS);
            late = link_run(&l, 20 * SEC);
            g_test_message("%4.0f MiB/s %3u ms jitter %.2f: first %.2f, "
                           "then %.2f, window %.1f MiB",
                           links[i].mib_s, (unsigned)links[i].delay_ms, jitter,
                           early / links[i].mib_s, late / links[i].mib_s,
                           (double)window_limit(&l.w) / (double)MIB);
            g_assert_cmpfloat(early, >=, 0.35 * links[i].mib_s);
            /* 64 MiB of window cannot fill more than this. */
            g_assert_cmpfloat(
                late, >=,
                0.85 *
                    MIN(links[i].mib_s,
                        64e3 / ((double)links[i].delay_ms * (1 + jitter / 2)) *
                            0.95));
            g_rand_free(l.rand);
        }
    }
}

static void test_stays_small(void)
{
    struct link l;

    /* The product is 1 MiB: a window of 64 would only fill queues. */
    link_init(&l, 500, 2 * MS);
    g_assert_cmpfloat(link_run(&l, 10 * SEC), >=, 480);
    g_assert_cmpuint(window_limit(&l.w), <=, 16 * MIB);
    g_rand_free(l.rand);
}

static void test_follows_change(void)
{
    struct link l;

    link_init(&l, 400, 5 * MS);
    link_run(&l, 5 * SEC);
    l.delay_ns = 100 * MS;
    link_run(&l, 40 * SEC);
    g_assert_cmpfloat(link_run(&l, 10 * SEC), >=, 0.85 * 400);
    g_rand_free(l.rand);
}

/* A sender that something else holds back must not lose its window. */
static void test_limited_teaches_nothing(void)
{
    struct window w;
    uint64_t now = SEC;

    window_init(&w, MIB, 64 * MIB, now);
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t mark = window_sent(&w);

        window_not_full(&w);
        now += 100 * MS;
        window_done(&w, mark, MIB, now);
    }
    g_assert_cmpint((int)w.phase, ==, WINDOW_FILL);
    g_assert_cmpuint(window_limit(&w), >=, 4 * MIB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/window/reaches-bdp", test_reaches_bdp);
    g_test_add_func("/job/window/stays-small", test_stays_small);
    g_test_add_func("/job/window/follows-change", test_follows_change);
    g_test_add_func("/job/window/limited", test_limited_teaches_nothing);
    return g_test_run();
}
