/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * By the processor's own instruction where it has one, gigabytes in a second;
 * else a byte at a time by a table.
 */
#include "base/crc32c.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>

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

static uint32_t crc32c_by_table(uint32_t crc, const uint8_t *p, size_t len)
{
    const uint32_t *table = crc32c_table_get();

    for (size_t i = 0; i < len; i++) {
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
    }
    return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t
crc32c_by_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t wide = crc, word;

    for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; len > 0; p++, len--) {
        crc = __builtin_ia32_crc32qi(crc, *p);
    }
    return crc;
}

static bool crc32c_has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *p,
                                      size_t len)
{
    return crc32c_by_table(crc, p, len);
}

static bool crc32c_has_instruction(void)
{
    return false;
}
#endif

uint32_t crc32c_more(uint32_t crc, const void *buf, size_t len)
{
    return ~(crc32c_has_instruction() ? crc32c_by_instruction(~crc, buf, len)
                                      : crc32c_by_table(~crc, buf, len));
}

uint32_t crc32c(const void *buf, size_t len)
{
    return crc32c_more(0, buf, len);
}
