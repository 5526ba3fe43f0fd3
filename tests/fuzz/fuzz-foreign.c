/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file that may be an image of a format without a driver: no byte outside of
 * what was read is looked at, and what is found has names. */
#include "fuzz.h"
#include "graph/foreign.h"

enum { HEAD = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    size_t head = MIN(len, HEAD), tail = MIN(len, FOREIGN_TAIL);
    g_autofree uint8_t *h = g_memdup2(data, head);
    g_autofree uint8_t *t = g_memdup2(data + len - tail, tail);
    struct foreign f;

    if (foreign_find(h, head, t, tail, len, &f)) {
        g_assert_nonnull(f.title);
        g_assert_nonnull(f.driver);
        g_assert_cmpuint(f.disk_size, <, len);
    }
    return 0;
}
