/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads, writes, flushes.
 *
 * A write goes in place where the cluster has a place; else clusters are
 * reserved at the end of the file, the data is written there at once, and the
 * pointer waits in memory for its commit group.  Any number run in parallel;
 * the dispatcher keeps two allocating writes off one cluster.
 */
#include <string.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qed/qed.h"
#include "format/trace.h"

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

int qed_co_preadv(struct node *n, uint64_t off, struct iov iov, unsigned flags)
{
    struct qed_image *img = qed_image(n);
    size_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        struct qed_run run;
        struct iov part;

        ret = qed_co_lookup(img, off + done, iov.len - done, &run);
        if (ret < 0) {
            break;
        }
        part = iov_slice(iov, done, run.len);
        if (run.kind == QED_DATA) {
            node_co_debug_event(qed_file(img), DEBUG_READ_AIO);
            ret = node_co_preadv(qed_file(img), run.host, part, flags);
        } else if (run.kind == QED_ZERO) {
            iov_memset(part, 0, 0, run.len);
        } else {
            ret = absent_co_read(n, off + done, part, flags);
        }
        done += run.len;
    }
    return ret;
}

static CO_FN int data_co_write(struct qed_image *img, uint64_t host,
                               struct iov iov)
{
    int ret;

    node_co_debug_event(qed_file(img), DEBUG_WRITE_AIO);
    ret = node_co_pwritev(qed_file(img), host, iov, 0);
    if (ret == 0) {
        qed_note_written(img, host + iov.len);
    }
    return ret;
}

/* Write where there is no cluster yet. What is not written of the first and
 * last cluster reads as zeroes: it was never written before. */
static CO_FN int write_co_alloc(struct qed_image *img, uint64_t off,
                                struct iov iov)
{
    uint64_t skip = off & (qed_cluster_size(img) - 1);
    uint64_t first = off >> img->cluster_bits;
    uint64_t n = ((off + iov.len - 1) >> img->cluster_bits) - first + 1;
    uint64_t host, gen;
    int ret;

    ret = qed_co_reserve(img, n << img->cluster_bits, &host);
    if (ret < 0) {
        return ret;
    }
    gen = group_join(img->group, iov.len);
    ret = data_co_write(img, host + skip, iov);
    if (ret == 0) {
        qed_pending_add(img, gen, first, n, host);
    }
    group_data_done(img->group, gen);
    trace_qed_alloc(img->node->name, off, iov.len, host, ret);
    return ret;
}

int qed_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                   unsigned flags)
{
    struct qed_image *img = qed_image(n);
    size_t done = 0;
    int ret = 0;

    if (img->n_pending >= QED_PENDING_MAX) {
        ret = group_co_flush(img->group);
    }
    while (done < iov.len && ret == 0) {
        struct qed_run run;
        struct iov part;

        ret = qed_co_lookup(img, off + done, iov.len - done, &run);
        if (ret < 0) {
            break;
        }
        part = iov_slice(iov, done, run.len);
        ret = run.kind == QED_DATA
            ? data_co_write(img, run.host, part)
            : write_co_alloc(img, off + done, part);
        done += run.len;
    }
    if (ret == 0 && (flags & IO_FUA)) {
        ret = BARRIER(QED_FUA, group_co_flush(img->group));
    }
    return ret;
}

int qed_co_flush(struct node *n)
{
    struct qed_image *img = qed_image(n);

    return img->group ? group_co_flush(img->group) : 0;
}
