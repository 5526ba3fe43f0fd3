/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generations of changes that wait: their order, merging, dropping, the walk. */
#include "format/alloc/pending.h"

static void put(struct pending *p, uint64_t gen, uint64_t idx, uint64_t value)
{
    g_tree_replace(pending_of(p, gen, NULL)->map, GSIZE_TO_POINTER(idx),
                   GSIZE_TO_POINTER(value));
}

static uint64_t get(const struct pending_gen *g, uint64_t idx)
{
    return GPOINTER_TO_SIZE(g_tree_lookup(g->map, GSIZE_TO_POINTER(idx)));
}

static gboolean older(gpointer key, gpointer value, gpointer map)
{
    if (!g_tree_lookup(map, key)) {
        g_tree_insert(map, key, value);
    }
    return FALSE;
}

/* Generations stand in order of age, whichever was first to get an entry. */
static void test_order(void)
{
    struct pending p = { 0 };

    put(&p, 7, 1, 70);
    put(&p, 5, 1, 50);
    put(&p, 6, 2, 60);
    g_assert_cmpuint(p.n, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(p.gens[i].gen, ==, 5 + i);
    }
    g_assert_cmpuint(pending_count(&p), ==, 3);
    put(&p, 6, 2, 61);
    g_assert_cmpuint(pending_count(&p), ==, 3);
    pending_drop(&p, 5);
    g_assert_cmpuint(p.gens[0].gen, ==, 6);
    pending_drop(&p, UINT64_MAX);
    g_assert_cmpuint(pending_count(&p), ==, 0);
}

/* What is merged goes into the newest of them; younger ones stay apart. */
static void test_merge(void)
{
    struct pending p = { 0 };
    struct pending_gen *g;

    g_assert_null(pending_merge(&p, 9, older));
    put(&p, 1, 10, 100);
    put(&p, 1, 11, 101);
    put(&p, 2, 10, 200);
    put(&p, 3, 10, 300);
    pending_of(&p, 1, NULL)->end = 5;
    pending_of(&p, 2, NULL)->end = 4;
    g_assert_null(pending_merge(&p, 0, older));
    g = pending_merge(&p, 2, older);
    g_assert_cmpuint(g->gen, ==, 2);
    g_assert_cmpuint(g->end, ==, 5);
    g_assert_cmpuint(get(g, 10), ==, 200);
    g_assert_cmpuint(get(g, 11), ==, 101);
    g_assert_cmpuint(p.n, ==, 2);
    g_assert_cmpuint(get(&p.gens[1], 10), ==, 300);
    pending_drop(&p, 2);
    g_assert_cmpuint(pending_count(&p), ==, 1);
    pending_drop(&p, UINT64_MAX);
}

static void test_values_are_freed(void)
{
    struct pending p = { 0 };

    g_tree_insert(pending_of(&p, 1, g_free)->map, GSIZE_TO_POINTER(1),
                  g_malloc(8));
    pending_drop(&p, 1); /* a sanitizer tells of a leak */
    g_assert_cmpuint(p.n, ==, 0);
}

static void test_walk(void)
{
    struct pending p = { 0 };
    struct pending_walk w;

    put(&p, 1, 3, 30);
    put(&p, 2, 3, 31);
    put(&p, 2, UINT64_C(1) << 40, 32);
    pending_walk_init(&w, &p, 1);
    g_assert_cmpuint(pending_walk_to(&w, 1), ==, 3);
    g_assert_cmpuint(pending_walk_to(&w, 3), ==, 3);
    g_assert_cmpuint(GPOINTER_TO_SIZE(pending_walk_value(&w, 0, 3)), ==, 30);
    g_assert_cmpuint(GPOINTER_TO_SIZE(pending_walk_value(&w, 1, 3)), ==, 31);
    g_assert_cmpuint(pending_walk_to(&w, 4), ==, UINT64_C(1) << 40);
    g_assert_null(pending_walk_value(&w, 1, 4));
    g_assert_cmpuint(pending_walk_to(&w, (UINT64_C(1) << 40) + 1), ==,
                     UINT64_MAX);
    pending_drop(&p, UINT64_MAX);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pending/order", test_order);
    g_test_add_func("/pending/merge", test_merge);
    g_test_add_func("/pending/values-are-freed", test_values_are_freed);
    g_test_add_func("/pending/walk", test_walk);
    return g_test_run();
}
