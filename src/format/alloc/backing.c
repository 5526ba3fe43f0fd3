/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/alloc/backing.h"
#include "base/math.h"
#include "graph/io.h"
#include "graph/node.h"

int format_co_read_backing(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags)
{
    struct edge *e = node_child(n, "backing");
    uint64_t have = 0;

    if (e && off < e->child->size) {
        have = min_u64(iov.len, e->child->size - off);
    }
    if (have < iov.len) {
        iov_memset(iov, have, 0, iov.len - have);
    }
    return have ? node_co_preadv(e->child, off, iov_slice(iov, 0, have), flags)
                : 0;
}
