/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot is prepared while the guest goes on, so that it waits but for what
 * it changed meanwhile.
 *
 * What a snapshot costs is that every cluster is counted once more and that no
 * table says COPIED any more.  Both are written to clusters that nothing leads
 * to: copies of the L2 tables and of the refcount blocks.  Until the metadata
 * transaction of the snapshot leads to them, the image is what it was, but for
 * clusters that leak if it ends here.  The guest goes on with the active tables,
 * in place.  A table or a block that changes is stale, and is copied again; in
 * the end, with the guest held, those that are stale still.
 *
 *   table   active: COPIED, changes      copy: as it was, without COPIED
 *   block   active: counts, change       copy: counts + references of the copies
 *
 * Invariants
 *   - A block's numbers (`more`) are the references of all the copies of tables,
 *     each as it stands at its `at`.  So one is replaced by taking those of the
 *     old one away and adding those of the new one, without a yield between.
 *   - What stands at `at` does not change and is not used again: it is a copy of
 *     ours, or a table that a snapshot shares, and the access that began with
 *     the preparation keeps freed clusters from being reused.
 *   - No other operation changes tables or counts beside passes and reclaiming:
 *     those that do begin with qcow2_prepared_co_drop().
 */
#pragma once
#include "format/qcow2/meta/transaction.h"
#include "format/qcow2/space/prepared.h"

/* Can the snapshot that is made now use what is prepared? */
bool qcow2_prepared_fits(const struct qcow2_image *img);
/* Bring it up to date in @tx, which takes its tables and counts; @ret_l1 becomes
 * the L1 table of the disk and of the snapshot. After success it belongs to
 * @tx: qcow2_prepared_end() when that is done. */
CO_FN int qcow2_prepared_co_share(struct qcow2_transaction *tx,
                                  uint64_t *ret_l1);
