/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop: turns, messages from other threads, the choice of an engine.
 *
 * A sender appends and wakes under one lock, which the loop also takes to
 * receive: whoever received a message may therefore free the loop at once.  The
 * engine is woken only when the loop has said, under the same lock, that it is
 * about to sleep.
 */
#include "loop/loop.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/err.h"
#include "loop/loop-priv.h"
#include "loop/pool.h"

#define CO_POOL_MAX 256 /* idle stacks kept by a loop */

static __thread struct loop *current;

static const char *const engine_names[] = {
    [IO_ENGINE_AUTO] = "auto",
    [IO_ENGINE_IO_URING] = "io_uring",
    [IO_ENGINE_THREADS] = "threads",
};
G_STATIC_ASSERT(G_N_ELEMENTS(engine_names) == IO_ENGINE_COUNT);

static const struct io_engine *const engines[] = {
    [IO_ENGINE_IO_URING] = &engine_uring,
    [IO_ENGINE_THREADS] = &engine_threads,
};

int io_engine_parse(const char *name, enum io_engine_kind *ret_kind,
                    GError **err)
{
    for (int i = 0; i < IO_ENGINE_COUNT; i++) {
        if (strcmp(name, engine_names[i]) == 0) {
            *ret_kind = (enum io_engine_kind)i;
            return 0;
        }
    }
    return err_set(err, EINVAL,
                   "Unknown I/O engine '%s', expected auto, "
                   "io_uring or threads",
                   name);
}

static int loop_set_engine(struct loop *l, const struct loop_options *opts,
                           GError **err)
{
    enum io_engine_kind kind = opts->engine;
    const char *preferred = getenv("SLUICE_IO_ENGINE");
    int r;

    if (opts->custom) {
        l->engine = opts->custom;
        return l->engine->init(l, opts, err);
    }
    if (kind == IO_ENGINE_AUTO && preferred) {
        r = io_engine_parse(preferred, &kind, err);
        if (r < 0) {
            err_prefix(err, "SLUICE_IO_ENGINE");
            return r;
        }
    }
    if (kind == IO_ENGINE_AUTO) {
        l->engine = &engine_uring;
        if (l->engine->init(l, opts, NULL) == 0) {
            return 0;
        }
        kind = IO_ENGINE_THREADS;
    }
    l->engine = engines[kind];
    return l->engine->init(l, opts, err);
}

/* How many coroutines that ended are kept for the next ones. */
static unsigned max_pooled_coroutines(void)
{
    const char *text = getenv("SLUICE_CO_POOL");
    uint64_t n = CO_POOL_MAX;

    if (text) {
        g_ascii_string_to_unsigned(text, 10, 0, UINT_MAX, &n, NULL);
    }
    return (unsigned)n;
}

int loop_new(const struct loop_options *opts, struct loop **ret_loop,
             GError **err)
{
    struct loop *l = g_new0(struct loop, 1);
    int r;

    l->max_co_pool = max_pooled_coroutines();
    pthread_mutex_init(&l->msg_lock, NULL);
    if (!opts->custom) {
        l->pool = pool_new(l, opts->workers);
    }
    r = loop_set_engine(l, opts, err);
    if (r < 0) {
        pool_free(l->pool);
        pthread_mutex_destroy(&l->msg_lock);
        g_free(l);
        return r;
    }
    loop_set_polling(l, &opts->polling);
    l->now_ns = l->engine->clock(l);
    *ret_loop = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l) {
        return;
    }
    while (loop_turn(l, false)) {
    }
    g_assert(l->n_co == 0);
    pool_free(l->pool);
    /* A sender may still be on its way out of the lock. */
    pthread_mutex_lock(&l->msg_lock);
    pthread_mutex_unlock(&l->msg_lock);
    l->engine->done(l);
    co_pool_done(l);
    io_buf_pool_done(&l->bufs);
    pthread_mutex_destroy(&l->msg_lock);
    g_free(l->timers);
    g_free(l);
}

static void loop_wake_locked(struct loop *l)
{
    if (__atomic_load_n(&l->sleeping, __ATOMIC_RELAXED)) {
        __atomic_store_n(&l->sleeping, false, __ATOMIC_RELAXED);
        l->engine->wake(l);
    }
}

void loop_send(struct loop *l, struct loop_msg *m)
{
    m->next = NULL;
    pthread_mutex_lock(&l->msg_lock);
    if (l->msg_head) {
        l->msg_tail->next = m;
    } else {
        l->msg_head = m;
    }
    l->msg_tail = m;
    __atomic_store_n(&l->has_msgs, true, __ATOMIC_RELAXED);
    loop_wake_locked(l);
    pthread_mutex_unlock(&l->msg_lock);
}

/* Call what other threads sent. True if there was anything. */
static bool loop_receive(struct loop *l)
{
    struct loop_msg *m;

    if (!__atomic_load_n(&l->has_msgs, __ATOMIC_RELAXED)) {
        return false;
    }
    pthread_mutex_lock(&l->msg_lock);
    m = l->msg_head;
    l->msg_head = NULL;
    __atomic_store_n(&l->has_msgs, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&l->msg_lock);
    while (m) {
        struct loop_msg *next = m->next;

        m->fn(m);
        m = next;
    }
    return true;
}

struct loop_call {
    struct loop_msg msg;
    void (*fn)(void *arg);
    void *arg;
};

static void loop_call_run(struct loop_msg *m)
{
    struct loop_call c = *(struct loop_call *)(void *)m;

    g_free(m);
    c.fn(c.arg);
}

void loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct loop_call *c = g_new(struct loop_call, 1);

    *c = (struct loop_call) { .msg.fn = loop_call_run, .fn = fn, .arg = arg };
    loop_send(l, &c->msg);
}

void loop_stop(struct loop *l)
{
    pthread_mutex_lock(&l->msg_lock);
    __atomic_store_n(&l->stop, true, __ATOMIC_RELAXED);
    loop_wake_locked(l);
    pthread_mutex_unlock(&l->msg_lock);
}

/* Under the lock, so that whoever sends afterwards wakes the engine. */
static bool loop_may_sleep(struct loop *l)
{
    bool may;

    pthread_mutex_lock(&l->msg_lock);
    may = !l->msg_head && !__atomic_load_n(&l->stop, __ATOMIC_RELAXED);
    __atomic_store_n(&l->sleeping, may, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&l->msg_lock);
    return may;
}

static void loop_wait(struct loop *l, int64_t timeout_ns)
{
    if (timeout_ns != 0 && !loop_may_sleep(l)) {
        timeout_ns = 0;
    }
    l->engine->wait(l, timeout_ns);
    __atomic_store_n(&l->sleeping, false, __ATOMIC_RELAXED);
}

/* --- busy polling --- */

#define LOOKS 8 /* between two looks at the clock */
/* Somebody else had the processor, nanoseconds. */
#define INTERRUPTED_NS 50000

void loop_set_polling(struct loop *l, const struct loop_polling *p)
{
    l->spin = (struct spin) { .limits = *p };
    if (!l->engine->peek || (l->pool && g_get_num_processors() == 1)) {
        l->spin.limits.max_ns = 0;
    }
}

static bool loop_has_ready(const struct loop *l)
{
    return l->ready.head || l->relaxed.head;
}

static bool loop_look(struct loop *l)
{
    for (unsigned i = 0; i < LOOKS; i++) {
        if (__atomic_load_n(&l->has_msgs, __ATOMIC_RELAXED) ||
            __atomic_load_n(&l->stop, __ATOMIC_RELAXED) || l->engine->peek(l)) {
            return true;
        }
    }
    return false;
}

/* True when there is something to do now. */
static bool loop_spin(struct loop *l, uint64_t now, uint64_t spin_ns)
{
    uint64_t end = now + spin_ns, last = now;

    while (!loop_look(l)) {
        now = l->engine->clock(l);
        if (now - last > INTERRUPTED_NS) {
            spin_interrupted(&l->spin);
        }
        if (now >= end) {
            return false;
        }
        last = now;
    }
    return true;
}

/* loop_wait(), polling first. What the kernel does at once when it is handed over
 * says nothing of how long events take. */
static void loop_poll_wait(struct loop *l, int64_t timeout_ns)
{
    uint64_t start, spin_ns = spin_begin(&l->spin);
    bool found = false;

    if (spin_ns) {
        l->engine->wait(l, 0);
        if (loop_has_ready(l)) {
            return;
        }
    }
    start = l->engine->clock(l);
    if (spin_ns) {
        if (timeout_ns > 0) {
            spin_ns = MIN(spin_ns, (uint64_t)timeout_ns);
        }
        found = loop_spin(l, start, spin_ns);
    }
    loop_wait(l, found ? 0 : timeout_ns);
    if (found) {
        spin_hit(&l->spin, l->engine->clock(l) - start);
    } else {
        spin_slept(&l->spin, spin_ns > 0, l->engine->clock(l) - start);
    }
}

/* How long the engine may wait now, in its terms. */
static int64_t loop_timeout(struct loop *l, bool may_block)
{
    uint64_t next = loop_timers_next(l);
    uint64_t now;
    int64_t timeout = -1;

    if (!may_block || loop_has_ready(l)) {
        return 0;
    }
    if (next != UINT64_MAX) {
        now = l->engine->clock(l);
        if (next <= now) {
            return 0;
        }
        timeout = (int64_t)MIN(next - now, (uint64_t)INT64_MAX);
    }
    return timeout;
}

/* @block: sleep even after something ran, as its requests must complete. */
static bool loop_turn_once(struct loop *l, bool may_block, bool block)
{
    struct loop *outer = current;
    int64_t timeout;
    bool any;

    co_ctx_init_thread(&l->main_ctx);
    g_assert(!l->running);
    current = l;
    l->now_ns = l->engine->clock(l);
    any = loop_timers_run(l);
    any |= loop_receive(l);
    any |= co_run_ready(l);
    timeout = loop_timeout(l, block || (may_block && !any));
    if (timeout != 0 && l->spin.limits.max_ns) {
        loop_poll_wait(l, timeout);
    } else {
        loop_wait(l, timeout);
    }
    any |= loop_has_ready(l);
    current = outer;
    return any;
}

bool loop_turn(struct loop *l, bool may_block)
{
    return loop_turn_once(l, may_block, false);
}

void loop_run(struct loop *l)
{
    while (!__atomic_load_n(&l->stop, __ATOMIC_RELAXED)) {
        loop_turn_once(l, true, true);
    }
    __atomic_store_n(&l->stop, false, __ATOMIC_RELAXED);
}

struct loop *loop_current(void)
{
    return current;
}

uint64_t loop_now_ns(struct loop *l)
{
    return l->now_ns;
}

uint64_t loop_clock_ns(struct loop *l)
{
    return l->engine->clock(l);
}

uint64_t loop_date_ns(struct loop *l)
{
    return l->engine->date ? l->engine->date(l)
                           : (uint64_t)g_get_real_time() * 1000;
}

uint64_t engine_monotonic_ns(struct loop *l)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
