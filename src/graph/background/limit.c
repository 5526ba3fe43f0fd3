/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See limit.h. */
#include "graph/background/limit.h"
#include <glib.h>
#include <math.h>

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)
#define KIB 1024.0
#define MIB (1024 * KIB)

/* Guests are about for so long after their last request. */
#define FRESH_NS SEC

#define STEP_NS (100 * MS) /* at least, with STEP_SEEN requests ... */
#define STEP_SEEN 200
#define STEP_MAX_NS SEC /* ... or so long */
#define UNSURE_NS (3 * SEC)
#define UNSURE_SEEN 1000
#define LOOK_NS (2 * MS)
#define DRAIN_MAX_NS (500 * MS)

#define RATE_MIN MIB
#define RATE_MAX (64 * 1024 * MIB)
#define START_MIN (8 * MIB)
#define START_MAX (128 * MIB)
#define GROWTH 2.0
#define GROWTH_AGAIN 1.4
#define NEAR 1.12   /* of two rates: between them nothing is to be won */
#define CUT 0.7     /* a rate that was held and is too high now */
#define BINDING 0.6 /* less of the rate was used: it says nothing */
/* A step too far costs some tens of requests their target before it is noticed.
 * They are to be much less than the one in a hundred that may miss it. */
#define PROBE_MORE 1.15
#define PROBE_SEEN 4000
#define BACKOFF_MIN_NS SEC
#define BACKOFF_MAX_NS (60 * SEC)
#define GOOD_FOR_NS (60 * SEC) /* a rate is a good start for so long */

/* Undisturbed latency. */
#define IDLE_SETTLE_NS (5 * MS)
#define IDLE_TURN_NS (5 * SEC)
#define IDLE_FEW 30
#define IDLE_FOR_NS (60 * SEC)
#define MEASURE_SEEN 400
#define MEASURE_NS (30 * MS)
#define MEASURE_LONG_NS (150 * MS) /* with IDLE_FEW requests ... */
#define MEASURE_MAX_NS (400 * MS)  /* ... or none */
#define MEASURE_WAIT_MIN_NS (2 * SEC)
#define MEASURE_WAIT_MAX_NS (60 * SEC)
/* A target that is nearer to the idle value measures the scheduler. */
#define SLACK_NS (50 * UINT64_C(1000))
#define TARGET_UNKNOWN_NS (5 * MS)

#define UNIT_MIN (UINT64_C(16) << 10)
#define UNIT_PART 0.5 /* of the target that a unit occupies the storage */

#define BACKLOG_MIN (4 * MIB)
#define BACKLOG_SECONDS 0.1
#define BACKLOG_UNITS 4
#define BACKLOG_TARGETS 3
#define BACKLOG_LEAST_NS (20 * MS)

/* A guest's request that has been under way for so many targets says enough
 * before it is done: behind a long queue hardly any get done. */
#define STALL_TARGETS 4
#define STALL_LEAST_NS (20 * MS)

void limit_init(struct limit *l, uint64_t now_ns)
{
    *l = (struct limit) { .target = { .times = 2 },
                          .backoff_ns = BACKOFF_MIN_NS,
                          .measure_wait_ns = MEASURE_WAIT_MIN_NS,
                          .idle_turn_ns = now_ns,
                          .begun_ns = now_ns };
}

static bool has_target(const struct limit *l)
{
    return l->target.ns || l->target.times > 0;
}

uint64_t limit_target_ns(const struct limit *l)
{
    double ns;

    if (l->target.ns || !has_target(l)) {
        return l->target.ns;
    }
    ns = (double)l->idle_p99 * l->target.times;
    return l->idle_p99 ? MAX((uint64_t)ns, l->idle_p99 + SLACK_NS)
                       : TARGET_UNKNOWN_NS;
}

double limit_rate(const struct limit *l)
{
    return l->phase == LIMIT_FREE      ? RATE_NONE
           : l->phase == LIMIT_MEASURE ? 0
                                       : l->rate;
}

uint64_t limit_unit(const struct limit *l)
{
    double occupied = (double)limit_target_ns(l) / 1e9 * UNIT_PART;
    double bytes = occupied * (l->free_rate > 0 ? l->free_rate : START_MAX);
    uint64_t unit = UNIT_MIN;

    if (l->phase == LIMIT_FREE) {
        return UINT64_MAX;
    }
    while (unit < LIMIT_UNIT_MAX && (double)unit * 2 <= bytes) {
        unit *= 2;
    }
    return unit;
}

uint64_t limit_backlog(const struct limit *l)
{
    uint64_t target = limit_target_ns(l);

    if (l->phase == LIMIT_FREE) {
        return (uint64_t)MAX(BACKLOG_MIN, l->free_rate * BACKLOG_SECONDS);
    }
    target = MAX(BACKLOG_TARGETS * target, BACKLOG_LEAST_NS);
    return MAX(BACKLOG_UNITS * limit_unit(l),
               (uint64_t)(l->rate * (double)target / 1e9));
}

/* --- the steps --- */

/* What is under way was begun at the old rate: requests that meet it say
 * nothing of the new one. */
static void step_begin(struct limit *l, double old_rate, uint64_t now_ns)
{
    double drain = (double)l->in_flight / MAX(old_rate, RATE_MIN) * 1e9;

    latency_clear(&l->seen);
    l->bytes = 0;
    l->begun_ns = now_ns + (uint64_t)MIN(drain, (double)DRAIN_MAX_NS);
}

static void set_rate(struct limit *l, double rate, enum limit_phase phase,
                     uint64_t now_ns)
{
    double old = l->phase == LIMIT_FREE ? l->free_rate : l->rate;

    l->rate = CLAMP(rate, RATE_MIN, RATE_MAX);
    l->phase = phase;
    step_begin(l, old, now_ns);
}

static void hold(struct limit *l, double rate, uint64_t now_ns)
{
    set_rate(l, rate, LIMIT_HOLD, now_ns);
    l->hold_ns = now_ns + l->backoff_ns;
    l->hold_end_ns = now_ns + BACKOFF_MAX_NS;
    l->held_seen = 0;
}

static void limit_measure(struct limit *l, uint64_t now_ns)
{
    set_rate(l, l->rate, LIMIT_MEASURE, now_ns);
    latency_clear(&l->idle);
    latency_clear(&l->idle_before);
}

/* Is it time to look again what requests take undisturbed? */
static bool measure_is_due(const struct limit *l, uint64_t now_ns)
{
    return !l->target.ns && now_ns - l->idle_ns >= l->measure_wait_ns;
}

/* The rate is as low as it gets, or holds: nothing is lost by a look. */
static bool measure_again(struct limit *l, uint64_t now_ns)
{
    if (!measure_is_due(l, now_ns)) {
        return false;
    }
    limit_measure(l, now_ns);
    return true;
}

static void half_way(struct limit *l, uint64_t now_ns)
{
    if (l->bad / l->good <= NEAR) {
        hold(l, l->good, now_ns);
    } else {
        set_rate(l, sqrt(l->good * l->bad), LIMIT_NARROW, now_ns);
    }
}

static bool hold_is_over(const struct limit *l, uint64_t now_ns)
{
    return now_ns >= l->hold_ns &&
           (l->held_seen >= PROBE_SEEN || now_ns >= l->hold_end_ns);
}

/* The step has kept the target. */
static void step_good(struct limit *l, double used, uint64_t now_ns)
{
    bool binding = used >= BINDING * l->rate;

    l->free_rate = MAX(l->free_rate, used);
    if (!binding && l->phase == LIMIT_PROBE) {
        hold(l, l->good, now_ns);
        return;
    }
    if (!binding && l->phase != LIMIT_HOLD) {
        /* Something else holds the work back: nothing is known of a rate that
         * nobody tried. */
        step_begin(l, l->rate, now_ns);
        return;
    }
    if (binding) {
        l->good = l->rate;
        l->good_ns = now_ns;
    }
    switch (l->phase) {
    case LIMIT_GROW: set_rate(l, l->rate * l->growth, l->phase, now_ns); break;
    case LIMIT_NARROW: half_way(l, now_ns); break;
    case LIMIT_PROBE:
        l->backoff_ns = BACKOFF_MIN_NS;
        l->growth = GROWTH_AGAIN;
        set_rate(l, l->rate * l->growth, LIMIT_GROW, now_ns);
        break;
    default:
        l->held_seen += l->seen.total;
        if (hold_is_over(l, now_ns) && !measure_again(l, now_ns)) {
            set_rate(l, l->rate * (binding ? PROBE_MORE : 1),
                     binding ? LIMIT_PROBE : LIMIT_HOLD, now_ns);
        } else if (l->phase == LIMIT_HOLD) {
            step_begin(l, l->rate, now_ns);
        }
        break;
    }
}

static void cut(struct limit *l, double part, uint64_t now_ns)
{
    l->good = 0;
    set_rate(l, l->rate * part, LIMIT_NARROW, now_ns);
}

/* It has not. @severe: by far. */
static void step_bad(struct limit *l, bool severe, uint64_t now_ns)
{
    bool lowest = l->rate <= RATE_MIN;

    l->bad = l->rate;
    if (lowest) {
        l->good = 0;
        if (!measure_again(l, now_ns)) {
            hold(l, RATE_MIN, now_ns);
            l->held_seen = PROBE_SEEN; /* the backoff alone counts here */
        }
    } else if (l->phase == LIMIT_PROBE) {
        l->backoff_ns = MIN(2 * l->backoff_ns, BACKOFF_MAX_NS);
        hold(l, l->good, now_ns);
    } else if (l->phase == LIMIT_HOLD) {
        cut(l, severe ? CUT / 2 : CUT, now_ns);
    } else if (l->good > 0 && l->good < l->rate && !severe) {
        half_way(l, now_ns);
    } else {
        cut(l, severe ? 0.25 : 0.5, now_ns);
    }
}

/* Too many for chance: twice the deviation above one in a hundred, and never a
 * single one. */
static bool clearly_too_many(double over, double seen)
{
    return over >= 2 && over > 0.01 * seen + 2 * sqrt(0.01 * seen) + 1;
}

/* Nothing of what guests asked for gets done. */
static bool is_stalled(const struct limit *l, uint64_t now_ns)
{
    uint64_t since = MAX(MAX(l->demand_ns, l->stall_ns), l->begun_ns);
    uint64_t enough = MAX(STALL_TARGETS * limit_target_ns(l), STALL_LEAST_NS);

    return l->demand && l->in_flight && now_ns > since &&
           now_ns - since > enough;
}

static void step_look(struct limit *l, uint64_t now_ns)
{
    uint64_t took = now_ns > l->begun_ns ? now_ns - l->begun_ns : 0;
    uint32_t seen = l->seen.total;
    uint32_t over = latency_over(&l->seen, limit_target_ns(l));
    bool long_enough = (took >= STEP_NS && seen >= STEP_SEEN) ||
                       took >= STEP_MAX_NS;
    bool sure = seen >= UNSURE_SEEN || took >= UNSURE_NS;

    if (is_stalled(l, now_ns)) {
        l->stall_ns = now_ns;
        step_bad(l, true, now_ns);
    } else if (clearly_too_many(over, seen)) {
        step_bad(l, over > seen / 2, now_ns);
    } else if (long_enough && seen > 0) {
        if ((double)over <= 0.01 * seen) {
            step_good(l, (double)l->bytes * 1e9 / (double)took, now_ns);
        } else if (sure && over >= 2) {
            step_bad(l, false, now_ns);
        } else if (sure) {
            step_begin(l, l->rate, now_ns); /* one, of few */
        }
    }
}

/* --- undisturbed latency --- */

static bool is_quiet(const struct limit *l, uint64_t since_ns)
{
    return (l->works == 0 || l->phase == LIMIT_MEASURE) && l->in_flight == 0 &&
           since_ns >= l->quiet_ns + IDLE_SETTLE_NS;
}

static void idle_learn(struct limit *l, uint64_t now_ns)
{
    struct latency all = l->idle;

    latency_merge(&all, &l->idle_before);
    if (all.total) {
        l->idle_p99 = latency_quantile(&all, 99);
    }
    l->idle_ns = now_ns;
}

static void idle_add(struct limit *l, uint64_t took, uint64_t now_ns)
{
    if (l->phase != LIMIT_MEASURE && now_ns - l->idle_turn_ns >= IDLE_TURN_NS) {
        l->idle_before = l->idle;
        latency_clear(&l->idle);
        l->idle_turn_ns = now_ns;
    }
    latency_add(&l->idle, took);
}

/* Nothing of the background was under way for seconds: what was seen meanwhile
 * needs no MEASURE. */
static void idle_take_over(struct limit *l, uint64_t now_ns)
{
    if (l->idle.total + l->idle_before.total >= IDLE_FEW &&
        now_ns - l->idle_turn_ns < 2 * IDLE_TURN_NS) {
        idle_learn(l, now_ns);
    }
}

static void start(struct limit *l, uint64_t now_ns)
{
    bool known = l->good > 0 && now_ns - l->good_ns < GOOD_FOR_NS;

    l->growth = known ? GROWTH_AGAIN : GROWTH;
    l->bad = 0;
    l->backoff_ns = BACKOFF_MIN_NS;
    set_rate(l,
             known ? l->good * CUT
                   : CLAMP(l->free_rate / 8, START_MIN, START_MAX),
             LIMIT_GROW, now_ns);
}

static void measure_look(struct limit *l, uint64_t now_ns)
{
    uint64_t since = MAX(l->begun_ns, l->quiet_ns + IDLE_SETTLE_NS);
    uint64_t took = l->in_flight == 0 && now_ns > since ? now_ns - since : 0;
    bool all = l->idle.total >= MEASURE_SEEN && took >= MEASURE_NS;
    bool few = l->idle.total >= IDLE_FEW && took >= MEASURE_LONG_NS;
    uint64_t was = l->idle_p99;

    if (!all && !few && took < MEASURE_MAX_NS) {
        return;
    }
    idle_learn(l, now_ns);
    /* As before: it need not be asked for as often. */
    l->measure_wait_ns = was && l->idle_p99 <= was + was / 4 &&
                                 l->idle_p99 >= was - was / 4
                             ? MIN(2 * l->measure_wait_ns, MEASURE_WAIT_MAX_NS)
                             : MEASURE_WAIT_MIN_NS;
    if (l->rate > 0 && l->good > 0) {
        hold(l, l->good, now_ns);
        l->held_seen = PROBE_SEEN; /* the target may have changed */
    } else {
        start(l, now_ns);
    }
}

/* --- guests come and go --- */

static void wake(struct limit *l, uint64_t now_ns)
{
    idle_take_over(l, now_ns);
    start(l, now_ns);
    if (!l->target.ns && (!l->idle_p99 || now_ns - l->idle_ns >= IDLE_FOR_NS)) {
        limit_measure(l, now_ns);
    }
}

void limit_demand_begin(struct limit *l, uint64_t now_ns)
{
    l->demand++;
    l->demand_ns = now_ns;
}

void limit_demand_done(struct limit *l, uint64_t begun_ns, uint64_t took_ns,
                       uint64_t now_ns)
{
    l->demand--;
    l->demand_ns = now_ns;
    if (is_quiet(l, begun_ns)) {
        idle_add(l, took_ns, now_ns);
    }
    if (begun_ns >= l->begun_ns) {
        latency_add(&l->seen, took_ns);
    }
    limit_tick(l, now_ns);
}

void limit_work_begin(struct limit *l, uint64_t bytes)
{
    l->in_flight += bytes;
    l->bytes += bytes;
}

void limit_work_done(struct limit *l, uint64_t bytes, uint64_t now_ns)
{
    g_assert(l->in_flight >= bytes);
    l->in_flight -= bytes;
    if (l->in_flight == 0) {
        l->quiet_ns = now_ns;
    }
    limit_tick(l, now_ns);
}

/* Without a limit the step is there to know the rate. */
static void free_look(struct limit *l, uint64_t now_ns)
{
    uint64_t took = now_ns - MIN(l->begun_ns, now_ns);

    if (took >= STEP_NS && l->bytes) {
        double rate = (double)l->bytes * 1e9 / (double)took;

        l->free_rate = MAX(rate, l->free_rate * 0.9);
        step_begin(l, RATE_MAX, now_ns);
    }
}

void limit_set_target(struct limit *l, const struct latency_target *t,
                      uint64_t now_ns)
{
    if (l->target.ns == t->ns && l->target.times == t->times) {
        return;
    }
    l->target = *t;
    l->good = 0;
    if (l->phase != LIMIT_FREE) {
        l->phase = LIMIT_FREE;
        limit_tick(l, now_ns);
    }
}

void limit_tick(struct limit *l, uint64_t now_ns)
{
    bool guests = l->demand_ns &&
                  (l->demand || now_ns - l->demand_ns < FRESH_NS);

    if (l->phase == LIMIT_FREE) {
        if (guests && has_target(l) && l->works) {
            wake(l, now_ns);
        } else {
            free_look(l, now_ns);
        }
        return;
    }
    if (!guests || !has_target(l) || !l->works) {
        set_rate(l, l->rate, LIMIT_FREE, now_ns);
    } else if (l->phase == LIMIT_MEASURE) {
        measure_look(l, now_ns);
    } else if (now_ns >= l->look_ns) {
        l->look_ns = now_ns + LOOK_NS;
        step_look(l, now_ns);
    }
}
