/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a snapshot shows of the backing file: wherever its tables lead nowhere.
 *
 * Nobody changes the tables of a snapshot, and whoever asks sees to it that no
 * snapshot is made or deleted meanwhile, so they are read as they stand in the
 * file while the disk goes on.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "loop/io.h"

/* The walk over one snapshot. */
struct gap_walk {
    struct qcow2_image *img;
    struct snapshot_gaps *gaps;
    uint64_t size;       /* of its disk */
    uint64_t start, end; /* the gap that is growing; empty: none */
    uint8_t *table;      /* of one cluster */
    GError **err;
};

/* Tell of the gap so far. */
static CO_FN int gap_co_flush(struct gap_walk *w)
{
    uint64_t start = w->start, len = w->end - w->start;

    w->start = w->end = 0;
    return len ? w->gaps->co_gap(w->gaps, start, len) : 0;
}

static CO_FN int gap_co_add(struct gap_walk *w, uint64_t off, uint64_t len)
{
    int ret = 0;

    if (off >= w->size) {
        return 0;
    }
    if (off != w->end) {
        ret = gap_co_flush(w);
        w->start = off;
    }
    w->end = off + min_u64(len, w->size - off);
    return ret;
}

/* Cluster @d at guest offset @off, subcluster by subcluster. */
static CO_FN int gap_co_cluster(struct gap_walk *w, struct qcow2_desc d,
                                uint64_t off)
{
    const struct qcow2_image *img = w->img;
    unsigned n = 1u << (img->cluster_bits - img->sub_bits);
    int ret = 0;

    for (unsigned sub = 0, run; sub < n && ret == 0; sub += run) {
        run = qcow2_desc_run(&img->shape, d, sub);
        if (qcow2_desc_kind(&img->shape, d, sub) == QCOW2_ABSENT) {
            ret = gap_co_add(w, off + ((uint64_t)sub << img->sub_bits),
                             (uint64_t)run << img->sub_bits);
        }
    }
    return ret;
}

/* What the L2 table at @host, which is for guest offset @off, leaves out. */
static CO_FN int gap_co_table(struct gap_walk *w, uint64_t host, uint64_t off)
{
    struct qcow2_image *img = w->img;
    uint64_t cluster = qcow2_cluster_size(img);
    struct iovec v;
    int ret;

    if (host & (cluster - 1) || host >= qcow2_file(img)->size) {
        return node_corrupt(img->node, w->err, host,
                            "An L1 entry of snapshot "
                            "'%s' leads to %" PRIu64 ": no L2 table (run a "
                            "check)",
                            w->gaps->name, host);
    }
    ret = node_co_preadv(qcow2_file(img), host, iov_one(&v, w->table, cluster),
                         0);
    if (ret < 0) {
        return err_set_errno(w->err, -ret,
                             "Could not read an L2 table of "
                             "snapshot '%s'",
                             w->gaps->name);
    }
    for (uint32_t i = 0;
         i < UINT32_C(1) << img->l2_bits && off < w->size && ret == 0;
         i++, off += cluster) {
        ret = gap_co_cluster(w, qcow2_desc_get(&img->shape, w->table, i), off);
    }
    return ret;
}

static CO_FN int gap_co_walk(struct gap_walk *w, const uint64_t *l1)
{
    unsigned span_bits = w->img->l2_bits + w->img->cluster_bits;
    uint64_t off = 0;
    int ret = 0;

    for (uint32_t i = 0; off < w->size && ret == 0; i++) {
        uint64_t host = get_be64(&l1[i]) & QCOW2_OFFSET_MASK;

        ret = host ? gap_co_table(w, host, off)
                   : gap_co_add(w, off, UINT64_C(1) << span_bits);
        off += UINT64_C(1) << span_bits;
    }
    return ret == 0 ? gap_co_flush(w) : ret;
}

int qcow2_co_snapshot_gaps(struct node *n, unsigned i, struct snapshot_gaps *g,
                           GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct gap_walk w = { .img = img, .gaps = g, .err = err };
    const struct qcow2_snapshot *s;
    uint64_t *l1;
    size_t bytes;
    int ret;

    if (i >= qcow2_n_snapshots(img)) {
        return -ENOENT;
    }
    s = qcow2_snapshot_at(img, i);
    g->name = s->name;
    w.size = s->disk_size ? s->disk_size : n->size;
    ret = qcow2_co_snapshot_l1(img, s, w.size, &l1, &bytes, err);
    if (ret < 0) {
        return ret;
    }
    w.table = io_buf_get(qcow2_cluster_size(img));
    ret = w.table ? gap_co_walk(&w, l1)
                  : err_set(err, ENOMEM, "Could not allocate an L2 table");
    io_buf_put(w.table, qcow2_cluster_size(img));
    io_buf_put(l1, bytes);
    return ret;
}
