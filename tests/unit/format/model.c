/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "model.h"
#include <string.h>
#include "util.h"

void model_fill(uint8_t *buf, size_t len, unsigned stamp)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(stamp * 31 + i / 512 + 1);
    }
}

void model_co_step(struct node *n, uint8_t *shadow, uint64_t size, GRand *rand,
                   uint8_t *buf)
{
    uint64_t off = (uint64_t)g_rand_int_range(rand, 0, (gint32)size);
    gint32 max = g_rand_boolean(rand) ? 9000 : 300000;
    uint64_t len = (uint64_t)g_rand_int_range(rand, 1, max);
    unsigned op = (unsigned)g_rand_int_range(rand, 0, 100);

    len = MIN(len, size - off);
    if (g_rand_boolean(rand)) {
        off &= ~UINT64_C(511);
        len = MAX(len & ~UINT64_C(511), 1);
    }
    if (op < 47) {
        model_fill(buf, len, g_rand_int(rand));
        g_assert_cmpint(do_write(n, off, buf, len, op < 5 ? IO_FUA : 0), ==, 0);
        memcpy(shadow + off, buf, len);
    } else if (op < 60) {
        g_assert_cmpint(node_co_zero(n, off, len, op < 53 ? IO_MAY_UNMAP : 0),
                        ==, 0);
        memset(shadow + off, 0, len);
    } else if (op < 67) {
        /* A discard leaves old bytes or zeroes; take what it left. */
        g_assert_cmpint(node_co_discard(n, off, len), ==, 0);
        g_assert_cmpint(do_read(n, off, buf, len), ==, 0);
        for (uint64_t i = 0; i < len; i++) {
            g_assert_true(buf[i] == 0 || buf[i] == shadow[off + i]);
        }
        memcpy(shadow + off, buf, len);
    } else if (op < 74) {
        g_assert_cmpint(node_co_flush(n), ==, 0);
    } else {
        g_assert_cmpint(do_read(n, off, buf, len), ==, 0);
        g_assert_cmpmem(buf, len, shadow + off, len);
    }
}

void model_co_compare(struct node *n, const uint8_t *shadow, uint64_t size,
                      uint8_t *buf)
{
    g_assert_cmpint(do_read(n, 0, buf, size), ==, 0);
    g_assert_true(memcmp(buf, shadow, size) == 0);
}
