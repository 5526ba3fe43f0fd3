/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes per second of background work one storage may be given while
 * guests use it.  The rule alone: pure, the caller brings the clock.
 *
 *   FREE      no guest has asked for anything for a second: no limit
 *   MEASURE   no background work at all for a moment, to learn what guests'
 *             requests take undisturbed; seldom
 *   GROW      more with each step that keeps the target
 *   NARROW    between the highest rate known to keep it and the lowest that
 *             did not, half-way each step, until they are near each other
 *   HOLD      the highest that keeps it
 *   PROBE     a little more for one step; asked for more and more seldom while
 *             the answer is no
 *
 *   FREE    -> GROW      wake(): a guest has asked for something; or MEASURE,
 *                        where it is not known what that takes undisturbed
 *   any     -> FREE      limit_tick(): no guest for a second, or no work
 *   MEASURE -> HOLD      measure_look(): at the rate that was good before ...
 *   MEASURE -> GROW      ... or, where none was, from a low one
 *   GROW    -> NARROW    step_bad(): the target was missed
 *   NARROW  -> HOLD      half_way(): the two rates are near each other
 *   HOLD    -> PROBE     step_good(): it is time to ask for more
 *   HOLD    -> NARROW    step_bad(), by cut()
 *   PROBE   -> GROW      step_good(): more was possible
 *   PROBE   -> HOLD      step_bad(): it was not
 *   HOLD    -> MEASURE   measure_again(): what was learned is old, and a pause
 *                        costs nothing now
 *
 * A step ends when so many requests were seen that one in a hundred can be told
 * (or after a second), and at once when clearly too many of them took longer
 * than the target.  Requests that began before the last change do not count.
 * What does not change for long leads to HOLD with ever rarer probes: the rate
 * does not swing without end.
 */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include "graph/background/latency.h"

/* What 99 of 100 requests of guests shall take at most: @ns, or, where that is
 * 0, @times what they take undisturbed.  Both 0: no target, no limit. */
struct latency_target {
    uint64_t ns;
    double times;
};

enum limit_phase {
    LIMIT_FREE,
    LIMIT_MEASURE,
    LIMIT_GROW,
    LIMIT_NARROW,
    LIMIT_HOLD,
    LIMIT_PROBE
};

/* limit_rate(): there is no limit. */
#define RATE_NONE HUGE_VAL

struct limit {
    struct latency_target target;
    enum limit_phase phase;
    double rate;      /* bytes/s while limited */
    double growth;    /* GROW: factor of a step */
    double good, bad; /* rates that kept the target, and did not; 0: none */
    uint64_t good_ns; /* when @good was found */
    double free_rate; /* that background work had without a limit */

    struct latency seen; /* by the requests of this step */
    uint64_t begun_ns;   /* the step, and the first request that counts */
    uint64_t bytes;      /* begun in the step */
    uint64_t look_ns;    /* not looked at before that */

    uint64_t idle_p99;                /* ns; 0: not known */
    uint64_t idle_ns;                 /* when that was learnt */
    struct latency idle, idle_before; /* two generations */
    uint64_t idle_turn_ns;            /* when the younger began */

    uint64_t demand_ns; /* a guest was about last; 0: never */
    unsigned demand;    /* requests of guests under way */
    uint64_t stall_ns;  /* when one was found to be stuck */
    unsigned works;     /* pieces of background work that want to go on */
    uint64_t in_flight; /* background bytes */
    uint64_t quiet_ns;  /* none since; when in_flight is 0 */

    uint64_t hold_ns;         /* HOLD until then at least */
    uint64_t hold_end_ns;     /* and at most, if there are few requests */
    uint32_t held_seen;       /* requests seen in HOLD */
    uint64_t backoff_ns;      /* length of the next HOLD */
    uint64_t measure_wait_ns; /* least time between two MEASUREs */
};

void limit_init(struct limit *l, uint64_t now_ns);
void limit_set_target(struct limit *l, const struct latency_target *t,
                      uint64_t now_ns);
/* A guest's request begins; one that began at @begun_ns is done. */
void limit_demand_begin(struct limit *l, uint64_t now_ns);
void limit_demand_done(struct limit *l, uint64_t begun_ns, uint64_t took_ns,
                       uint64_t now_ns);
/* So many bytes of background work begin, or are done. */
void limit_work_begin(struct limit *l, uint64_t bytes);
void limit_work_done(struct limit *l, uint64_t bytes, uint64_t now_ns);
/* Time passes; cheap when nothing is due. */
void limit_tick(struct limit *l, uint64_t now_ns);

/* Bytes/s; RATE_NONE, or 0: none at all for a moment. */
double limit_rate(const struct limit *l);
/* What the requests are compared with, ns; 0: no target is known. */
uint64_t limit_target_ns(const struct limit *l);
/* Bytes that one unit of background work should have at most, so that a guest's
 * request behind it does not wait for long. UINT64_MAX: any. */
uint64_t limit_unit(const struct limit *l);
#define LIMIT_UNIT_MAX (UINT64_C(256) << 10)
/* Bytes of background work that may be at the storage at once.  Without a limit
 * as much as it moves in a tenth of a second: more makes it no faster, and a
 * guest that wakes up has to wait for all of it.  Else what the rate gives in a
 * few times the target: if more is under way, the storage does not keep up. */
uint64_t limit_backlog(const struct limit *l);
