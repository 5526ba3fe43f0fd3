/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much background copying may be at the machine's own disks at once while
 * guests are about; private to graph/.
 *
 * A disk that is given tens of megabytes to write answers a guest's 4 KiB read
 * after it has written them.  So while any guest of the graph has asked for
 * something lately, populate waits here for admission of its pieces, a few at a
 * time.  A fast disk is busy with that few; for a slow one the limit grows as
 * long as guests do not feel it, and falls back at once when they do.  Without
 * guests there is no limit.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct graph;

/* Bytes in flight to the disks that hardly delay guests. */
#define ADMISSION_FLOOR (UINT64_C(512) << 10)
#define ADMISSION_MAX (UINT64_C(64) << 20)

/* The rule alone: pure. */
struct admission_limit {
    uint64_t bytes;        /* the limit; ADMISSION_FLOOR at first */
    uint64_t step_ns;      /* the last step was made then; 0 = none yet */
    uint64_t ops, time_ns; /* of guests, by then */
    double base;           /* mean latency at the floor, ns; 0 = not known */
    unsigned wait, hold;   /* good steps still to come, and after a bad one */
};
/* Guests have had @ops requests that took @time_ns together, all time. */
void admission_limit_step(struct admission_limit *l, uint64_t ops,
                          uint64_t time_ns, uint64_t now_ns);

struct admission {
    struct admission_limit limit;
    uint64_t bytes;     /* admitted, not yet done */
    uint64_t looked_ns; /* when guests were last looked for */
    bool guests;
    GQueue waiters; /* struct admission_waiter, in order of arrival */
};

/* Waits for room for @len bytes, in order of arrival. Nothing may be held that
 * a guest could wait for. */
CO_FN void admission_co_enter(struct graph *g, uint64_t len);
void admission_leave(struct graph *g, uint64_t len);
