/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In-flight reads from below an overlay; private to graph/.
 *
 * An in-flight read reads whole clusters from the chain below an overlay into a
 * buffer of its own.  It locks nothing.  While it is in the node's table other
 * requests find it by offset, wait for it and use its bytes, so that a cluster
 * is read from a slow base once however many ask for it.  It stays until its
 * owner has mapped the clusters (or given up), so there is no moment at which
 * they are neither in the table nor allocated.
 *
 * In-flight reads of the table never overlap.  One that would is private: it
 * works the same but nobody finds it (the second attempt of a joiner whose read
 * failed).
 *
 *   reading   inflight_begin(); joiners wait
 *     -> ready    inflight_set_ready(): joiners take the bytes, or the error
 *   ready     the owner writes the clusters; who comes now takes the bytes, too
 *     -> ended    inflight_end(): it is in no table any more
 *   ended     kept by those who still copy from it; the last inflight_unref()
 *             frees it
 *
 * The bytes are those below the overlay at the time of the read.  They answer a
 * reader that saw the cluster unallocated after its own read began; they may be
 * mapped only under TRACK_ALLOC after asking again what is allocated.  A caller
 * that changes the chain below drains first: then no read is in flight.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"
#include "loop/co.h"

struct node;

/* What one in-flight read covers at most, unless a single cluster is larger.
 * Bytes. */
#define INFLIGHT_READ_MAX (1u << 20)
/* Bytes of all in-flight reads of a node beyond which no reader starts
 * another. */
#define INFLIGHT_BUDGET (64u << 20)

struct inflight {
    struct node *node;
    uint64_t off, len;
    uint8_t *buf; /* @len bytes; valid when ready and result is 0 */
    int result;   /* 0 or -errno, when ready */
    bool ready;   /* the read is over */
    bool ended;   /* ... and so is the mapping */
    bool listed;  /* in the table */
    unsigned refs;
    struct co_queue ready_waiters, end_waiters;
};

/* Begin a read of whole clusters (the last one up to the end of the disk).
 * Listed when it overlaps no other. NULL when memory is short, never up to
 * INFLIGHT_READ_MAX. Every one is read, then ended. */
struct inflight *inflight_begin(struct node *n, uint64_t off, uint64_t len);
/* The read is over with @result: joiners wake. One that failed leaves the
 * table. */
void inflight_set_ready(struct inflight *f, int result);
/* The clusters are mapped or never will be: leave the table, wake those who
 * wait for the end, drop the owner's reference. */
void inflight_end(struct inflight *f);

/* The listed read that holds @off, or NULL. Borrowed: reference it before any
 * yield. */
struct inflight *inflight_find(struct node *n, uint64_t off);
/* Where the first listed read at or after @off begins; UINT64_MAX: none. */
uint64_t inflight_next(struct node *n, uint64_t off);
struct inflight *inflight_ref(struct inflight *f);
void inflight_unref(struct inflight *f);

/* Wait for the bytes. 0 or -errno of the read. The caller holds a reference. */
CO_FN int inflight_co_wait_ready(struct inflight *f);
/* Wait until the owner is through with it. The caller holds a reference. */
CO_FN void inflight_co_wait_end(struct inflight *f);

/* May @len bytes more be read within the budget? True when none are. */
bool inflight_has_room(const struct node *n, uint64_t len);
/* Wait until they may. */
CO_FN void inflight_co_wait_room(struct node *n, uint64_t len);
/* Wait until no read is in flight for @n, private ones included. */
CO_FN void inflight_co_wait_idle(struct node *n);
/* For assertions: is any read in flight, private ones included? */
bool inflight_any(const struct node *n);
