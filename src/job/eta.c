/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See eta.h. */
#include "job/eta.h"
#include <glib.h>
#include <math.h>

#define SLOT_NS (500 * UINT64_C(1000000))
#define SLOTS_MIN 4
/* The mean of the slots is off by their deviation over the root of their
 * number, if they have nothing to do with each other.  Slots have: what made
 * one slow often makes the next slow, so it is taken twice, and twice again for
 * nineteen cases of twenty. */
#define DEVIATIONS 4.0
#define LEAST_SPREAD 0.1

void eta_update(struct eta *e, uint64_t offset, uint64_t now_ns)
{
    uint64_t took = now_ns - e->slot_ns;

    if (e->slot_ns && offset >= e->slot_offset && took < SLOT_NS) {
        return;
    }
    if (e->slot_ns && offset >= e->slot_offset) {
        e->rate[e->n++ % ETA_SLOTS] = (double)(offset - e->slot_offset) * 1e9 /
                                      (double)took;
    }
    e->slot_ns = now_ns;
    e->slot_offset = offset;
}

bool eta_get(const struct eta *e, uint64_t remaining, struct eta_answer *ret)
{
    unsigned n = MIN(e->n, ETA_SLOTS);
    double sum = 0, squares = 0, mean, spread;

    if (n < SLOTS_MIN) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        sum += e->rate[i];
        squares += e->rate[i] * e->rate[i];
    }
    mean = sum / n;
    if (mean <= 0) {
        return false;
    }
    spread = DEVIATIONS * sqrt(MAX(squares / n - mean * mean, 0) / n);
    spread = MAX(spread, mean * LEAST_SPREAD);
    ret->expected = (double)remaining / mean;
    ret->earliest = (double)remaining / (mean + spread);
    ret->latest = spread < mean ? (double)remaining / (mean - spread)
                                : HUGE_VAL;
    return true;
}
