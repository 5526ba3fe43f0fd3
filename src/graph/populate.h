/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populate: copy into an overlay what only its base holds.  One piece of code
 * under copy-on-read, stream and prefetch.
 *
 *   read    read the range from the chain below; nothing is locked, so a guest
 *           write to it goes ahead (guest wins).  A second reader of the same
 *           clusters joins the in-flight read instead of starting another.
 *   map     take the range; wait for overlapping allocating requests only;
 *           where the overlay has changed meanwhile ask again what is
 *           allocated; write the clusters that are still missing with
 *           IO_POPULATE; let go.
 *
 * Zeroes and holes of the chain become zero clusters without being read.
 * Extents that the overlay's file can share with the base's are shared, without
 * being read, under the range.  Never changes what a reader of the overlay sees
 * (S2).
 */
#pragma once
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct node;

struct populate_result {
    uint64_t copied; /* bytes read below and written here, or shared */
    uint64_t shared; /* those that were shared: no data was moved */
    uint64_t zeroed; /* bytes that became zero clusters */
    uint64_t read_ns, write_ns; /* how long that took, all pieces together */
    int read_error;             /* 0, or -errno of the chain below ... */
    int write_error;            /* ... or of the overlay */
};

/* Populate [@off, @off+@len) of overlay @n (no filter), widened to its
 * clusters and cut at its end, from the chain below it down to but excluding
 * @base (NULL: all). Ranges allocated in @n, and those only @base or deeper
 * holds, are skipped; a cluster that is partly held above @base is copied
 * whole. Large ranges are copied by several coroutines at once.
 * @io_flags: IO_BACKGROUND, IO_KNOWN_DATA. @ret may be NULL.
 * Returns 0 or -errno; what was mapped before the error stays. */
CO_FN int node_co_populate(struct node *n, struct node *base, uint64_t off,
                           uint64_t len, unsigned io_flags,
                           struct populate_result *ret);

/* Read [@off, ...) of @n as its reader sees it and populate on the way; the
 * read succeeds even where the populate's own write failed. On a read-only
 * node, and when too much is in flight already, it only reads. @io_flags:
 * IO_DEMAND. */
CO_FN int node_co_read_populate(struct node *n, struct node *base, uint64_t off,
                                struct iov iov, unsigned io_flags);
