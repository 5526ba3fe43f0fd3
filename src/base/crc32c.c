/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A byte at a time by a table: for headers of a few kilobytes that are read
 * once and written seldom, which is no work for special instructions.
 */
#include "base/crc32c.h"
#include <glib.h>

#define POLYNOMIAL UINT32_C(0x82f63b78)

static const uint32_t *crc32c_table_get(void)
{
    static uint32_t table[256];
    static gsize known;

    if (g_once_init_enter(&known)) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t v = i;

            for (unsigned bit = 0; bit < 8; bit++) {
                v = v & 1 ? v >> 1 ^ POLYNOMIAL : v >> 1;
            }
            table[i] = v;
        }
        g_once_init_leave(&known, 1);
    }
    return table;
}

uint32_t crc32c(const void *buf, size_t len)
{
    const uint32_t *table = crc32c_table_get();
    const uint8_t *p = buf;
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < len; i++) {
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
    }
    return ~crc;
}
