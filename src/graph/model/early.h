/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Early writes: those that do not wait for a base; private to graph/.
 *
 * A guest's write of a part of an absent cluster is kept here and answered.  The
 * rest of the cluster is read from the chain below afterwards, and the whole is
 * written like any other new cluster (the completion).  The states of one:
 *
 *      early_open()
 *           |
 *           v      the base, or the write, failed
 *      COMPLETING -----------------------------> FAILED
 *       |     ^                                   |  |
 *       |     +------------ early_retry() --------+  |
 *       |                                            |
 *       |  early_drop(): all of the cluster was      |
 *       |  written, by the completion or a guest,    |
 *       |  or was zeroed; or the node closes         |
 *       v                                            v
 *      GONE <----------------------------------------+
 *
 *   E1  The map of the node says "data" for what is kept here, so whoever asks
 *       what a range is, or reads it, finds it (graph/io/map.c).
 *   E2  What was written goes to the driver with the rest of its cluster, in one
 *       write under TRACK_ALLOC, or not at all: nothing on disk leads to a
 *       cluster that is not whole.
 *   E3  A flush is answered when all that was kept when it was asked for is in
 *       the driver, and flushed.  It fails as long as that is not so.
 *   E4  What a guest wrote is never given up, nor is a byte of the base put over
 *       it; an error of the base is that of the flush, and of a read of what the
 *       guest did not write.
 *   E5  Bounded by the memory budget (MEMORY_EARLY), which is divided among the
 *       nodes that keep anything.  When a node's share is used, and while
 *       anything of it is FAILED, a write waits for the base itself.
 *
 * Nothing is begun while requests are held off (drain), and a drain waits until
 * no completion is under way.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"

struct node;

/* What a write must be made of to be kept. */
#define EARLY_SECTOR 512u

enum early_state { EARLY_COMPLETING, EARLY_FAILED, EARLY_GONE };

/* One cluster. */
struct early {
    struct node *node;
    uint64_t start, end;       /* bytes; up to the end of the disk */
    uint8_t *buf;              /* @end - @start bytes */
    uint8_t *written;          /* a bit a sector: @buf has it */
    unsigned sectors, missing; /* all; those without their bit */
    enum early_state state;
    int error;       /* of EARLY_FAILED */
    bool on_the_way; /* the completion has not ended, whatever the state */
    unsigned refs;
    struct co_queue changed; /* a completion has ended, or the base was read */
};

/* What is kept at @off, or NULL. Borrowed: reference it before any yield. */
struct early *early_find(const struct node *n, uint64_t off);
/* Where the next one at or after @off begins; UINT64_MAX: there is none. */
uint64_t early_next(const struct node *n, uint64_t off);
/* It changes whenever one comes or goes. */
uint64_t early_version(const struct node *n);
/* Is any of @n's FAILED? */
bool early_any_failed(const struct node *n);

/* Keep the cluster [@start, @end); @complete is its coroutine, which gets the new
 * one and ends with early_completed(). NULL: no room, or no memory. No yield. */
struct early *early_open(struct node *n, uint64_t start, uint64_t end,
                         void (*complete)(void *arg));
struct early *early_ref(struct early *e);
void early_unref(struct early *e);
bool early_has(const struct early *e, unsigned sector);
void early_set(struct early *e, unsigned sector);
/* The driver has the cluster, or zeroes in its place. */
void early_drop(struct early *e);
/* The completion of @e has ended; failed, unless @e is gone. It drops a reference. */
void early_completed(struct early *e, int ret);

/* Make another attempt at @e, which FAILED; false: not now, because requests
 * are held off. */
bool early_retry(struct early *e);
/* The same for all of @n that FAILED; nobody waits. No yield. */
void early_retry_failed(struct node *n);
/* Wait until @e's completion has ended. 0, or its error. */
CO_FN int early_co_wait(struct early *e);
/* All of @n that is kept now is in the driver. 0, or why that is not so. */
CO_FN int early_co_settle_all(struct node *n);
/* The same for the cluster at @off. */
CO_FN int early_co_settle(struct node *n, uint64_t off);
/* How long a drain waits for the next completion: guests are held off. */
#define EARLY_DRAIN_NS UINT64_C(1000000000)
/* Wait until no completion is under way.  Where none has ended for @patience_ns
 * the storage below is let go, and they fail. */
CO_FN void early_co_wait_idle(struct node *n, uint64_t patience_ns);
/* A drain has held off what goes to @n: complete what can be, so that it can be
 * flushed before the graph changes. */
CO_FN void early_co_drain(struct node *n);
/* @n closes: what cannot be completed is lost, and that is told. */
CO_FN void early_co_close(struct node *n);
