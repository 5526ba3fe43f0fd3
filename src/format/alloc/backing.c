/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/alloc/backing.h"
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "graph/driver.h"
#include "graph/io.h"

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

int format_co_read_backing_name(struct node *n, uint64_t off, uint32_t len,
                                char **ret_name, GError **err)
{
    g_autofree char *name = NULL;
    struct iovec v;
    int ret;

    if (len == 0) {
        *ret_name = NULL;
        return 0;
    }
    name = g_malloc0(len + 1);
    ret = node_co_preadv(node_file(n), off, iov_one(&v, name, len), 0);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the backing file name");
    }
    if (strlen(name) != len) {
        return node_corrupt(n, err, off,
                            "the backing file name of %u bytes holds a NUL "
                            "byte",
                            len);
    }
    *ret_name = g_steal_pointer(&name);
    return 0;
}
