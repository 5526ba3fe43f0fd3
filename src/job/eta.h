/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When a job will end, and how sure that is: from its rate in the last sixteen
 * seconds and how much that varied.  Pure.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define ETA_SLOTS 32

struct eta {
    uint64_t slot_ns, slot_offset; /* where the running slot began; 0: none */
    double rate[ETA_SLOTS];        /* bytes/s of each of the last slots */
    unsigned n;                    /* slots so far, all time */
};

/* The job has come to @offset. May be called as often as one likes. */
void eta_update(struct eta *e, uint64_t offset, uint64_t now_ns);
/* Seconds from now on. */
struct eta_answer {
    double earliest, expected, latest; /* latest HUGE_VAL: there is no saying */
};
/* For @remaining bytes. False: nothing is known yet, or nothing moves. */
bool eta_get(const struct eta *e, uint64_t remaining, struct eta_answer *ret);
