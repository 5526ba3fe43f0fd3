/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "snapshot-access": shows what a disk was when the filter "copy-before-write"
 * that is its "file" was opened.
 *
 * It is no filter: its bytes are not those of its file.  A discard says that its
 * reader does not need them any more.
 */
#include <errno.h>
#include "base/err.h"
#include "filter/filter.h"
#include "graph/before.h"
#include "graph/driver.h"
#include "graph/io.h"

static const char *const access_option_names[] = { "file", NULL };

static CO_FN int access_co_open(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    int ret = node_co_open_child_as(n, o, "file", 0, PERM_ALL, err);

    if (ret == 0) {
        n->size = node_file(n)->size;
    }
    return ret;
}

static struct before *access_before(const struct node *n)
{
    return node_before(node_file(n));
}

static CO_FN int access_co_map(struct node *n, uint64_t off, uint64_t len,
                               unsigned flags, struct mapping *ret_map)
{
    struct before *b = access_before(n);
    struct extent ext;
    int ret = b ? before_co_status(b, off, len, &ext) : -ENOTSUP;

    if (ret == 0) {
        ret_map->kind = ext.flags & STATUS_ZERO ? MAP_ZERO : MAP_DATA;
        ret_map->len = ext.len;
    }
    return ret;
}

static CO_FN int access_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                  unsigned flags)
{
    struct before *b = access_before(n);

    return b ? before_co_read(b, off, iov, flags) : -ENOTSUP;
}

static CO_FN int access_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                   unsigned flags)
{
    return -ENOTSUP;
}

static CO_FN int access_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct before *b = access_before(n);

    return b ? before_co_discard(b, off, len) : -ENOTSUP;
}

const struct node_driver snapshot_access_driver = {
    .name = "snapshot-access",
    .kind = NODE_FORMAT,
    .option_names = access_option_names,
    .co_open = access_co_open,
    .co_map = access_co_map,
    .co_preadv = access_co_preadv,
    .co_pwritev = access_co_pwritev,
    .co_discard = access_co_discard,
};
