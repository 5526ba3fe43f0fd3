/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Background copying gives way to guests; see graph/admission.h. */
#include "graph/admission.h"
#include "graph/graph-int.h"
#include "graph/trace.h"
#include "loop/loop.h"

#define STEP_NS (20 * UINT64_C(1000000))
#define STEP_OPS 8 /* fewer tell nothing */
#define LOOK_NS UINT64_C(1000000)
#define FRESH_NS UINT64_C(1000000000)
#define GOOD_STEPS 4 /* between two tries */
#define HOLD_MAX 64
#define RATIO 1.5
#define SLACK_NS 20000.0 /* of scheduling, which is not the disk's */

static void limit_grow(struct admission_limit *l, uint64_t by)
{
    l->bytes = MIN(l->bytes + by, ADMISSION_MAX);
    l->wait = 1;
}

static void limit_fall(struct admission_limit *l)
{
    l->bytes = ADMISSION_FLOOR;
    l->hold = MIN(2 * l->hold + GOOD_STEPS, HOLD_MAX);
    l->wait = l->hold;
}

void admission_limit_step(struct admission_limit *l, uint64_t ops,
                          uint64_t time_ns, uint64_t now_ns)
{
    uint64_t n = ops - l->ops;
    double mean;

    if (l->step_ns && (now_ns - l->step_ns < STEP_NS || n < STEP_OPS)) {
        return;
    }
    mean = n ? (double)(time_ns - l->time_ns) / (double)n : 0;
    if (l->step_ns == 0 || now_ns - l->step_ns > FRESH_NS) {
        /* A new visit: begin with little, and know nothing. */
        *l = (struct admission_limit) { .bytes = ADMISSION_FLOOR,
                                        .wait = GOOD_STEPS };
    } else if (l->bytes == ADMISSION_FLOOR) {
        l->base = l->base > 0 ? l->base + (mean - l->base) / 4 : mean;
        if (l->wait == 0 || --l->wait == 0) {
            limit_grow(l, ADMISSION_FLOOR / 2);
        }
    } else if (mean > l->base * RATIO + SLACK_NS) {
        limit_fall(l);
    } else if (l->wait == 0 || --l->wait == 0) {
        l->hold = 0;
        limit_grow(l, l->bytes / 4);
    }
    l->step_ns = now_ns;
    l->ops = ops;
    l->time_ns = time_ns;
}

/* Are there guests, and what did they get? */
static void admission_look(struct graph *g, uint64_t now)
{
    struct admission *admission = &g->admission;
    uint64_t ops = 0, time_ns = 0;
    bool guests = false;

    admission->looked_ns = now;
    for (struct backend *u = g->backends; u; u = u->next) {
        if (u->latency_at_ns && now - u->latency_at_ns < FRESH_NS) {
            guests = true;
        }
        ops += u->stats.ops[ACCT_READ] + u->stats.ops[ACCT_WRITE];
        time_ns += u->stats.time_ns[ACCT_READ] + u->stats.time_ns[ACCT_WRITE];
    }
    admission->guests = guests;
    if (guests) {
        uint64_t was = admission->limit.bytes;

        admission_limit_step(&admission->limit, ops, time_ns, now);
        if (admission->limit.bytes != was) {
            trace_admission_limit(admission->limit.bytes,
                                  (uint64_t)admission->limit.base);
        }
    }
}

static bool admission_has_room(struct graph *g, uint64_t len)
{
    uint64_t now = loop_clock_ns(g->loop);

    if (now - g->admission.looked_ns >= LOOK_NS) {
        admission_look(g, now);
    }
    return !g->admission.guests || g->admission.bytes == 0 ||
           g->admission.bytes + len <= g->admission.limit.bytes;
}

struct admission_waiter {
    uint64_t len;
    bool admitted;
    struct co_queue co;
};

/* Admit those who wait, in order. */
static void admission_pump(struct graph *g)
{
    struct admission_waiter *w;

    while ((w = g_queue_peek_head(&g->admission.waiters)) &&
           admission_has_room(g, w->len)) {
        g_queue_pop_head(&g->admission.waiters);
        g->admission.bytes += w->len;
        w->admitted = true;
        co_queue_wake_all(&w->co);
    }
}

void admission_co_enter(struct graph *g, uint64_t len)
{
    struct admission_waiter w = { .len = len };

    if (g_queue_is_empty(&g->admission.waiters) && admission_has_room(g, len)) {
        g->admission.bytes += len;
        return;
    }
    g_queue_push_tail(&g->admission.waiters, &w);
    while (!w.admitted) {
        co_queue_co_wait(&w.co);
    }
}

void admission_leave(struct graph *g, uint64_t len)
{
    g_assert(g->admission.bytes >= len);
    g->admission.bytes -= len;
    admission_pump(g);
}
