/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where guest clusters are, and what waits for its commit group. */
#pragma once
#include "format/qcow2/qcow2.h"

/* --- map.c: what is where --- */

struct qcow2_run {
    enum qcow2_kind kind;    /* never QCOW2_INVALID */
    bool in_place;           /* DATA, ZERO with a host cluster: refcount is 1 */
    uint64_t len;            /* bytes */
    uint64_t host;           /* DATA: file offset of the first byte; ZERO: the
                              * same, or 0 = no host cluster (with @in_place
                              * that of a data file); COMPRESSED: where the
                              * stream begins */
    uint32_t compressed_len; /* COMPRESSED: bytes to read at most; such a
                              * run lies within one cluster */
    uint64_t entry;          /* of the first cluster, as it stands */
};

/* The longest run of one kind (contiguous in the file where it has host
 * clusters) from guest offset @off that memory can tell, at most @len bytes;
 * reads one slice when the first cluster needs it. Offsets past the end of the
 * disk, as far as L1 reaches, are the VM state of snapshots. 0; -EIO for a
 * corrupt entry (reported); -ENOMEM. */
CO_FN int qcow2_co_lookup(struct qcow2_image *img, uint64_t off, uint64_t len,
                          struct qcow2_run *ret_run);
/* The same for who is about to change the run: first there is room for one more
 * change, as by qcow2_co_pending_room(). */
CO_FN int qcow2_co_lookup_to_change(struct qcow2_image *img, uint64_t off,
                                    uint64_t len, struct qcow2_run *ret_run);
/* What cluster @idx is, with all that is pending; *@ret_n clusters from it, not
 * past @end, are the same: more than one only where there is no table. */
CO_FN int qcow2_co_descs(struct qcow2_image *img, uint64_t idx, uint64_t end,
                         struct qcow2_desc *ret_desc, uint64_t *ret_n);
/* The descriptor of cluster @idx with all that is pending. */
CO_FN int qcow2_co_desc(struct qcow2_image *img, uint64_t idx,
                        struct qcow2_desc *ret_desc);
/* Where the L2 table of @l1_idx is (fresh ones included); 0 = none. With
 * QCOW2_COPIED when its refcount is 1. */
uint64_t qcow2_l2_entry(const struct qcow2_image *img, uint32_t l1_idx);

/*
 * --- slice.c: L2 slices in memory; key: cluster index >> slice_bits ---
 *
 * Use format/alloc/metadata-cache.h on &img->slices; t->data holds the
 * descriptors as in the file, for qcow2_desc_get().  A slice that is asked for
 * exists: its L2 table has an entry in L1, or is fresh.
 */
void qcow2_slices_init(struct qcow2_image *img);

/*
 * --- pending.c: changes that wait for their generation ---
 *
 * Without extended entries every delta is `whole`.  With them a write or
 * zeroing of part of a cluster is not: { entry: host | COPIED, data: its
 * subclusters }; also the first one into an absent cluster, as two may be first
 * at once.  Replacing a compressed cluster, or moving to another host, is
 * whole.
 */
/* Wait for a pass where QCOW2_PENDING_MAX changes wait already; its error when
 * it fails. Before every change, outside of group_join(); no cluster is
 * locked. */
CO_FN int qcow2_co_pending_room(struct qcow2_image *img);
/* Cluster @idx. Between group_join() and group_data_done(). */
void qcow2_pending_add(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                       const struct qcow2_delta *delta);
/* @n clusters from @idx; entries that have a host cluster count up by
 * clusters. */
void qcow2_pending_add_run(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                           uint64_t n, const struct qcow2_delta *first);
/* Make one of all generations up to @gen; NULL when there is none. */
struct pending_gen *qcow2_pending_merge(struct qcow2_image *img, uint64_t gen);

/* --- sparse-tables.c: metadata in holes of the file --- */

/* Guest bytes from @off that have no cluster because their tables, none of
 * which is in memory, lie in a hole of the file; 0: not known to be so. Of
 * images that nobody writes to. */
CO_FN uint64_t qcow2_co_sparse_tables(struct qcow2_image *img, uint64_t off,
                                      uint64_t end);
/* Do two of @n entries lead to one table, or can that not be told? */
bool qcow2_l1_has_duplicates(const uint64_t *l1, uint32_t n);
/* Another entry of the active L1 table of such an image leads to the same
 * table: the image is corrupt. UINT32_MAX: none. */
uint32_t qcow2_l1_duplicate(struct qcow2_image *img, uint32_t l1_idx);

/* --- status.c --- */

CO_FN int qcow2_co_map(struct node *n, uint64_t off, uint64_t len,
                       unsigned flags, struct mapping *ret_map);
void qcow2_map_end(struct node *n, const struct mapping *m);
