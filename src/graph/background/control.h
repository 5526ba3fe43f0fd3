/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The controls of a graph's storages, and who has joined them. */
#pragma once
#include <glib.h>
#include "base/bucket.h"
#include "graph/background.h"
#include "graph/graph-int.h"

/* One storage: a device, a file system, or a node of its own kind. */
struct storage_control {
    struct graph *graph;
    uint64_t device; /* 0: only of one node */
    unsigned refs;
    struct limit limit;
    GPtrArray *members; /* struct member, borrowed */
    uint64_t divide_ns; /* when the rate was last divided */
    double divided;     /* what it was then */
};

/* The part of one piece of background work in one control. */
struct member {
    struct background *work;
    struct storage_control *control; /* a reference */
    double rate;                     /* its share, bytes/s */
    uint64_t bytes;                  /* begun since the last division */
    bool wanting;                    /* it was held back here since then */
    uint64_t queued_ns; /* it waits since then for the backlog; 0: not so */
    uint64_t asked_ns;  /* and asked for the last time then */
};

struct background {
    struct graph *graph;
    struct background_limits limits;
    GPtrArray *members; /* struct member, owned */
    struct bucket pace, floor;
    uint64_t remaining;
    bool far; /* it joined a storage that is no device of this machine */
};

struct storage_control *storage_control_ref(struct storage_control *c);
void storage_control_unref(struct storage_control *c);
/* The lowest target of those who have joined. */
void storage_control_retarget(struct storage_control *c);
/* Bring the shares up to date. */
void storage_control_divide(struct storage_control *c);

/* Divide @rate among @n members (pure): nobody gets more than it used, plus a
 * half, unless it was held back; what is left over goes to those who were. @ns:
 * since the last division. */
void share_divide(struct member **members, unsigned n, double rate,
                  uint64_t ns);
