/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata transactions: a change of tables and refcounts that takes effect as
 * a whole.
 *
 * COPIED flags and refcounts say the same in two places.  So that no crash
 * shows one without the other, whatever of them changes is written to clusters
 * that nothing refers to yet: L2 tables, L1 tables, the list of snapshots,
 * blocks of refcounts and the table of those.  All that is durable before one
 * write of the header, sector 0, leads to it; then the old clusters are free.
 *
 * The image is drained, all is published, and the group is locked, from the
 * first call to the last.
 */
#pragma once
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"

struct qcow2_transaction {
    struct qcow2_image *img;
    GHashTable *moved;      /* number of a block that was moved -> struct
                             * qcow2_decrement: its old cluster */
    GArray *taken;          /* struct qcow2_decrement: allocated for it */
    uint64_t end;           /* of the file before, in clusters */
    GArray *old;            /* struct qcow2_decrement: one reference each goes
                             * when the transaction is durable */
    GArray *exts;           /* NULL: the header's extensions stay; else
                             * no count may change. Borrowed */
    bool done;              /* the header was written */
    uint8_t *table, *other; /* of one cluster, for the callers */
};

/* -ENOMEM; end it in any case. */
int qcow2_transaction_begin(struct qcow2_transaction *tx,
                            struct qcow2_image *img);
void qcow2_transaction_end(struct qcow2_transaction *tx);
/* The refcounts of clusters that [@host, @host+@len) touches, which are in use,
 * change by @by: 1 or -1, but not to 0. -EINVAL: too large for their width. */
CO_FN int qcow2_transaction_co_count(struct qcow2_transaction *tx,
                                     uint64_t host, uint64_t len, int by);
/* New clusters for @len bytes of structure @what. */
CO_FN int qcow2_transaction_co_alloc(struct qcow2_transaction *tx,
                                     enum qcow2_meta what, uint64_t len,
                                     uint64_t *ret_host);
/* Refcount block @block, which was not moved yet, is at @host from now on. It
 * stands in memory if any of [@first, @end) is to be written there; the rest of
 * it @host has. */
void qcow2_transaction_move_block(struct qcow2_transaction *tx, uint64_t block,
                                  uint64_t host, uint32_t first, uint32_t end);
/* Write @len bytes of structure @what to new clusters. */
CO_FN int qcow2_transaction_co_store(struct qcow2_transaction *tx,
                                     enum qcow2_meta what, const void *buf,
                                     uint64_t len, uint64_t *ret_host);
/* The transaction removes one reference to [@host, @host+@len). */
void qcow2_transaction_drop(struct qcow2_transaction *tx, uint64_t host,
                            uint64_t len);
/* Let the header become @h, and refcounts what was counted. A failure before
 * the header is written leaves the image, in memory and file, as it was; one
 * after it is sticky. */
CO_FN int qcow2_transaction_co_run(struct qcow2_transaction *tx,
                                   const struct qcow2_header *h);
/* Abort: what was done is dropped; no I/O is needed for that. */
CO_FN void qcow2_transaction_co_undo(struct qcow2_transaction *tx);
