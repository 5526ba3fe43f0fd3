/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inside of loops and coroutines.  Private to loop/ and to engines.
 *
 * A coroutine that waits is either yielded (its own doing: co_wake() ends it)
 * or blocked (in a primitive of this folder: only co_unblock() ends it).  A
 * co_wake() that meets any other state is remembered for the next yield, so a
 * wake is never swallowed by an unrelated wait for I/O.
 *
 *   ready    -> running   the loop's turn, which takes it from ->ready
 *   running  -> ready     co_relax(): in the next turn
 *   running  -> yielded   co_yield()
 *   running  -> blocked   the wait of a queue, a latch, a timer or an I/O
 *   yielded  -> ready     co_wake()
 *   blocked  -> ready     co_unblock()
 *   running  -> ended     its function has returned; the stack is kept for the
 *                         next one
 */
#pragma once
#include <pthread.h>
#include "loop/co-switch.h"
#include "loop/co.h"
#include "loop/engine.h"
#include "loop/spin.h"

enum co_state { CO_RUNNING, CO_READY, CO_YIELDED, CO_BLOCKED, CO_ENDED };

/* A coroutine's place in the one queue it may wait in. */
struct co_waiter {
    struct co_waiter *next, *prev;
    struct co *co;
    struct co_queue *queue; /* NULL once taken off */
    bool timed_out;
};

struct co {
    struct co_ctx ctx;
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
    struct co *next; /* in the run queue or in the pool */
    enum co_state state;
    bool wake_pending;
    struct co_waiter waiter;
};

struct co_list {
    struct co *head, *tail;
};

#define IO_BUF_CLASSES 9 /* 4 KiB << 0 ... 4 KiB << 8 = 1 MiB */

struct io_buf_pool {
    void *free[IO_BUF_CLASSES]; /* linked through their first bytes */
    size_t bytes;
};

struct loop {
    const struct io_engine *engine;
    void *engine_state;
    struct pool *pool; /* NULL with a custom engine */

    uint64_t now_ns;
    struct loop_timer **timers; /* binary heap, 1-based */
    unsigned n_timers, max_timers;

    struct co_list ready;   /* run in this turn */
    struct co_list relaxed; /* run in the next */
    struct co *running;
    struct co_ctx main_ctx;
    unsigned n_co;
    struct co *co_pool;
    unsigned n_co_pool, max_co_pool;
    unsigned n_inline; /* requests completed at once, in a row */

    struct io_buf_pool bufs;
    struct spin spin;

    pthread_mutex_t msg_lock; /* guards these two */
    struct loop_msg *msg_head, *msg_tail;
    bool has_msgs; /* atomic hint: msg_head is set */
    bool sleeping; /* atomic: a message must wake the engine */
    bool stop;     /* atomic */
};

/* Queue @m for its function on @l's thread. Any thread. */
void loop_send(struct loop *l, struct loop_msg *m);

/* Run coroutines that are ready. True if any ran. */
bool co_run_ready(struct loop *l);
void co_pool_done(struct loop *l);

/* Wait for co_unblock(), whatever co_wake() says. */
CO_FN void co_block(void);
/* Harmless on a coroutine that is not blocked. */
void co_unblock(struct co *co);

/* Call what is due. True if anything was. */
bool loop_timers_run(struct loop *l);
/* Deadline of the earliest, or UINT64_MAX. */
uint64_t loop_timers_next(const struct loop *l);

void io_buf_pool_done(struct io_buf_pool *p);
