/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stackful coroutines on pooled stacks with guard pages.
 *
 * A coroutine belongs to the loop it was started on and never leaves it.
 * co_wake() only queues: the woken coroutine runs in the same or next turn of
 * its loop, never inside the caller.  Sanitizers and valgrind are told of each
 * switch (loop/co-switch.c).  Stacks are 256 KiB; with SLUICE_CO_POOL=0 in the
 * environment none is used twice, so that stale pointers into them fault.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct co;
struct loop;

/* Start @fn(@arg) as a coroutine of @l, queued for the coming turn.
 * Context: @l's thread. */
void co_start(struct loop *l, void (*fn)(void *arg), void *arg);

/* The running coroutine, or NULL outside one. */
struct co *co_self(void);
struct loop *co_loop(const struct co *co);

/* Give up the processor until co_wake(). A wake that came before the yield is
 * remembered (one), so wake-then-yield does not hang. */
CO_FN void co_yield (void);
/* Context: the coroutine's loop. */
void co_wake(struct co *co);

/* Let every other ready coroutine run first. */
CO_FN void co_relax(void);

/* Sleep at least @ns. */
CO_FN void co_sleep(uint64_t ns);

/* Run @fn(@arg) on a thread of the pool and wait: for calls that block and that
 * no engine operation covers (decompression, name lookups). @fn must not touch
 * loop state. */
CO_FN void co_in_pool(void (*fn)(void *arg), void *arg);

/* Run @fn(@arg) as a coroutine of another loop and wait here. */
CO_FN void co_call_on(struct loop *other, void (*fn)(void *arg), void *arg);

/* Coroutines alive on @l; for leak checks. */
unsigned co_count(const struct loop *l);

/* Waiting, loop-local; all zero-initialised. */

/* A queue of waiters, woken in order of arrival. */
struct co_waiter;
struct co_queue {
    struct co_waiter *head, *tail;
};
CO_FN void co_queue_co_wait(struct co_queue *q);
/* As above, but gives up at @deadline_ns (loop clock). False on time-out. */
CO_FN bool co_queue_co_wait_until(struct co_queue *q, uint64_t deadline_ns);
bool co_queue_wake_one(struct co_queue *q);
void co_queue_wake_all(struct co_queue *q);
bool co_queue_empty(const struct co_queue *q);

/* A mutex; fair; not recursive. */
struct co_mutex {
    struct co *owner;
    struct co_queue waiters;
};
CO_FN void co_mutex_co_lock(struct co_mutex *m);
void co_mutex_unlock(struct co_mutex *m);

/* A counter that can be waited on until it is zero: tasks in flight. */
struct co_latch {
    unsigned count;
    struct co_queue waiters;
};
void co_latch_add(struct co_latch *l);
void co_latch_done(struct co_latch *l);
CO_FN void co_latch_co_wait(struct co_latch *l);
