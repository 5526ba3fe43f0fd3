/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Busy polling: how its time adapts, and that an idle loop does none; on a clock
 * and an engine of the test.
 */
#include "loop/loop-priv.h"
#include "loop/spin.h"

#define MAX_NS 32768

static struct spin spin_new(uint64_t grow, uint64_t shrink)
{
    return (struct spin) { .limits = { MAX_NS, grow, shrink } };
}

/* One wait in which the event comes after @waited_ns. Returns the time polled. */
static uint64_t wait_for(struct spin *s, uint64_t waited_ns)
{
    uint64_t ns = spin_begin(s);

    if (ns && waited_ns <= ns) {
        spin_hit(s, waited_ns);
        return waited_ns;
    }
    spin_slept(s, ns > 0, waited_ns);
    return ns;
}

/* QEMU's numbers: from 4 us by factors up to the most. */
static void test_grow(void)
{
    static const uint64_t by_two[] = { 0, 4000, 8000, 16000, 20000, 20000 };
    static const uint64_t by_three[] = { 0, 4000, 12000, 20000, 20000 };
    struct spin s = spin_new(0, 0);

    for (unsigned i = 0; i < G_N_ELEMENTS(by_two); i++) {
        g_assert_cmpuint(wait_for(&s, 20000), ==, by_two[i]);
    }
    g_assert_cmpuint(s.ns, ==, 32000);
    s = spin_new(3, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(by_three); i++) {
        g_assert_cmpuint(wait_for(&s, 20000), ==, by_three[i]);
    }
    g_assert_cmpuint(s.ns, ==, MAX_NS);
    /* No overflow. */
    s = spin_new(UINT64_MAX, 0);
    wait_for(&s, 20000);
    wait_for(&s, 20000);
    g_assert_cmpuint(s.ns, ==, MAX_NS);
}

static void test_shrink(void)
{
    struct spin s = spin_new(0, 0);

    s.ns = 16000;
    wait_for(&s, MAX_NS + 1);
    g_assert_cmpuint(s.ns, ==, 0);
    /* Idle: nothing is polled however often the loop wakes up. */
    for (unsigned i = 0; i < 10000; i++) {
        g_assert_cmpuint(wait_for(&s, 1000000), ==, 0);
    }
    s = spin_new(0, 4);
    s.ns = 16000;
    s.limits.shrink = 4;
    spin_slept(&s, false, MAX_NS + 1);
    g_assert_cmpuint(s.ns, ==, 4000);
}

static void test_off(void)
{
    struct spin s = { 0 };

    for (unsigned i = 0; i < 100; i++) {
        g_assert_cmpuint(wait_for(&s, 1), ==, 0);
    }
}

/* What is awaited does not come while we poll: it needs the processor. */
static void test_in_vain(void)
{
    struct spin s = spin_new(0, 1); /* a divisor that shrinks nothing */
    uint64_t polled = 0;

    s.ns = MAX_NS;
    for (unsigned i = 0; i < 20000; i++) {
        polled += wait_for(&s, MAX_NS + 1);
    }
    /* 2 + 4 + ... + 512 waits, then one in 1,025. */
    g_assert_cmpuint(polled / MAX_NS, <, 9 + 20);
    g_assert_cmpuint(polled / MAX_NS, >, 9);
    /* As soon as it helps it is done at every wait. */
    while (!wait_for(&s, 1000)) {
        continue;
    }
    for (unsigned i = 0; i < 100; i++) {
        g_assert_cmpuint(wait_for(&s, 1000), ==, 1000);
    }
    spin_interrupted(&s);
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmpuint(wait_for(&s, 1000), ==, 0);
    }
    g_assert_cmpuint(wait_for(&s, 1000), ==, 1000);
}

/* --- the loop --- */

static struct {
    uint64_t now, event; /* ns; when the next event comes */
    unsigned slept, looked;
} fake;

static int fake_init(struct loop *l, const struct loop_options *opts,
                     GError **err)
{
    return 0;
}

static void fake_done(struct loop *l)
{
}

static void fake_wait(struct loop *l, int64_t timeout_ns)
{
    if (timeout_ns != 0) {
        fake.slept++;
        fake.now = MAX(fake.now, fake.event);
    }
}

static bool fake_peek(struct loop *l)
{
    fake.looked++;
    fake.now += 50;
    return fake.now >= fake.event;
}

static uint64_t fake_clock(struct loop *l)
{
    return fake.now;
}

static const struct io_engine fake_engine = {
    .name = "fake",
    .init = fake_init,
    .done = fake_done,
    .wait = fake_wait,
    .peek = fake_peek,
    .clock = fake_clock,
};

static void turns(struct loop *l, unsigned n, uint64_t gap_ns)
{
    fake.slept = fake.looked = 0;
    for (unsigned i = 0; i < n; i++) {
        fake.event = fake.now + gap_ns;
        loop_turn(l, true);
    }
}

static void test_loop(void)
{
    struct loop_options opts = { .custom = &fake_engine,
                                 .polling.max_ns = MAX_NS };
    struct loop_polling off = { 0 };
    struct loop *l;

    fake.now = 1;
    g_assert_cmpint(loop_new(&opts, &l, NULL), ==, 0);
    turns(l, 10, 10000);
    turns(l, 1000, 10000);
    g_assert_cmpuint(fake.slept, ==, 0);
    turns(l, 10, 1000000);
    turns(l, 1000, 1000000);
    g_assert_cmpuint(fake.slept, ==, 1000);
    g_assert_cmpuint(fake.looked, ==, 0);
    loop_set_polling(l, &off);
    turns(l, 1000, 10000);
    g_assert_cmpuint(fake.looked, ==, 0);
    loop_free(l);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/loop/spin/grow", test_grow);
    g_test_add_func("/loop/spin/shrink", test_shrink);
    g_test_add_func("/loop/spin/off", test_off);
    g_test_add_func("/loop/spin/in-vain", test_in_vain);
    g_test_add_func("/loop/spin/loop", test_loop);
    return g_test_run();
}
