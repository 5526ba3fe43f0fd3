/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Admission control of background work: guests first.
 *
 * Each storage has one control (the device or file system that storage nodes
 * lie on; a control of its own for a node of which that cannot be told).  It
 * sees how long guests' requests take there, and works out how many bytes per
 * second background work may move, so that 99 of 100 of them keep the latency
 * target; background/limit.h has the rule.  Without guests there is no limit.
 *
 * A piece of background work (a job, a step of one) joins the controls of all
 * storages that it reads or writes.  It asks before each chunk, and makes
 * chunks no longer than background_unit().  What a control has is divided
 * evenly among those that want it.  A floor is a piece's own: nothing takes it
 * away.
 *
 * All on the graph's loop, no yield but where marked.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/background/limit.h"

struct background;
struct graph;
struct node;

struct background_limits {
    struct latency_target target; /* where several meet, the lowest counts */
    uint64_t floor;               /* bytes/s */
    uint64_t finish_by;           /* seconds since 1970; 0: whenever */
};

/* Without options of its own. */
#define BACKGROUND_LIMITS \
    { \
        .target = { .times = 2 }, .floor = UINT64_C(4) << 20 \
    }

struct background *background_new(struct graph *g,
                                  const struct background_limits *l);
/* NULL is fine. */
void background_free(struct background *b);
/* Join the control of the storage under @n: its file, its data file, not its
 * backing chain. */
void background_join(struct background *b, struct node *n);
/* The same for all of the chain from @top down to, but without, @end. */
void background_join_chain(struct background *b, struct node *top,
                           const struct node *end);
void background_set_limits(struct background *b,
                           const struct background_limits *l);
/* Bytes still to come: what `finish_by` is measured against. */
void background_set_remaining(struct background *b, uint64_t bytes);

/* Are guests about at one of the storages, so that there is a limit? */
bool background_is_limited(struct background *b);
/* The longest chunk that may be begun now, bytes; UINT64_MAX: any. */
uint64_t background_unit(struct background *b);
/* How long the next chunk has to wait, ns; 0: it may begin. To be asked again
 * then: never more than BACKGROUND_ASK_NS away. */
uint64_t background_wait_ns(struct background *b);
#define BACKGROUND_ASK_NS UINT64_C(20000000)
/* A chunk begins; it is done, and so many of its bytes were moved. */
void background_begin(struct background *b, uint64_t len);
void background_end(struct background *b, uint64_t len, uint64_t moved);
/* For work that has no loop of its own: wait until a chunk may begin. */
CO_FN void background_co_wait(struct background *b);
