/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Windows onto scattered memory.  A window is normalised: @skip lies inside
 * v[0] unless the window is empty.
 */
#include "base/iov.h"

#include <glib.h>
#include <string.h>

#define MIN_SIZE(a, b) ((a) < (b) ? (a) : (b))

struct iov iov_one(struct iovec *store, void *buf, size_t len)
{
    *store = (struct iovec) { .iov_base = buf, .iov_len = len };
    return (struct iov) { .v = store, .n = 1, .len = len };
}

struct iov iov_slice(struct iov w, size_t off, size_t len)
{
    g_assert(off <= w.len && len <= w.len - off);
    w.skip += off;
    w.len = len;
    while (w.n > 0 && len > 0 && w.skip >= w.v->iov_len) {
        w.skip -= w.v->iov_len;
        w.v++;
        w.n--;
    }
    return w;
}

unsigned iov_export(struct iov w, struct iovec *out, unsigned max,
                    size_t *ret_len)
{
    size_t left = w.len, skip = w.skip;
    unsigned n = 0;

    for (unsigned i = 0; i < w.n && n < max && left > 0; i++) {
        size_t take = MIN_SIZE(w.v[i].iov_len - skip, left);
        if (take > 0) {
            out[n++] = (struct iovec) {
                .iov_base = (char *)w.v[i].iov_base + skip, .iov_len = take
            };
        }
        left -= take;
        skip = 0;
    }
    *ret_len = w.len - left;
    return n;
}

/* Call @fn on each contiguous piece of [@off, @off+@len); stop when false. */
static bool foreach_piece(struct iov w, size_t off, size_t len,
                          bool (*fn)(char *p, size_t done, size_t n, void *arg),
                          void *arg)
{
    size_t done = 0;

    w = iov_slice(w, off, len);
    for (unsigned i = 0; i < w.n && done < len; i++) {
        size_t take = MIN_SIZE(w.v[i].iov_len - w.skip, len - done);
        if (take > 0 &&
            !fn((char *)w.v[i].iov_base + w.skip, done, take, arg)) {
            return false;
        }
        done += take;
        w.skip = 0;
    }
    g_assert(done == len);
    return true;
}

static bool piece_from_buf(char *p, size_t done, size_t n, void *arg)
{
    memcpy(p, (const char *)arg + done, n);
    return true;
}

void iov_from_buf(struct iov w, size_t off, const void *buf, size_t len)
{
    foreach_piece(w, off, len, piece_from_buf, (void *)buf)
        ;
}

static bool piece_to_buf(char *p, size_t done, size_t n, void *arg)
{
    memcpy((char *)arg + done, p, n);
    return true;
}

void iov_to_buf(struct iov w, size_t off, void *buf, size_t len)
{
    foreach_piece(w, off, len, piece_to_buf, buf)
        ;
}

static bool piece_memset(char *p, size_t done, size_t n, void *arg)
{
    memset(p, *(int *)arg, n);
    return true;
}

void iov_memset(struct iov w, size_t off, int c, size_t len)
{
    foreach_piece(w, off, len, piece_memset, &c)
        ;
}

/* Compare the memory with itself shifted: as fast as memcmp is. */
bool buf_is_zero(const void *buf, size_t len)
{
    const unsigned char *p = buf;
    size_t head = MIN_SIZE(len, 16);

    for (size_t i = 0; i < head; i++) {
        if (p[i]) {
            return false;
        }
    }
    return len <= 16 || memcmp(p, p + 16, len - 16) == 0;
}

static bool piece_is_zero(char *p, size_t done, size_t n, void *arg)
{
    return buf_is_zero(p, n);
}

bool iov_is_zero(struct iov w)
{
    return foreach_piece(w, 0, w.len, piece_is_zero, NULL);
}

void *iov_contiguous(struct iov w)
{
    struct iovec one[2];
    size_t len;

    if (w.len == 0) {
        return NULL;
    }
    return iov_export(w, one, 2, &len) == 1 && len == w.len ? one[0].iov_base
                                                            : NULL;
}

bool iov_is_aligned(struct iov iov, uint32_t align)
{
    uintptr_t mask = (uintptr_t)align - 1;
    size_t skip = iov.skip, left = iov.len;

    if (align <= 1) {
        return true;
    }
    for (unsigned i = 0; left > 0; i++) {
        size_t len = MIN(iov.v[i].iov_len - skip, left);

        if ((((uintptr_t)iov.v[i].iov_base + skip) | len) & mask) {
            return false;
        }
        skip = 0;
        left -= len;
    }
    return true;
}
