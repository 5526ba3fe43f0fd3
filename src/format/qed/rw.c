/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and flushes.  (The map in status.c says where to read, and where a
 * write may go in place.)
 *
 * Clusters are reserved at the end of the file, the data is written there at
 * once, and the pointer waits in memory for its commit group.  Any number run
 * in parallel; the dispatcher keeps two allocating writes off one cluster.
 */
#include <string.h>
#include "base/math.h"
#include "format/qed/qed.h"
#include "format/trace.h"

/* What is written: bytes in memory, or of storage that may be shared. */
struct source {
    uint64_t len;
    struct iov iov; /* !node */
    struct node *node;
    uint64_t off;
};

static struct source source_part(const struct source *s, uint64_t skip,
                                 uint64_t len)
{
    struct source part = { .len = len, .node = s->node, .off = s->off + skip };

    if (!s->node) {
        part.iov = iov_slice(s->iov, skip, len);
    }
    return part;
}

static CO_FN int qed_data_co_write(struct qed_image *img, uint64_t host,
                                   const struct source *s)
{
    int ret;

    node_co_debug_event(qed_file(img), DEBUG_WRITE_AIO);
    ret = s->node
              ? node_co_copy_in(qed_file(img), host, s->node, s->off, s->len, 0)
              : node_co_pwritev(qed_file(img), host, s->iov, 0);
    if (ret == 0) {
        qed_note_written(img, host + s->len);
    }
    return ret;
}

/* Bytes of a join: what a crash would make somebody do again. Extents are
 * shared again at next to no cost. */
static uint64_t qed_source_weight(const struct source *s)
{
    return s->node ? s->len / GROUP_SHARED_WEIGHT : s->len;
}

/* Write where there is no cluster yet. What is not written of the first and
 * last cluster reads as zeroes: it was never written before. */
static CO_FN int write_co_alloc(struct qed_image *img, uint64_t off,
                                const struct source *s)
{
    uint64_t skip = off & (qed_cluster_size(img) - 1);
    uint64_t first = off >> img->cluster_bits;
    uint64_t n = ((off + s->len - 1) >> img->cluster_bits) - first + 1;
    uint64_t host, gen;
    int ret;

    ret = qed_co_reserve(img, n << img->cluster_bits, &host);
    if (ret < 0) {
        return ret;
    }
    gen = group_join(img->group, qed_source_weight(s));
    ret = qed_data_co_write(img, host + skip, s);
    if (ret == 0) {
        qed_pending_add(img, gen, first, n, host);
    }
    group_data_done(img->group, gen);
    trace_qed_alloc(img->node->name, off, s->len, host, ret);
    return ret;
}

static CO_FN int qed_write_co_source(struct qed_image *img, uint64_t off,
                                     const struct source *s)
{
    uint64_t done = 0;
    int ret = 0;

    if (pending_count(&img->pending) >= QED_PENDING_MAX) {
        ret = group_co_flush(img->group);
    }
    while (done < s->len && ret == 0) {
        struct qed_run run;
        struct source part;

        ret = qed_co_lookup(img, off + done, s->len - done, &run);
        if (ret < 0) {
            break;
        }
        part = source_part(s, done, run.len);
        ret = run.kind == QED_DATA ? qed_data_co_write(img, run.host, &part)
                                   : write_co_alloc(img, off + done, &part);
        done += run.len;
    }
    return ret;
}

int qed_co_pwritev(struct node *n, uint64_t off, struct iov iov, unsigned flags)
{
    struct source s = { .len = iov.len, .iov = iov };

    return qed_write_co_source(qed_image(n), off, &s);
}

int qed_co_copy_in(struct node *n, uint64_t off, struct node *src,
                   uint64_t src_off, uint64_t len, unsigned flags)
{
    struct source s = { .len = len, .node = src, .off = src_off };

    return qed_write_co_source(qed_image(n), off, &s);
}

int qed_co_flush(struct node *n)
{
    struct qed_image *img = qed_image(n);

    return img->group ? group_co_flush(img->group) : 0;
}
