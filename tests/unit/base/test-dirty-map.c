/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dirty map against an array of bytes, and its bounds. */
#include <glib.h>
#include <string.h>
#include "base/dirty-map.h"
#include "base/err.h"

#define GRAIN 512u
#define TIB (UINT64_C(1) << 40)

static void check_runs(const struct dirty_map *m, const uint8_t *want,
                       uint64_t size)
{
    uint64_t off = 0, len, bytes = 0;

    while (off < size) {
        bool dirty = dirty_map_run(m, off, size - off, &len);

        g_assert_cmpuint(len, >, 0);
        for (uint64_t i = off; i < off + len; i++) {
            g_assert_cmpuint(want[i], ==, dirty);
        }
        g_assert_true(off + len == size || want[off + len] != dirty);
        bytes += dirty ? len : 0;
        off += len;
    }
    g_assert_cmpuint(dirty_map_bytes(m), ==, bytes);
}

static void model_set(uint8_t *want, uint64_t size, uint64_t off, uint64_t len)
{
    uint64_t from = off - off % GRAIN;
    uint64_t end = (off + len + GRAIN - 1) / GRAIN * GRAIN;

    memset(want + from, 1, MIN(end, size) - from);
}

static void model_clear(uint8_t *want, uint64_t size, uint64_t off,
                        uint64_t len)
{
    uint64_t from = (off + GRAIN - 1) / GRAIN * GRAIN;
    uint64_t end = off + len == size ? size : (off + len) / GRAIN * GRAIN;

    if (from < end) {
        memset(want + from, 0, end - from);
    }
}

/* Anywhere, of any length: only whole granules become clean (L2). */
static void test_random(void)
{
    const uint64_t size = 200 * GRAIN + 77;
    g_autofree uint8_t *want = g_malloc0(size);
    struct dirty_map *m = dirty_map_new(size, GRAIN, NULL);

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t off = (uint64_t)g_test_rand_int_range(0, (gint32)size);
        uint64_t len = (uint64_t)g_test_rand_int_range(1, (gint32)(size - off) +
                                                              1);

        if (g_test_rand_int() % 2) {
            len = MIN(len, 3 * GRAIN);
            dirty_map_set(m, off, len);
            model_set(want, size, off, len);
        } else {
            dirty_map_clear(m, off, len);
            model_clear(want, size, off, len);
        }
        check_runs(m, want, size);
    }
    dirty_map_free(m);
}

/* Runs over pages that are not there. */
static void test_large(void)
{
    struct dirty_map *m = dirty_map_new(16 * TIB, 0, NULL);
    uint64_t len;

    g_assert_cmpuint(dirty_map_granularity(m), ==, 65536);
    dirty_map_set(m, 7 * TIB + 1, 1);
    g_assert_false(dirty_map_run(m, 0, 16 * TIB, &len));
    g_assert_cmpuint(len, ==, 7 * TIB);
    g_assert_true(dirty_map_run(m, 7 * TIB, 9 * TIB, &len));
    g_assert_cmpuint(len, ==, 65536);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 65536);
    dirty_map_clear(m, 0, 16 * TIB);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 0);
    dirty_map_free(m);
}

static void test_bounds(void)
{
    struct dirty_map *m = dirty_map_new(64 * TIB, 0, NULL);
    g_autoptr(GError) err = NULL;

    g_assert_cmpuint(dirty_map_granularity(m), ==, 262144);
    dirty_map_free(m);
    g_assert_null(dirty_map_new(16 * TIB, 32768, &err));
    g_assert_nonnull(strstr(err->message, "A granularity of 32768 takes more"));
    m = dirty_map_new(0, 0, NULL);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 0);
    dirty_map_free(m);
}

/* Another size, and another granularity. */
static void test_resize_and_merge(void)
{
    struct dirty_map *m = dirty_map_new(100 * GRAIN, GRAIN, NULL), *to, *copy;
    uint64_t off, len;

    dirty_map_set(m, 90 * GRAIN, 10 * GRAIN);
    dirty_map_resize(m, 95 * GRAIN + 1);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 5 * GRAIN + 1);
    dirty_map_resize(m, (UINT64_C(1) << 20) * GRAIN);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 6 * GRAIN);
    g_assert_true(dirty_map_next(m, 0, &off, &len));
    g_assert_cmpuint(off, ==, 90 * GRAIN);
    g_assert_cmpuint(len, ==, 6 * GRAIN);
    g_assert_false(dirty_map_next(m, 96 * GRAIN, &off, &len));
    copy = dirty_map_copy(m);
    to = dirty_map_new_within((UINT64_C(1) << 20) * GRAIN, 64 * GRAIN,
                              UINT64_C(1) << 20, NULL);
    dirty_map_merge(to, m);
    g_assert_cmpuint(dirty_map_bytes(to), ==, 64 * GRAIN);
    dirty_map_resize(m, 0);
    g_assert_cmpuint(dirty_map_bytes(m), ==, 0);
    g_assert_cmpuint(dirty_map_bytes(copy), ==, 6 * GRAIN);
    dirty_map_free(to);
    dirty_map_free(copy);
    dirty_map_free(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dirty/random", test_random);
    g_test_add_func("/dirty/large", test_large);
    g_test_add_func("/dirty/bounds", test_bounds);
    g_test_add_func("/dirty/resize-and-merge", test_resize_and_merge);
    return g_test_run();
}
