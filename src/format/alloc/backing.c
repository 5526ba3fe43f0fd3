/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/alloc/backing.h"
#include "base/math.h"
#include "graph/io.h"
#include "graph/node.h"

int format_co_read_backing(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags)
{
    struct edge *e = node_child(n, "backing");
    struct node *below = e ? edge_child(e) : NULL;
    uint64_t have = 0;

    if (below && off < node_size(below)) {
        have = min_u64(iov.len, node_size(below) - off);
    }
    if (have < iov.len) {
        iov_memset(iov, have, 0, iov.len - have);
    }
    return have ? node_co_preadv(below, off, iov_slice(iov, 0, have), flags)
                : 0;
}
