/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extended table entries: a cluster is allocated, its 32 subclusters get their
 * data one by one.  A small write into an overlay copies nothing from the base.
 *
 * Two writes may be the first into different subclusters of one cluster at
 * once: the first allocates the host cluster, the others wait for that (not for
 * its data) and use it, too.  Each enters its own change; these commute.
 */
#include <errno.h>
#include "base/math.h"
#include "format/qcow2/data/write.h"

/* The host cluster: that of the table entry, or that of a write in flight to
 * the same cluster, or a new one. The lock is shared. */
static CO_FN int host_co_get(struct qcow2_image *img,
                             struct qcow2_cluster_lock *c, uint64_t gen,
                             struct qcow2_desc d, uint64_t *ret_host)
{
    bool fresh;
    int ret;

    while (c->placing) {
        co_queue_co_wait(&c->waiters);
    }
    if (c->host) {
        *ret_host = c->host;
        return 0;
    }
    if (qcow2_desc_has_host(&img->shape, d)) {
        *ret_host = d.entry & QCOW2_OFFSET_MASK;
        return 0;
    }
    c->placing = true;
    ret = qcow2_co_host_alloc(img, gen, c->idx << img->cluster_bits,
                              qcow2_cluster_size(img), ret_host, &fresh);
    c->placing = false;
    co_queue_wake_all(&c->waiters);
    if (ret == 0) {
        c->host = *ret_host;
    }
    return ret;
}

/* @iov lies in one cluster. The lock is shared, @d was looked up under it. */
static CO_FN int sub_co_write(struct qcow2_image *img,
                              struct qcow2_cluster_lock *c, struct qcow2_desc d,
                              uint64_t off, struct iov iov)
{
    uint64_t at = off & (qcow2_cluster_size(img) - 1), host;
    uint64_t gen = group_join(img->group, iov.len);
    int ret = host_co_get(img, c, gen, d, &host);

    if (ret == 0) {
        ret = qcow2_co_write_padded(img, off, host + at, iov, true,
                                    img->sub_bits);
    }
    if (ret == 0) {
        struct qcow2_delta delta = {
            .entry = host | QCOW2_COPIED,
            .data = qcow2_sub_mask(img, off, iov.len),
        };
        qcow2_pending_add(img, gen, c->idx, &delta);
        c->linked = true;
    }
    group_data_done(img->group, gen);
    return ret;
}

/* Free a host cluster that none of the writes needed in the end. */
static void cluster_lock_end(struct qcow2_image *img,
                             struct qcow2_cluster_lock *c)
{
    if (c->shared == 1 && c->host && !c->linked) {
        qcow2_host_free(img, 0, c->host, qcow2_cluster_size(img));
        c->host = 0;
    }
    qcow2_cluster_lock_put(img, c);
}

static CO_FN int cluster_co_write(struct qcow2_image *img, uint64_t off,
                                  struct iov iov)
{
    uint64_t idx = off >> img->cluster_bits;
    struct qcow2_cluster_lock *c = qcow2_cluster_lock_co_get(img, idx, false);
    struct qcow2_desc d;
    int ret = qcow2_co_desc(img, idx, &d);

    if (ret == 0 &&
        ((d.entry & QCOW2_COMPRESSED) ||
         (qcow2_desc_has_host(&img->shape, d) && !(d.entry & QCOW2_COPIED)))) {
        cluster_lock_end(img, c);
        return qcow2_co_write_copy(img, off, iov);
    }
    if (ret == 0) {
        ret = sub_co_write(img, c, d, off, iov);
    }
    cluster_lock_end(img, c);
    return ret;
}

/* How many whole clusters from @off on, at most @max, have no host cluster and
 * no write in flight that allocates one. */
static CO_FN int free_co_count(struct qcow2_image *img, uint64_t off,
                               uint64_t max, uint64_t *ret_n)
{
    uint64_t idx = off >> img->cluster_bits;
    struct qcow2_desc d;
    int ret = 0;

    for (*ret_n = 0; *ret_n < max; ++*ret_n) {
        ret = qcow2_co_desc(img, idx + *ret_n, &d);
        if (ret < 0 || (d.entry & QCOW2_COMPRESSED) ||
            qcow2_desc_has_host(&img->shape, d) ||
            qcow2_cluster_lock_find(img, idx + *ret_n)) {
            break;
        }
    }
    return ret;
}

int qcow2_co_write_extended(struct qcow2_image *img, uint64_t off,
                            struct iov iov, size_t *ret_done)
{
    uint64_t cluster = qcow2_cluster_size(img);
    uint64_t at = off & (cluster - 1), n = 0;
    int ret = 0;

    if (at == 0 && iov.len >= cluster) {
        ret = free_co_count(img, off, iov.len >> img->cluster_bits, &n);
    }
    if (ret < 0) {
        return ret;
    }
    *ret_done = n > 0 ? n << img->cluster_bits : min_u64(iov.len, cluster - at);
    iov = iov_slice(iov, 0, *ret_done);
    return n > 0 ? qcow2_co_write_absent(img, off, iov)
                 : cluster_co_write(img, off, iov);
}
