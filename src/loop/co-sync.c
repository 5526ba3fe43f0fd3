/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting of coroutines for each other, all on one loop.  Whoever is woken was
 * taken off the queue by the waker, so a wake goes to exactly one waiter and a
 * waiter that times out loses none.
 */
#include <glib.h>
#include "loop/co.h"
#include "loop/loop-priv.h"

static struct co_waiter *co_queue_add_self(struct co_queue *q)
{
    struct co *co = co_self();
    struct co_waiter *w = &co->waiter;

    g_assert(co && !w->queue);
    *w = (struct co_waiter) { .co = co, .queue = q, .prev = q->tail };
    if (q->tail) {
        q->tail->next = w;
    } else {
        q->head = w;
    }
    q->tail = w;
    return w;
}

static void co_queue_remove(struct co_waiter *w)
{
    struct co_queue *q = w->queue;

    g_assert(q);
    if (w->prev) {
        w->prev->next = w->next;
    } else {
        q->head = w->next;
    }
    if (w->next) {
        w->next->prev = w->prev;
    } else {
        q->tail = w->prev;
    }
    w->queue = NULL;
}

CO_FN static void co_waiter_co_wait(struct co_waiter *w)
{
    while (w->queue) {
        co_block();
    }
}

void co_queue_co_wait(struct co_queue *q)
{
    co_waiter_co_wait(co_queue_add_self(q));
}

static void co_waiter_expire(void *arg)
{
    struct co_waiter *w = arg;

    if (w->queue) {
        co_queue_remove(w);
        w->timed_out = true;
        co_unblock(w->co);
    }
}

bool co_queue_co_wait_until(struct co_queue *q, uint64_t deadline_ns)
{
    struct co_waiter *w = co_queue_add_self(q);
    struct loop_timer t;

    loop_timer_init(&t, co_loop(w->co), co_waiter_expire, w);
    loop_timer_arm(&t, deadline_ns);
    co_waiter_co_wait(w);
    loop_timer_cancel(&t);
    return !w->timed_out;
}

bool co_queue_wake_one(struct co_queue *q)
{
    struct co_waiter *w = q->head;

    if (!w) {
        return false;
    }
    co_queue_remove(w);
    co_unblock(w->co);
    return true;
}

void co_queue_wake_all(struct co_queue *q)
{
    while (co_queue_wake_one(q)) {
    }
}

bool co_queue_empty(const struct co_queue *q)
{
    return !q->head;
}

void co_mutex_co_lock(struct co_mutex *m)
{
    struct co *self = co_self();

    g_assert(self && m->owner != self);
    if (!m->owner) {
        m->owner = self;
        return;
    }
    co_queue_co_wait(&m->waiters);
    g_assert(m->owner == self);
}

/* The mutex is handed to the first waiter, so nobody can overtake it. */
void co_mutex_unlock(struct co_mutex *m)
{
    g_assert(m->owner && m->owner == co_self());
    m->owner = m->waiters.head ? m->waiters.head->co : NULL;
    co_queue_wake_one(&m->waiters);
}

void co_latch_add(struct co_latch *l)
{
    l->count++;
}

void co_latch_done(struct co_latch *l)
{
    g_assert(l->count > 0);
    if (--l->count == 0) {
        co_queue_wake_all(&l->waiters);
    }
}

void co_latch_co_wait(struct co_latch *l)
{
    while (l->count) {
        co_queue_co_wait(&l->waiters);
    }
}
