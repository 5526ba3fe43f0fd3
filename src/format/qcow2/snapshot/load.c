/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading from a snapshot: a read-only node takes the snapshot's L1 table and
 * size instead of its own.  Nothing is written; the node stays like that.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "loop/io.h"

int qcow2_co_snapshot_l1(struct qcow2_image *img,
                         const struct qcow2_snapshot *s, uint64_t size,
                         uint64_t **ret_l1, size_t *ret_bytes, GError **err)
{
    size_t used = (size_t)s->l1_size * 8;
    size_t bytes = MAX(round_up(used, QCOW2_SECTOR), QCOW2_SECTOR);
    struct iovec v;
    int ret;

    if (qcow2_l1_entries(size, img->cluster_bits, img->shape.extended) >
        s->l1_size) {
        return node_corrupt(img->node, err, s->l1_offset,
                            "Snapshot '%s' has "
                            "%" PRIu32 " L1 entries, too few for its disk of "
                            "%" PRIu64 " bytes",
                            s->name, s->l1_size, size);
    }
    *ret_l1 = io_buf_get(bytes);
    if (!*ret_l1) {
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the L1 "
                       "table of snapshot '%s'",
                       bytes, s->name);
    }
    *ret_bytes = bytes;
    memset(*ret_l1, 0, bytes);
    ret = used ? node_co_preadv(qcow2_file(img), s->l1_offset,
                                iov_one(&v, *ret_l1, used), 0)
               : 0;
    if (ret < 0) {
        io_buf_put(*ret_l1, bytes);
        err_set_errno(err, -ret,
                      "Could not read the L1 table of snapshot "
                      "'%s'",
                      s->name);
    }
    return ret;
}

int qcow2_co_snapshot_load(struct node *n, const char *name, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    const struct qcow2_snapshot *s = qcow2_snapshot_find(img, name);
    uint64_t size, *l1 = NULL;
    size_t bytes = 0;
    int ret;

    if (!s) {
        return err_set(err, ENOENT, "Can't find snapshot");
    }
    if (node_is_writable(n)) {
        return err_set(err, EINVAL, "Device is not readonly");
    }
    size = s->disk_size ? s->disk_size : n->size;
    ret = qcow2_co_snapshot_l1(img, s, size, &l1, &bytes, err);
    if (ret != 0) {
        return ret;
    }
    metadata_cache_clear(&img->slices);
    io_buf_put(img->l1, img->l1_bytes);
    img->l1 = l1;
    img->l1_bytes = bytes;
    img->hdr.l1_size = s->l1_size;
    img->hdr.size = size;
    n->size = size;
    return 0;
}
