/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Timers: a binary heap of pointers by deadline, 1-based so that heap_idx 0
 * means "not armed".
 */
#include "loop/loop-priv.h"

static void heap_place(struct loop *l, unsigned i, struct loop_timer *t)
{
    l->timers[i] = t;
    t->heap_idx = i;
}

static void heap_up(struct loop *l, unsigned i)
{
    struct loop_timer *t = l->timers[i];

    while (i > 1 && l->timers[i / 2]->deadline_ns > t->deadline_ns) {
        heap_place(l, i, l->timers[i / 2]);
        i /= 2;
    }
    heap_place(l, i, t);
}

static void heap_down(struct loop *l, unsigned i)
{
    struct loop_timer *t = l->timers[i];

    while (2 * i <= l->n_timers) {
        unsigned child = 2 * i;

        if (child < l->n_timers &&
            l->timers[child + 1]->deadline_ns < l->timers[child]->deadline_ns) {
            child++;
        }
        if (l->timers[child]->deadline_ns >= t->deadline_ns) {
            break;
        }
        heap_place(l, i, l->timers[child]);
        i = child;
    }
    heap_place(l, i, t);
}

void loop_timer_init(struct loop_timer *t, struct loop *l,
                     void (*fn)(void *arg), void *arg)
{
    *t = (struct loop_timer) { .loop = l, .fn = fn, .arg = arg };
}

void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns)
{
    struct loop *l = t->loop;

    if (!t->heap_idx) {
        if (l->n_timers + 1 >= l->max_timers) {
            l->max_timers = l->max_timers ? l->max_timers * 2 : 64;
            l->timers = g_renew(struct loop_timer *, l->timers, l->max_timers);
        }
        heap_place(l, ++l->n_timers, t);
    }
    t->deadline_ns = deadline_ns;
    heap_up(l, t->heap_idx);
    heap_down(l, t->heap_idx);
}

void loop_timer_cancel(struct loop_timer *t)
{
    struct loop *l = t->loop;
    unsigned i = t->heap_idx;
    struct loop_timer *last;

    if (!i) {
        return;
    }
    t->heap_idx = 0;
    last = l->timers[l->n_timers--];
    if (last != t) {
        heap_place(l, i, last);
        heap_up(l, i);
        heap_down(l, last->heap_idx);
    }
}

uint64_t loop_timers_next(const struct loop *l)
{
    return l->n_timers ? l->timers[1]->deadline_ns : UINT64_MAX;
}

/* A timer that its own function arms again for "now" waits for the next turn:
 * time as read at the start of the turn bounds the work. */
bool loop_timers_run(struct loop *l)
{
    unsigned budget = l->n_timers;
    bool any = false;

    while (budget-- && loop_timers_next(l) <= l->now_ns) {
        struct loop_timer *t = l->timers[1];

        loop_timer_cancel(t);
        t->fn(t->arg);
        any = true;
    }
    return any;
}
