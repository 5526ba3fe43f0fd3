/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Busy polling: to look for events for a while before the loop sleeps, because
 * to be woken up takes longer than most answers of a fast guest.
 *
 * How long adapts to what came: as QEMU's iothreads do it, the time grows while
 * events come soon after it, and falls when the wait was longer than the most
 * that is allowed, so an idle loop does not poll.  Beyond that, polling stops for
 * 2, 4, ... 1024 waits when it found nothing again and again, or was interrupted:
 * on a machine whose processors are taken it would keep the one from running that
 * it waits for.
 *
 * Pure: no clock, no I/O.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "loop/loop.h"

struct spin {
    struct loop_polling limits;
    uint64_t ns;     /* for the next wait */
    unsigned misses; /* in a row */
    unsigned rest;   /* waits without polling that are left */
};

/* Nanoseconds for which the wait that begins now may poll; 0: not at all. */
uint64_t spin_begin(struct spin *s);
/* It polled, and then did not have to sleep. @waited_ns: the whole wait. */
void spin_hit(struct spin *s, uint64_t waited_ns);
/* It slept; @spun: after it had polled in vain. */
void spin_slept(struct spin *s, bool spun, uint64_t waited_ns);
/* Another program ran on the processor while it polled. */
void spin_interrupted(struct spin *s);
