/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is kept of a server's map, against a model: one entry a byte. */
#include <string.h>

#include "storage/extents.h"

#define SPACE 400
enum { UNKNOWN, DATA, ZERO };

static void compare(const struct extents *x, const uint8_t *model)
{
    for (unsigned i = 0; i < SPACE; i++) {
        const struct extents_run *r = extents_find(x, i);
        unsigned got = !r ? UNKNOWN : r->zero ? ZERO : DATA;
        g_assert_cmpuint(got, ==, model[i]);
    }
    const struct extents_run *runs = (const void *)x->runs->data;
    for (guint i = 0; i < x->runs->len; i++) {
        g_assert_cmpuint(runs[i].start, <, runs[i].end);
        if (i > 0) {
            g_assert_cmpuint(runs[i - 1].end, <=, runs[i].start);
        }
    }
}

static void test_model(void)
{
    for (unsigned round = 0; round < 200; round++) {
        struct extents x;
        uint8_t model[SPACE] = {};

        extents_init(&x);
        for (unsigned step = 0; step < 60; step++) {
            unsigned off = (unsigned)g_test_rand_int_range(0, SPACE);
            unsigned len = (unsigned)g_test_rand_int_range(
                0, (gint32)MIN(SPACE - off + 1, 1u << (step % 8 + 1)));
            uint64_t generation = x.generation;
            if (g_test_rand_bit()) {
                bool zero = g_test_rand_bit();
                extents_set(&x, off, off + len, zero);
                memset(model + off, zero ? ZERO : DATA, len);
            } else {
                extents_wrote(&x, off, len);
                g_assert_cmpuint(x.generation, >, generation);
                for (unsigned i = off; i < off + len; i++) {
                    model[i] = model[i] == UNKNOWN ? UNKNOWN : DATA;
                }
            }
            compare(&x, model);
        }
        extents_clear(&x);
    }
}

/* Memory stays bounded, whatever a server says. */
static void test_bound(void)
{
    struct extents x;

    extents_init(&x);
    for (uint64_t i = 0; i < 1000 * 1000; i++) {
        extents_set(&x, i * 512, i * 512 + 512, i % 2);
        g_assert_cmpuint(x.runs->len, <=, 256u * 1024 + 2);
    }
    g_assert_nonnull(extents_find(&x, 999999 * 512));
    extents_clear(&x);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/storage/nbd-extents/model", test_model);
    g_test_add_func("/storage/nbd-extents/bound", test_bound);
    return g_test_run();
}
