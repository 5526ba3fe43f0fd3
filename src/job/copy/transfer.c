/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/copy/transfer.h"
#include <errno.h>
#include "base/iov.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/io.h"
#include "loop/loop.h"

/* What one buffer holds at most. */
#define PIECE (UINT64_C(1) << 20)

/* As much as can be shared from @off on. An offload that cannot be had is no
 * error: the bytes go through memory, which tells what is wrong.  Only the
 * source is entered, whose chain must not change: to wait for the one with the
 * other held could wait for a drain that waits for us. */
static CO_FN uint64_t transfer_co_share(struct transfer *t, uint64_t off,
                                        uint64_t len)
{
    uint64_t total = 0, done = 0;

    do {
        backend_co_enter(t->src);
        if (node_co_copy_range(backend_node(t->src), off + total,
                               backend_node(t->dst), off + total, len - total,
                               &done) < 0) {
            done = 0;
        }
        backend_leave(t->src);
        total += done;
    } while (done > 0 && total < len);
    return total;
}

static CO_FN int transfer_co_through_memory(struct transfer *t, uint64_t off,
                                            uint64_t len,
                                            struct copy_result *res)
{
    uint64_t size = MIN(len, PIECE), begun, read;
    struct loop *loop = loop_current();
    void *buf = io_buf_get(size);
    int ret = 0;

    for (uint64_t end = off + len; off < end && ret == 0; off += size) {
        struct iovec v;

        size = MIN(size, end - off);
        begun = loop_clock_ns(loop);
        ret = backend_co_preadv(t->src, off, iov_one(&v, buf, size),
                                IO_BACKGROUND);
        read = loop_clock_ns(loop);
        res->read_ns += read - begun;
        res->is_read = ret < 0;
        if (ret == 0) {
            ret = backend_co_pwritev(t->dst, off, iov_one(&v, buf, size),
                                     IO_BACKGROUND);
        }
        res->write_ns += loop_clock_ns(loop) - read;
        res->copied += ret == 0 ? size : 0;
    }
    io_buf_put(buf, MIN(len, PIECE));
    return ret;
}

CO_FN int transfer_co_copy(struct transfer *t, uint64_t off, uint64_t len,
                           bool zero, struct copy_result *res)
{
    uint64_t shared;

    if (zero) {
        return backend_co_zero(t->dst, off, len, t->zero_flags);
    }
    shared = transfer_co_share(t, off, len);
    res->copied = res->shared = shared;
    return shared < len
               ? transfer_co_through_memory(t, off + shared, len - shared, res)
               : 0;
}

void transfer_let_go(struct transfer *t)
{
    if (t->src) {
        backend_let_go(t->src);
    }
    if (t->dst) {
        backend_let_go(t->dst);
    }
}
