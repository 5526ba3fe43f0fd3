/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads: each run from where it is. */
#include "base/math.h"
#include "format/qcow2/qcow2.h"

/* What no cluster holds: the backing file's bytes, zeroes past its end. */
static CO_FN int absent_co_read(struct node *n, uint64_t off, struct iov iov,
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

int qcow2_co_read_data(struct qcow2_image *img, uint64_t off, uint64_t host,
                       struct iov iov, unsigned flags)
{
    node_co_debug_event(qcow2_file(img), DEBUG_READ_AIO);
    return img->crypt ? qcow2_co_crypt_read(img, off, host, iov, flags)
                      : node_co_preadv(qcow2_data(img), host, iov, flags);
}

int qcow2_co_read_run(struct qcow2_image *img, const struct qcow2_run *run,
                      uint64_t off, struct iov iov, unsigned flags)
{
    switch (run->kind) {
    case QCOW2_DATA:
        return qcow2_co_read_data(img, off, run->host, iov, flags);
    case QCOW2_PACKED:
        return qcow2_co_read_packed(img, run, off, iov, flags);
    case QCOW2_ZERO:
        iov_memset(iov, 0, 0, iov.len);
        return 0;
    default:
        return absent_co_read(img->node, off, iov, flags);
    }
}

int qcow2_co_preadv(struct node *n, uint64_t off, struct iov iov,
                    unsigned flags)
{
    struct qcow2_image *img = qcow2_image(n);
    size_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        struct qcow2_run run;

        ret = qcow2_co_lookup(img, off + done, iov.len - done, &run);
        if (ret == 0) {
            ret = qcow2_co_read_run(img, &run, off + done,
                                    iov_slice(iov, done, run.len), flags);
            done += run.len;
        }
    }
    return ret;
}
