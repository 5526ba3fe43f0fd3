/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Timers fire in order, and neither early nor after a cancel. */
#include "run.h"

#define TIMERS 500

struct entry {
    struct loop_timer timer;
    uint64_t due;
    bool cancelled, fired;
};

static uint64_t last_due;
static unsigned n_fired;

static void fire(void *arg)
{
    struct entry *e = arg;

    g_assert_false(e->cancelled);
    g_assert_false(e->fired);
    g_assert_cmpuint(e->due, >=, last_due);
    g_assert_cmpuint(loop_clock_ns(e->timer.loop), >=, e->due);
    g_assert_cmpuint(e->timer.heap_idx, ==, 0);
    last_due = e->due;
    e->fired = true;
    n_fired++;
}

CO_FN static void random_entry(void *arg)
{
    struct entry *all = g_new0(struct entry, TIMERS);
    struct loop *l = loop_current();
    uint64_t start = loop_clock_ns(l);
    GRand *rand = g_rand_new_with_seed(42);
    unsigned n_left = TIMERS;

    last_due = 0;
    n_fired = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < TIMERS; i++) {
            struct entry *e = &all[i];

            if (round == 0) {
                loop_timer_init(&e->timer, l, fire, e);
                loop_timer_cancel(&e->timer);
            } else if (i % 3) {
                continue; /* every third is armed again */
            }
            e->due = start + 20000000 +
                     (uint64_t)g_rand_int_range(rand, 0, 10000000);
            loop_timer_arm(&e->timer, e->due);
        }
    }
    for (int i = 0; i < TIMERS; i += 5) {
        all[i].cancelled = true;
        loop_timer_cancel(&all[i].timer);
        n_left--;
    }
    co_sleep(40000000);
    g_assert_cmpuint(n_fired, ==, n_left);
    g_rand_free(rand);
    g_free(all);
}

/* A timer that arms itself again does not keep the loop from its other work. */
static unsigned n_ticks;

static void tick(void *arg)
{
    struct loop_timer *t = arg;

    n_ticks++;
    loop_timer_arm(t, loop_now_ns(t->loop));
}

CO_FN static void again_entry(void *arg)
{
    struct loop_timer t;

    n_ticks = 0;
    loop_timer_init(&t, loop_current(), tick, &t);
    loop_timer_arm(&t, 0);
    for (int i = 0; i < 10; i++) {
        co_relax();
    }
    loop_timer_cancel(&t);
    g_assert_cmpuint(n_ticks, >=, 5);
    g_assert_cmpuint(n_ticks, <=, 20);
    co_sleep(0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_real_engines("/loop/timer/random", random_entry);
    add_for_real_engines("/loop/timer/again", again_entry);
    return g_test_run();
}
