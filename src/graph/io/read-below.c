/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading what is below an overlay: from there, or from in-flight reads. */
#include "graph/graph-int.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"

/* From below alone. */
static CO_FN int below_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    struct node *below = node_backing(n);
    uint64_t size = below ? below->size : 0;
    uint64_t have = off < size ? MIN(iov.len, size - off) : 0;

    if (have < iov.len) {
        iov_memset(iov, have, 0, iov.len - have);
    }
    if (have == 0) {
        return 0;
    }
    node_co_debug_event(node_file(n), DEBUG_READ_BACKING_AIO);
    return node_co_preadv(below, off, iov_slice(iov, 0, have), flags);
}

int inflight_co_read(struct inflight *f, unsigned flags)
{
    struct iovec store;
    int ret;

    g_assert(!f->ready);
    ret = below_co_preadv(f->node, f->off, iov_one(&store, f->buf, f->len),
                          flags);
    inflight_set_ready(f, ret);
    return ret;
}

int inflight_co_read_below(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags)
{
    size_t done = 0;
    int r = 0;

    while (done < iov.len && r == 0) {
        uint64_t pos = off + done;
        struct inflight *f = inflight_find(n, pos);
        size_t len;

        if (!f) {
            len = MIN(iov.len - done, inflight_next(n, pos) - pos);
            r = below_co_preadv(n, pos, iov_slice(iov, done, len), flags);
        } else {
            inflight_ref(f);
            len = MIN(iov.len - done, f->off + f->len - pos);
            r = inflight_co_wait_ready(f);
            if (r == 0) {
                iov_from_buf(iov, done, f->buf + (pos - f->off), len);
            } else if (!has_given_up(r)) {
                r = below_co_preadv(n, pos, iov_slice(iov, done, len), flags);
            }
            inflight_unref(f);
        }
        done += len;
    }
    return r;
}
