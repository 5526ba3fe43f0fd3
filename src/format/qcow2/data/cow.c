/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy on write: a write to a cluster that a snapshot shares, or to one that is
 * compressed.  The cluster moves to a new host cluster as a whole; what the
 * guest does not write is copied.  Subclusters that are not allocated stay so:
 * nothing is copied from the backing file.
 *
 * One move of a cluster at a time: whoever comes second finds it moved.
 */
#include <errno.h>
#include <string.h>
#include "base/math.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"

struct move {
    struct qcow2_image *img;
    uint64_t start; /* of the cluster, guest offset */
    uint64_t off;
    struct iov iov;
    struct qcow2_desc old;
    uint8_t *buf; /* the cluster as it shall be */
};

/* The old bytes of every subcluster that has some and is not overwritten. */
static CO_FN int old_co_read(struct move *m)
{
    struct qcow2_image *img = m->img;
    uint64_t end = m->start + qcow2_cluster_size(img), pos = m->start;
    int ret = 0;

    node_co_debug_event(qcow2_file(img), DEBUG_COW_READ);
    while (pos < end && ret == 0) {
        struct qcow2_run run;
        struct iovec v;

        ret = qcow2_co_lookup(img, pos, end - pos, &run);
        if (ret < 0) {
            break;
        }
        if (run.kind == QCOW2_DATA || run.kind == QCOW2_RUN_COMPRESSED) {
            ret = qcow2_co_read_run(
                img, &run, pos, iov_one(&v, m->buf + (pos - m->start), run.len),
                0);
        }
        pos += run.len;
    }
    return ret;
}

/* The change that makes @host the host cluster. */
static struct qcow2_delta move_delta(const struct move *m, uint64_t host)
{
    const struct qcow2_image *img = m->img;
    uint32_t written = qcow2_sub_mask(img, m->off, m->iov.len);
    uint32_t data = (uint32_t)m->old.bits;
    uint32_t zero = (uint32_t)(m->old.bits >> 32);
    bool compressed = m->old.entry & QCOW2_COMPRESSED;
    struct qcow2_delta d = { .entry = host | QCOW2_COPIED, .whole = true };

    if (img->shape.extended) {
        d.data = compressed ? UINT32_MAX : data | written;
        d.zero = compressed ? 0 : zero & ~written;
    }
    return d;
}

static CO_FN int qcow2_cow_move_co_write(struct move *m)
{
    struct qcow2_image *img = m->img;
    uint64_t cluster = qcow2_cluster_size(img), host;
    uint64_t gen = group_join(img->group, cluster);
    bool fresh;
    struct iovec v;
    int ret = qcow2_co_host_alloc(img, gen, m->start, cluster, &host, &fresh);

    if (ret == 0) {
        node_co_debug_event(qcow2_file(img), DEBUG_COW_WRITE);
        ret = m->buf ? qcow2_co_write_data(img, m->start, host,
                                           iov_one(&v, m->buf, cluster), 0)
                     : qcow2_co_write_data(img, m->start, host, m->iov, 0);
        if (ret < 0) {
            qcow2_host_free(img, gen, host, cluster);
        }
    }
    if (ret == 0) {
        struct qcow2_delta d = move_delta(m, host);

        qcow2_pending_add(img, gen, m->start >> img->cluster_bits, &d);
        qcow2_free_desc(img, gen, m->old);
    }
    group_data_done(img->group, gen);
    return ret;
}

static CO_FN int move_co_run(struct move *m)
{
    struct qcow2_image *img = m->img;
    uint64_t cluster = qcow2_cluster_size(img);
    int ret = 0;

    if (m->iov.len < cluster) {
        m->buf = io_buf_get(cluster);
        if (!m->buf) {
            return -ENOMEM;
        }
        memset(m->buf, 0, cluster);
        ret = old_co_read(m);
        iov_to_buf(m->iov, 0, m->buf + (m->off - m->start), m->iov.len);
    }
    if (ret == 0) {
        ret = qcow2_cow_move_co_write(m);
    }
    if (m->buf) {
        io_buf_put(m->buf, cluster);
    }
    return ret;
}

/* Does the cluster have a host cluster of its own by now? */
static bool is_moved(const struct qcow2_image *img, struct qcow2_desc d)
{
    return qcow2_desc_has_host(&img->shape, d) && (d.entry & QCOW2_COPIED);
}

int qcow2_co_write_copy(struct qcow2_image *img, uint64_t off, struct iov iov)
{
    uint64_t idx = off >> img->cluster_bits;
    struct qcow2_cluster_lock *c = qcow2_cluster_lock_co_get(img, idx, true);
    struct move m = {
        .img = img,
        .start = idx << img->cluster_bits,
        .off = off,
        .iov = iov,
    };
    bool moved = false;
    int ret = qcow2_co_desc(img, idx, &m.old);

    if (ret == 0) {
        moved = is_moved(img, m.old);
        ret = moved ? 0 : move_co_run(&m);
    }
    qcow2_cluster_lock_put(img, c);
    return ret == 0 && moved ? qcow2_co_write_parts(img, off, iov) : ret;
}
