/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free space: the state that alloc.c and reclaim.c share, and what a check may
 * look at.
 *
 * Invariants
 *   - A cluster is handed out when its refcount in memory is 0 and made 1
 *     before anybody else gets a turn.
 *   - A refcount goes down in reclaim.c alone: after the pass that took the
 *     pointer away, the accesses before that and the discard (M3), or when
 *     nothing ever pointed to the cluster.
 */
#pragma once
#include "format/qcow2/space/space.h"

enum { QCOW2_SPACE_WORKERS = 16 };

/* Accesses that began in one period, and what waits for their end. */
struct qcow2_epoch {
    uint64_t number;
    unsigned running;
    GArray *decrements; /* struct qcow2_decrement */
};

struct qcow2_space {
    /* clusters */
    uint64_t end;    /* the search goes on from here */
    uint64_t limit;  /* the storage cannot grow past it */
    uint64_t virgin; /* never written from here on */
    GTree *free;     /* first -> how many: refcount 0, below end */
    uint64_t n_free;
    uint32_t scan, scan_end; /* blocks not looked at yet for free ones */
    bool scanning;
    uint64_t compressed; /* next byte for compressed data, or 0 */

    /* reclaim.c */
    GArray *decrements;  /* wait for their generation */
    GQueue epochs;       /* struct qcow2_epoch, oldest first */
    GArray *reclaimable; /* nothing holds them back */
    bool reclaiming;
    struct co_latch background;
};

/* --- reclaim.c --- */

void qcow2_reclaim_init(struct qcow2_image *img);
void qcow2_reclaim_done(struct qcow2_image *img);
