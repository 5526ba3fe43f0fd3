/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Buffers for direct I/O.  A loop keeps freed ones by size class, up to
 * MAX_POOLED bytes; code outside a loop gets and frees them plainly.
 */
#include <malloc.h>
#include <stdlib.h>
#include "loop/loop-priv.h"

#define ALIGNMENT ((size_t)4096)
#define LARGEST (ALIGNMENT << (IO_BUF_CLASSES - 1))
/* Less than this is not worth the search for pages that are free. */
#define WORTH_TRIMMING ((size_t)1 << 20)
#define MAX_POOLED ((size_t)32 << 20)

/* Smallest class that holds @len <= LARGEST bytes. */
static unsigned class_of(size_t len)
{
    unsigned c = 0;

    while (ALIGNMENT << c < len) {
        c++;
    }
    return c;
}

void *io_buf_get(size_t len)
{
    struct loop *l = loop_current();
    unsigned c = class_of(MIN(len, LARGEST));
    void *buf;

    if (len > LARGEST) {
        return posix_memalign(&buf, ALIGNMENT, len) ? NULL : buf;
    }
    if (l && l->bufs.free[c]) {
        buf = l->bufs.free[c];
        l->bufs.free[c] = *(void **)buf;
        l->bufs.bytes -= ALIGNMENT << c;
        return buf;
    }
    if (posix_memalign(&buf, ALIGNMENT, ALIGNMENT << c)) {
        g_error("Cannot allocate a buffer of %zu bytes", len);
    }
    return buf;
}

void io_buf_put(void *buf, size_t len)
{
    struct loop *l = loop_current();
    unsigned c = class_of(MIN(len, LARGEST));

    if (!buf) {
        return;
    }
    if (!l || len > LARGEST || l->bufs.bytes + (ALIGNMENT << c) > MAX_POOLED) {
        free(buf);
        return;
    }
    *(void **)buf = l->bufs.free[c];
    l->bufs.free[c] = buf;
    l->bufs.bytes += ALIGNMENT << c;
}

void io_buf_pool_done(struct io_buf_pool *p)
{
    for (unsigned c = 0; c < IO_BUF_CLASSES; c++) {
        while (p->free[c]) {
            void *buf = p->free[c];

            p->free[c] = *(void **)buf;
            free(buf);
        }
    }
}

void io_buf_trim(void)
{
    struct loop *l = loop_current();

    if (l && l->bufs.bytes >= WORTH_TRIMMING) {
        io_buf_pool_done(&l->bufs);
        l->bufs.bytes = 0;
#ifdef __GLIBC__
        malloc_trim(0);
#endif
    }
}
