/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests in flight on a node, as intervals; private to graph/.
 *
 *   TRACK_WRITE waits for an overlapping TRACK_ALLOC
 *   TRACK_ALLOC waits for an overlapping TRACK_WRITE or TRACK_ALLOC
 *   TRACK_READ  waits for nothing; it is counted
 *
 * Waiting is for the overlapping requests alone, in order of arrival (a stream
 * of writes cannot starve an ALLOC).  Costs O(log n) of what is in flight.  A
 * range is never held across a read from the chain below: read first, take the
 * range, ask again what is allocated, write, let go.
 */
#pragma once
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"

struct node;
enum track_kind { TRACK_READ, TRACK_WRITE, TRACK_ALLOC };

/* On the caller's stack. */
struct tracked {
    struct node *node;
    uint64_t off, len;
    enum track_kind kind;
    struct co_queue waiters;
    /* graph/io/track.c: of the tree */
    struct tracked *left, *right;
    uint64_t max_end, seq;
    uint32_t prio;
};
CO_FN void track_co_begin(struct tracked *t, struct node *n, uint64_t off,
                          uint64_t len, enum track_kind kind);
void track_end(struct tracked *t);
