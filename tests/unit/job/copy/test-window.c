/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The window against a simulated line: a queue, a pipe of fixed rate behind it,
 * then a delay that may vary. It must reach the bandwidth-delay product, find it
 * again when it changes, and leave the queue to others. */
#include <glib.h>
#include "job/copy/window.h"

#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define WINDOW_MAX (64 * MIB)
#define IN_FLIGHT_MAX 1024
#define WAITS_MAX 4000

struct link {
    double rate; /* bytes/ns */
    uint64_t delay_ns;
    double jitter;  /* of the delay, 0..1 */
    uint64_t queue; /* bytes; more is lost and comes a round trip later; 0: no
                     * end of it */

    GRand *rand;
    struct window w;
    uint64_t now, free_at, in_flight, sent, done, lost;
    unsigned n;
    struct {
        uint64_t at, bytes;
        bool again;
        struct window_mark mark;
    } q[IN_FLIGHT_MAX];

    /* How long somebody else would have waited for the line, each @WAITS_MAX-th
     * part of a run. */
    uint64_t look_ns, next_look;
    unsigned n_waits;
    uint64_t waits[WAITS_MAX + 1];
};

static void link_init(struct link *l, double mib_s, uint64_t delay_ns)
{
    *l = (struct link) { .rate = mib_s * (double)MIB / 1e9,
                         .delay_ns = delay_ns,
                         .now = SEC };
    l->rand = g_rand_new_with_seed(42);
    window_init(&l->w, MIB, WINDOW_MAX, true, l->now);
}

static uint64_t link_backlog(const struct link *l, uint64_t at)
{
    return l->free_at > at ? l->free_at - at : 0;
}

/* Number @i enters the line, or is lost and comes again a round trip later. */
static void link_enter(struct link *l, unsigned i)
{
    uint64_t jitter = (uint64_t)(g_rand_double(l->rand) * l->jitter *
                                 (double)l->delay_ns);

    l->q[i].again = l->queue && (double)link_backlog(l, l->now) * l->rate >
                                    (double)l->queue;
    if (l->q[i].again) {
        l->lost++;
        l->q[i].at = l->now + l->delay_ns;
    } else {
        l->free_at = MAX(l->free_at, l->now) +
                     (uint64_t)((double)l->q[i].bytes / l->rate);
        l->q[i].at = l->free_at + l->delay_ns + jitter;
    }
}

static void link_send(struct link *l, uint64_t bytes)
{
    g_assert_cmpuint(l->n, <, IN_FLIGHT_MAX);
    l->q[l->n].bytes = bytes;
    l->q[l->n].mark = window_sent(&l->w, bytes, l->now);
    l->in_flight += bytes;
    link_enter(l, l->n++);
}

/* Look at the queue as it is until @at. */
static void link_look(struct link *l, uint64_t at)
{
    while (l->look_ns && l->next_look < at && l->n_waits < WAITS_MAX) {
        l->waits[l->n_waits++] = link_backlog(l, l->next_look);
        l->next_look += l->look_ns;
    }
}

static void link_receive(struct link *l)
{
    unsigned next = 0;

    for (unsigned i = 1; i < l->n; i++) {
        if (l->q[i].at < l->q[next].at) {
            next = i;
        }
    }
    link_look(l, l->q[next].at);
    l->now = MAX(l->now, l->q[next].at);
    if (l->q[next].again) {
        link_enter(l, next);
        return;
    }
    l->in_flight -= l->q[next].bytes;
    l->done += l->q[next].bytes;
    window_done(&l->w, &l->q[next].mark, l->q[next].bytes, l->now);
    l->q[next] = l->q[--l->n];
}

static bool link_has_room(const struct link *l)
{
    return l->in_flight == 0 ||
           l->in_flight + window_piece(&l->w) <= window_limit(&l->w);
}

/* Run for @ns; returns MiB/s over that time. */
static double link_run(struct link *l, uint64_t ns)
{
    uint64_t from = l->now, done = l->done;

    l->look_ns = MAX(ns / WAITS_MAX, 1);
    l->next_look = l->now;
    l->n_waits = 0;
    while (l->now - from < ns) {
        while (link_has_room(l)) {
            link_send(l, window_piece(&l->w));
        }
        link_receive(l);
    }
    return (double)(l->done - done) / (double)MIB /
           ((double)(l->now - from) / 1e9);
}

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* In ms: how long 99 of 100 would have waited for the line in the last run. */
static double link_wait_p99(struct link *l)
{
    qsort(l->waits, l->n_waits, sizeof(l->waits[0]), compare_ns);
    return (double)l->waits[l->n_waits * 99 / 100] / (double)MS;
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
            /* Where the delay varies by half, replies tell little of a line. */
            g_assert_cmpfloat(early, >=,
                              (jitter < 0.5 ? 0.35 : 0.25) * links[i].mib_s);
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
    g_assert_cmpuint(window_limit(&l.w), <=, 6 * MIB);
    g_rand_free(l.rand);
}

/* MiB/s that the window can reach at most. */
static double link_best(const struct link *l)
{
    double rate = l->rate * 1e9 / (double)MIB;

    return MIN(rate, (double)WINDOW_MAX / (double)MIB /
                         ((double)l->delay_ns / 1e9) * 0.95);
}

/* Whoever else sends something waits for a round trip at most for what is in
 * the queue, or for some milliseconds where the trip is shorter. */
static void check_line(double mib_s, uint64_t delay_ms, double trips_of_queue)
{
    struct link l;
    double first, late, first_wait, wait, allowed;
    uint64_t lost;

    link_init(&l, mib_s, delay_ms * MS);
    l.queue = (uint64_t)MAX(trips_of_queue * l.rate * (double)l.delay_ns,
                            128.0 * KIB);
    first = link_run(&l, MAX(40 * delay_ms * MS, 2 * SEC));
    first_wait = link_wait_p99(&l);
    lost = l.lost;
    late = link_run(&l, MAX(500 * delay_ms * MS, 10 * SEC));
    wait = link_wait_p99(&l);
    /* Two of the least pieces are always under way. */
    allowed = MAX((double)delay_ms, 30) + 128e3 / 1024 / mib_s;
    g_test_message("%6.1f MiB/s %3u ms, queue %.2f trips: %.2f then %.2f of "
                   "the rate; p99 of the wait %.1f then %.1f ms; "
                   "lost %u then %u; window %.2f MiB",
                   mib_s, (unsigned)delay_ms, trips_of_queue,
                   first / link_best(&l), late / link_best(&l), first_wait,
                   wait, (unsigned)lost, (unsigned)(l.lost - lost),
                   (double)window_limit(&l.w) / (double)MIB);
    g_assert_cmpfloat(first, >=, 0.7 * link_best(&l));
    g_assert_cmpfloat(late, >=, 0.9 * link_best(&l));
    g_assert_cmpfloat(wait, <=, allowed);
    g_rand_free(l.rand);
}

static void test_leaves_queue_to_others(void)
{
    static const double rates[] = { 2, 5, 20, 100, 400, 1000 };
    static const uint64_t delays[] = { 1, 10, 50, 100, 200 };
    static const double queues[] = { 0.5, 1, 4 };

    for (unsigned r = 0; r < G_N_ELEMENTS(rates); r++) {
        for (unsigned d = 0; d < G_N_ELEMENTS(delays); d++) {
            for (unsigned q = 0; q < G_N_ELEMENTS(queues); q++) {
                check_line(rates[r], delays[d], queues[q]);
            }
        }
    }
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

/* Nor does a window grow that is not made use of, whatever else holds the sender
 * back: all of it would go at once when that ends. */
static void test_unused_does_not_grow(void)
{
    struct window w;
    uint64_t now = SEC;

    window_init(&w, MIB, 64 * MIB, true, now);
    for (unsigned i = 0; i < 1000; i++) {
        struct window_mark mark = window_sent(&w, 64 * KIB, now);

        now += 100 * MS;
        window_done(&w, &mark, 64 * KIB, now);
    }
    g_assert_cmpuint(window_limit(&w), <=, 4 * MIB);
}

/* A sender that something else holds back must not lose its window. */
static void test_limited_teaches_nothing(void)
{
    struct window w;
    uint64_t now = SEC;

    window_init(&w, MIB, 64 * MIB, true, now);
    for (unsigned i = 0; i < 1000; i++) {
        struct window_mark mark = window_sent(&w, MIB, now);

        window_not_full(&w);
        now += 100 * MS;
        window_done(&w, &mark, MIB, now);
    }
    g_assert_cmpint((int)w.phase, ==, WINDOW_FILL);
    g_assert_cmpuint(window_limit(&w), >=, 512 * KIB);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/window/reaches-bdp", test_reaches_bdp);
    g_test_add_func("/job/window/stays-small", test_stays_small);
    g_test_add_func("/job/window/leaves-queue-to-others",
                    test_leaves_queue_to_others);
    g_test_add_func("/job/window/follows-change", test_follows_change);
    g_test_add_func("/job/window/unused", test_unused_does_not_grow);
    g_test_add_func("/job/window/limited", test_limited_teaches_nothing);
    return g_test_run();
}
