/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "coro.h"
#include <glib.h>
#include "loop/loop.h"

#define SETTLE_TURNS 200

struct run {
    void (*fn)(void *arg);
    void *arg;
    struct loop *loop;
};

static CO_FN void run_entry(void *arg)
{
    struct run *r = arg;

    r->fn(r->arg);
    loop_stop(r->loop);
}

void coro_run_on(const struct loop_options *opts, void (*fn)(void *arg),
                 void *arg)
{
    struct run r = { .fn = fn, .arg = arg };
    GError *err = NULL;
    int ret = loop_new(opts, &r.loop, &err);

    g_assert_no_error(err);
    g_assert_cmpint(ret, ==, 0);
    co_start(r.loop, run_entry, &r);
    loop_run(r.loop);
    for (unsigned i = 0; i < SETTLE_TURNS && co_count(r.loop) > 0; i++) {
        loop_turn(r.loop, false);
    }
    g_assert_cmpuint(co_count(r.loop), ==, 0);
    loop_free(r.loop);
}

void coro_run(void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = { .engine = IO_ENGINE_THREADS, .workers = 1 };

    coro_run_on(&opts, fn, arg);
}

void latch_co_wait(struct latch *l)
{
    l->waiting++;
    while (l->shut) {
        co_queue_co_wait(&l->queue);
    }
    l->waiting--;
}

void latch_open(struct latch *l)
{
    l->shut = false;
    co_queue_wake_all(&l->queue);
}

void coro_co_settle(void)
{
    for (unsigned i = 0; i < SETTLE_TURNS; i++) {
        co_relax();
    }
}
