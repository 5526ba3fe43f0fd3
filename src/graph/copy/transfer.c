/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/transfer.h"
#include <errno.h>
#include "base/iov.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/io.h"
#include "loop/loop.h"

/* What one buffer holds at most. */
#define PIECE (UINT64_C(1) << 20)

/* As much as can be shared from @off on. An offload that cannot be had is no
 * error: the bytes go through memory, which tells what is wrong. */
static CO_FN uint64_t transfer_co_share(const struct transfer *t, uint64_t off,
                                        uint64_t len)
{
    uint64_t total = 0, done = 0;

    do {
        if (node_co_copy_range(t->src, off + total, t->dst, off + total,
                               len - total, &done) < 0) {
            done = 0;
        }
        total += done;
    } while (done > 0 && total < len);
    return total;
}

static CO_FN int transfer_co_through_memory(const struct transfer *t,
                                            uint64_t off, uint64_t len,
                                            struct copy_result *res)
{
    unsigned flags = t->urgent ? 0 : IO_BACKGROUND;
    uint64_t size = MIN(len, PIECE), begun, read;
    struct loop *loop = loop_current();
    void *buf = io_buf_get(size);
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t end = off + len, n; off < end && ret == 0; off += n) {
        struct iovec v;

        n = MIN(size, end - off);
        begun = loop_clock_ns(loop);
        ret = node_co_preadv(t->src, off, iov_one(&v, buf, n), flags);
        read = loop_clock_ns(loop);
        res->read_ns += read - begun;
        res->is_read = ret < 0;
        if (ret == 0) {
            ret = node_co_pwritev(t->dst, off, iov_one(&v, buf, n),
                                  flags | t->write_flags);
        }
        res->write_ns += loop_clock_ns(loop) - read;
        res->copied += ret == 0 ? n : 0;
    }
    io_buf_put(buf, size);
    return ret;
}

CO_FN int transfer_co_copy(const struct transfer *t, uint64_t off, uint64_t len,
                           bool zero, struct copy_result *res)
{
    uint64_t shared;

    if (zero) {
        return node_co_zero(t->dst, off, len, t->zero_flags);
    }
    shared = t->write_flags & IO_COMPRESSED ? 0
                                            : transfer_co_share(t, off, len);
    res->copied = res->shared = shared;
    return shared < len
               ? transfer_co_through_memory(t, off + shared, len - shared, res)
               : 0;
}
