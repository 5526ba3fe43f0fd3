/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Coroutines: life, run queue, waiting.
 *
 * Only the loop switches to coroutines and coroutines switch only back to the
 * loop, so a switch never nests.  Ended coroutines park on their stacks in a
 * bounded pool of the loop.
 */
#include "loop/co.h"
#include <glib.h>
#include <string.h>
#include "loop/loop-priv.h"

co_capability_t co_context;

/* Switches between two visits of the engine: bounds how long a set of
 * coroutines that wake each other keeps I/O and timers waiting. */
#define MAX_SWITCHES_A_TURN 512

static void co_list_add(struct co_list *list, struct co *co)
{
    co->next = NULL;
    if (list->head) {
        list->tail->next = co;
    } else {
        list->head = co;
    }
    list->tail = co;
}

static void co_list_add_first(struct co_list *list, struct co *co)
{
    co->next = list->head;
    if (!list->head) {
        list->tail = co;
    }
    list->head = co;
}

static struct co *co_list_take(struct co_list *list)
{
    struct co *co = list->head;

    if (co) {
        list->head = co->next;
    }
    return co;
}

static void co_make_ready(struct co *co)
{
    const struct io_engine *engine = co->loop->engine;

    co->state = CO_READY;
    if (engine->runs_first && engine->runs_first(co->loop)) {
        co_list_add_first(&co->loop->ready, co);
    } else {
        co_list_add(&co->loop->ready, co);
    }
}

/* Lowest function of every coroutine's stack; one turn of it is one life. */
static void co_main(void *arg)
{
    struct co *co = arg;

    while (true) {
        co->fn(co->arg);
        co->state = CO_ENDED;
        co_ctx_switch(&co->ctx, &co->loop->main_ctx, true);
    }
}

static struct co *co_new(struct loop *l)
{
    struct co *co = l->co_pool;

    if (co) {
        l->co_pool = co->next;
        l->n_co_pool--;
        co_ctx_poison(&co->ctx, false);
        return co;
    }
    co = g_new0(struct co, 1);
    if (!co_ctx_init(&co->ctx, co_main, co)) {
        g_error("Cannot map the stack of coroutine %u: %s", l->n_co + 1,
                g_strerror(errno));
    }
    co->loop = l;
    return co;
}

static void co_free(struct co *co)
{
    co_ctx_done(&co->ctx);
    g_free(co);
}

static void co_retire(struct co *co)
{
    struct loop *l = co->loop;

    l->n_co--;
    if (l->n_co_pool >= l->max_co_pool) {
        co_free(co);
        return;
    }
    co_ctx_poison(&co->ctx, true);
    co->next = l->co_pool;
    l->co_pool = co;
    l->n_co_pool++;
}

void co_pool_done(struct loop *l)
{
    while (l->co_pool) {
        struct co *co = l->co_pool;

        l->co_pool = co->next;
        co_free(co);
    }
    l->n_co_pool = 0;
}

void co_start(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct co *co = co_new(l);

    co->fn = fn;
    co->arg = arg;
    co->wake_pending = false;
    l->n_co++;
    co_make_ready(co);
}

bool co_run_ready(struct loop *l)
{
    struct co *co;
    unsigned n = 0;

    if (l->relaxed.head) {
        if (l->ready.head) {
            l->ready.tail->next = l->relaxed.head;
        } else {
            l->ready.head = l->relaxed.head;
        }
        l->ready.tail = l->relaxed.tail;
        l->relaxed.head = NULL;
    }
    while (n < MAX_SWITCHES_A_TURN && (co = co_list_take(&l->ready))) {
        n++;
        co->state = CO_RUNNING;
        l->running = co;
        co_ctx_switch(&l->main_ctx, &co->ctx, false);
        l->running = NULL;
        if (co->state == CO_ENDED) {
            co_retire(co);
        }
    }
    return n > 0;
}

struct co *co_self(void)
{
    struct loop *l = loop_current();

    return l ? l->running : NULL;
}

struct loop *co_loop(const struct co *co)
{
    return co->loop;
}

unsigned co_count(const struct loop *l)
{
    return l->n_co;
}

CO_FN static void co_leave(struct co *co, enum co_state state)
{
    g_assert(co && co->state == CO_RUNNING);
    co->state = state;
    co_ctx_switch(&co->ctx, &co->loop->main_ctx, false);
}

void co_yield (void)
{
    struct co *co = co_self();

    if (co && co->wake_pending) {
        co->wake_pending = false;
        return;
    }
    co_leave(co, CO_YIELDED);
}

void co_wake(struct co *co)
{
    g_assert(co->loop == loop_current());
    if (co->state == CO_YIELDED) {
        co_make_ready(co);
    } else {
        co->wake_pending = true;
    }
}

void co_block(void)
{
    co_leave(co_self(), CO_BLOCKED);
}

void co_unblock(struct co *co)
{
    if (co->state == CO_BLOCKED) {
        co_make_ready(co);
    }
}

void co_relax(void)
{
    struct co *co = co_self();

    g_assert(co);
    co_list_add(&co->loop->relaxed, co);
    co_leave(co, CO_READY);
}

/* Waiting for one thing that calls back on this loop. */
struct co_event {
    struct co *co;
    bool happened;
};

CO_FN static void co_event_co_wait(struct co_event *e)
{
    while (!e->happened) {
        co_block();
    }
}

static void co_event_set(void *arg)
{
    struct co_event *e = arg;

    e->happened = true;
    co_unblock(e->co);
}

void co_sleep(uint64_t ns)
{
    struct co_event e = { .co = co_self() };
    struct loop_timer t;

    g_assert(e.co);
    loop_timer_init(&t, e.co->loop, co_event_set, &e);
    loop_timer_arm(&t, loop_clock_ns(e.co->loop) + ns);
    co_event_co_wait(&e);
}

void co_in_pool(void (*fn)(void *arg), void *arg)
{
    struct io_req r = { .op = IO_OP_CALL, .fn = fn, .arg = arg };

    io_req_co_run(&r);
}

struct co_call {
    struct co_event event;
    struct loop *here, *there;
    void (*fn)(void *arg);
    void *arg;
    struct loop_msg msg;
};

static struct co_call *co_call_of(struct loop_msg *m)
{
    return (struct co_call *)(void *)((char *)m -
                                      offsetof(struct co_call, msg));
}

static void co_call_returned(struct loop_msg *m)
{
    co_event_set(&co_call_of(m)->event);
}

CO_FN static void co_call_entry(void *arg)
{
    struct co_call *c = arg;

    c->fn(c->arg);
    c->msg.fn = co_call_returned;
    loop_send(c->here, &c->msg);
}

static void co_call_arrived(struct loop_msg *m)
{
    struct co_call *c = co_call_of(m);

    co_start(c->there, co_call_entry, c);
}

void co_call_on(struct loop *other, void (*fn)(void *arg), void *arg)
{
    struct co *self = co_self();
    struct co_call c = {
        .event.co = self,
        .there = other,
        .fn = fn,
        .arg = arg,
        .msg.fn = co_call_arrived,
    };

    g_assert(self);
    c.here = self->loop;
    if (c.here == other) {
        fn(arg);
        return;
    }
    loop_send(other, &c.msg);
    co_event_co_wait(&c.event);
}
