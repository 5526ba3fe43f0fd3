/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory budget: shares, what is in flight, and cleaning. */
#include "base/memory-budget.h"

#define MIB (UINT64_C(1) << 20)

struct holder {
    struct memory_member m;
    uint64_t held;
    unsigned cleaned;
};

static void holder_shrink(void *arg, uint64_t share)
{
    struct holder *h = arg;

    h->held = MIN(h->held, share);
}

static void holder_clean(void *arg)
{
    struct holder *h = arg;

    h->cleaned++;
    memory_leave(&h->m);
}

static struct holder holder_new(enum memory_kind kind)
{
    return (struct holder) {
        .m = { .kind = kind, .shrink = holder_shrink },
        .held = UINT64_MAX,
    };
}

static void join(struct memory_budget *b, struct holder *h)
{
    h->m.arg = h;
    memory_join(b, &h->m);
}

/* Whoever comes makes the shares of the others smaller, of its kind alone. */
static void test_shares(void)
{
    struct memory_budget *b = memory_budget_new(256 * MIB);
    struct holder copies[4], cache = holder_new(MEMORY_CACHE);

    join(b, &cache);
    for (unsigned i = 0; i < 4; i++) {
        copies[i] = holder_new(MEMORY_COPY);
        g_assert_cmpuint(memory_share(&copies[i].m), ==, UINT64_MAX);
        join(b, &copies[i]);
        join(b, &copies[i]); /* is in it already */
        g_assert_cmpuint(memory_share(&copies[0].m), ==, 128 * MIB / (i + 1));
        g_assert_cmpuint(copies[0].held, ==, 128 * MIB / (i + 1));
    }
    g_assert_cmpuint(cache.held, ==, 64 * MIB);
    memory_leave(&copies[3].m);
    memory_leave(&copies[3].m);
    g_assert_cmpuint(memory_share(&copies[0].m), ==, 128 * MIB / 3);
    memory_budget_set_total(b, 1); /* less than the least */
    g_assert_cmpuint(copies[0].held, ==, MEMORY_MIN / 2 / 3);
    for (unsigned i = 0; i < 3; i++) {
        memory_leave(&copies[i].m);
    }
    memory_leave(&cache.m);
    memory_budget_free(b);
}

/* What the first took when it was alone comes back before others take theirs,
 * but each may take one piece. */
static void test_in_flight(void)
{
    struct memory_budget *b = memory_budget_new(256 * MIB);
    struct holder first = holder_new(MEMORY_COPY), next = first;

    join(b, &first);
    g_assert_true(memory_has_room(&first.m, 200 * MIB)); /* it holds nothing */
    memory_take(&first.m, 100 * MIB);
    g_assert_true(memory_has_room(&first.m, 28 * MIB));
    g_assert_false(memory_has_room(&first.m, 28 * MIB + 1));
    join(b, &next);
    g_assert_false(memory_has_room(&first.m, 1));
    g_assert_true(memory_has_room(&next.m, MIB));
    memory_take(&next.m, 20 * MIB);
    g_assert_true(memory_has_room(&next.m, 8 * MIB));
    g_assert_false(memory_has_room(&next.m, 9 * MIB)); /* of the sum */
    memory_give(&first.m, 40 * MIB);
    g_assert_true(memory_has_room(&next.m, 44 * MIB));
    g_assert_false(memory_has_room(&next.m, 45 * MIB)); /* of its share */
    memory_give(&first.m, 60 * MIB);
    memory_give(&next.m, 20 * MIB);
    memory_leave(&first.m);
    memory_leave(&next.m);
    memory_budget_free(b);
}

static void note_timer(void *arg, unsigned seconds)
{
    *(unsigned *)arg = seconds;
}

/* Each after its own time; the timer goes off for the first of them, and not
 * any more when nobody is there. */
static void test_cleaning(void)
{
    struct memory_budget *b = memory_budget_new(256 * MIB);
    struct holder slow = holder_new(MEMORY_CACHE), fast = slow, never = slow;
    unsigned timer = 0;

    memory_budget_set_timer(b, note_timer, &timer);
    slow.m.clean = fast.m.clean = never.m.clean = holder_clean;
    slow.m.idle_s = 25;
    fast.m.idle_s = 10;
    join(b, &never);
    g_assert_cmpuint(timer, ==, 0);
    join(b, &slow);
    g_assert_cmpuint(timer, ==, 25);
    join(b, &fast);
    g_assert_cmpuint(timer, ==, 10);
    memory_budget_clean(b, 10);
    g_assert_cmpuint(fast.cleaned, ==, 1);
    g_assert_cmpuint(slow.cleaned, ==, 0);
    g_assert_cmpuint(timer, ==, 15);
    memory_budget_clean(b, 15);
    g_assert_cmpuint(slow.cleaned, ==, 1);
    g_assert_cmpuint(fast.cleaned + never.cleaned, ==, 1);
    g_assert_null(slow.m.budget);
    timer = 0;
    join(b, &fast);
    g_assert_cmpuint(timer, ==, 10);
    memory_leave(&fast.m);
    memory_leave(&never.m);
    memory_budget_free(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory-budget/shares", test_shares);
    g_test_add_func("/memory-budget/in-flight", test_in_flight);
    g_test_add_func("/memory-budget/cleaning", test_cleaning);
    return g_test_run();
}
