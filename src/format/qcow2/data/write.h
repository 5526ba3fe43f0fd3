/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What write.c, subcluster.c, cow.c and zero.c share: cluster locks, and
 * one write of new clusters.
 *
 * A cluster lock keeps changes of one cluster's descriptor apart:
 *   shared     changes that commute: each touches other subclusters
 *   exclusive  a change of all of it that depends on what it was
 * The dispatcher keeps requests to one subcluster apart already; locks are
 * for those that it does not know to belong together.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/qcow2/data/data.h"
#include "loop/co.h"

enum {
    /* Clusters that are entered before others get a turn. */
    QCOW2_MARKERS_AT_ONCE = 1 << 14,
    /* A marker's share of a group: a quarter of a million of them close it. */
    QCOW2_MARKER_COST = 256,
};

/* The subclusters that [@off, @off+@len), inside one cluster, touches. */
static inline uint32_t qcow2_sub_mask(const struct qcow2_image *img,
                                      uint64_t off, uint64_t len)
{
    uint64_t at = off & (qcow2_cluster_size(img) - 1);
    unsigned first = (unsigned)(at >> img->sub_bits);
    unsigned last = (unsigned)((at + len - 1) >> img->sub_bits);

    return (uint32_t)(((UINT64_C(2) << last) - 1) &
                      ~((UINT64_C(1) << first) - 1));
}

struct qcow2_cluster_lock {
    uint64_t idx;   /* guest cluster */
    unsigned users; /* those that wait included */
    unsigned shared;
    bool exclusive;
    /* Shared holders of the lock of a cluster without a host cluster: */
    bool placing;
    uint64_t host; /* its host cluster, once one of them allocated it, or 0 */
    bool linked;   /* a change that names it was entered */
    struct co_queue waiters;
};

struct qcow2_cluster_lock *qcow2_cluster_lock_find(struct qcow2_image *img,
                                                   uint64_t idx);
CO_FN struct qcow2_cluster_lock *
qcow2_cluster_lock_co_get(struct qcow2_image *img, uint64_t idx,
                          bool exclusive);
void qcow2_cluster_lock_put(struct qcow2_image *img,
                            struct qcow2_cluster_lock *c);

/* --- write.c --- */

/* Write @iov at guest offset @off to host offset @host; with @pad the rest of
 * the units of 1 << @unit_bits bytes that it touches becomes zeroes. */
CO_FN int qcow2_co_write_padded(struct qcow2_image *img, uint64_t off,
                                uint64_t host, struct iov iov, bool pad,
                                unsigned unit_bits);
/* The host offset of a new run of guest clusters from @off: in a data file the
 * same offset. */
CO_FN int qcow2_co_host_alloc(struct qcow2_image *img, uint64_t gen,
                              uint64_t off, uint64_t bytes, uint64_t *ret_host,
                              bool *ret_fresh);
/* It was not used. */
void qcow2_host_free(struct qcow2_image *img, uint64_t gen, uint64_t host,
                     uint64_t bytes);
/* No cluster that [@off, @off+@iov.len) touches has a host cluster: allocate
 * them. What is not written of the first and the last reads as zeroes then. */
CO_FN int qcow2_co_write_absent(struct qcow2_image *img, uint64_t off,
                                struct iov iov);

/* Write the first part of @iov; *@ret_done bytes of it. Inside an access. */
CO_FN int qcow2_co_write_part(struct qcow2_image *img, uint64_t off,
                              struct iov iov, size_t *ret_done);

/* All of @iov, wherever it goes; inside an access / as one. */
CO_FN int qcow2_co_write_parts(struct qcow2_image *img, uint64_t off,
                               struct iov iov);
CO_FN int qcow2_co_write_plain(struct qcow2_image *img, uint64_t off,
                               struct iov iov);

/* --- cow.c --- */

/* @iov lies in one cluster, which is shared or compressed: write it with the
 * rest of the cluster to a new one. */
CO_FN int qcow2_co_write_copy(struct qcow2_image *img, uint64_t off,
                              struct iov iov);

/* --- zero.c --- */

/* No cluster of the disk says any more that it reads as zeroes: it is absent or
 * data, as version 2 knows it. Not encrypted, no extended entries, no data file,
 * no snapshots. Pending, not flushed. */
CO_FN int qcow2_co_zeroes_expand(struct qcow2_image *img);

/* --- empty.c --- */

/* Clusters of [@from, @to) that begin there read as those of the backing file
 * again; what they held is set free. Pending, not flushed. */
CO_FN int qcow2_co_drop_clusters(struct qcow2_image *img, uint64_t from,
                                 uint64_t to);

/* --- subcluster.c: extended entries --- */

/* Write the first part of @iov, which has no data yet and no host cluster that
 * it would have to share; *@ret_done bytes of it. */
CO_FN int qcow2_co_write_extended(struct qcow2_image *img, uint64_t off,
                                  struct iov iov, size_t *ret_done);
