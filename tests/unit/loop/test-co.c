/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Coroutines, waiting, calls across threads and loops. */
#include <pthread.h>
#include <string.h>
#include "run.h"

static const enum io_engine_kind engine = IO_ENGINE_THREADS;

/* Many switches, many lives. */

static unsigned switches;

CO_FN static void relax_entry(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        co_relax();
        switches++;
    }
}

CO_FN static void many_entry(void *arg)
{
    switches = 0;
    for (int i = 0; i < 100; i++) {
        co_start(co_loop(co_self()), relax_entry, NULL);
    }
    while (co_count(co_loop(co_self())) > 1) {
        co_relax();
    }
    g_assert_cmpuint(switches, ==, 100000);
}

static void test_switches(void)
{
    run_on(engine, many_entry, NULL);
}

CO_FN static void count_entry(void *arg)
{
    (*(unsigned *)arg)++;
}

CO_FN static void lives_entry(void *arg)
{
    unsigned lives = 0;

    for (int i = 0; i < 20000; i++) {
        co_start(co_loop(co_self()), count_entry, &lives);
        if (i % 500 == 0) {
            co_relax();
        }
    }
    co_relax();
    g_assert_cmpuint(lives, ==, 20000);
    g_assert_cmpuint(co_count(co_loop(co_self())), ==, 1);
}

static void test_lives(void)
{
    run_on(engine, lives_entry, NULL);
}

static void test_no_pool(void)
{
    g_setenv("SLUICE_CO_POOL", "0", TRUE);
    run_on(engine, lives_entry, NULL);
    g_unsetenv("SLUICE_CO_POOL");
}

/* Most of the stack can be used, with switches at every depth. */

CO_FN static unsigned deep_co_use(unsigned depth)
{
    volatile char frame[1024];

    frame[0] = (char)depth;
    frame[sizeof(frame) - 1] = (char)depth;
    if (depth % 16 == 0) {
        co_relax();
    }
    if (depth > 0) {
        unsigned below = deep_co_use(depth - 1);

        g_assert_cmpint(frame[0], ==, (char)depth);
        g_assert_cmpint(frame[sizeof(frame) - 1], ==, (char)depth);
        return below + 1;
    }
    return 0;
}

CO_FN static void deep_entry(void *arg)
{
    g_assert_cmpuint(deep_co_use(160), ==, 160);
}

CO_FN static void deep_many_entry(void *arg)
{
    for (int i = 0; i < 8; i++) {
        co_start(co_loop(co_self()), deep_entry, NULL);
    }
    deep_entry(NULL);
}

static void test_deep(void)
{
    run_on(engine, deep_many_entry, NULL);
}

/* Wakes are remembered, and not eaten by other waits. */

struct wake {
    struct co *co;
    int step;
};

CO_FN static void waker_entry(void *arg)
{
    struct wake *w = arg;

    co_wake(w->co);
    w->step++;
}

CO_FN static void wake_entry(void *arg)
{
    struct wake w = { .co = co_self() };

    co_wake(co_self());
    co_yield ();

    co_start(co_loop(w.co), waker_entry, &w);
    co_yield ();
    g_assert_cmpint(w.step, ==, 1);

    /* Woken while asleep: sleeps on, and the wake is still there. */
    uint64_t start = loop_clock_ns(co_loop(w.co));

    co_start(co_loop(w.co), waker_entry, &w);
    co_sleep(3000000);
    g_assert_cmpint(w.step, ==, 2);
    g_assert_cmpuint(loop_clock_ns(co_loop(w.co)) - start, >=, 3000000);
    co_yield ();
}

static void test_wake(void)
{
    run_on(engine, wake_entry, NULL);
}

/* Queue, mutex, latch. */

struct order {
    struct co_queue queue;
    struct co_mutex mutex;
    struct co_latch latch;
    int next, inside;
    GString *log;
};

CO_FN static void queue_waiter_entry(void *arg)
{
    struct order *o = arg;
    int me = o->next++;

    co_queue_co_wait(&o->queue);
    g_string_append_printf(o->log, "%d", me);
}

CO_FN static void queue_entry(void *arg)
{
    struct order o = { .log = g_string_new("") };
    struct loop *l = co_loop(co_self());

    for (int i = 0; i < 5; i++) {
        co_start(l, queue_waiter_entry, &o);
    }
    g_assert_false(co_queue_wake_one(&o.queue));
    co_relax();
    g_assert_false(co_queue_empty(&o.queue));
    g_assert_true(co_queue_wake_one(&o.queue));
    co_relax();
    g_assert_cmpstr(o.log->str, ==, "0");
    g_assert_false(
        co_queue_co_wait_until(&o.queue, loop_clock_ns(l) + 2000000));
    co_queue_wake_all(&o.queue);
    co_relax();
    g_assert_cmpstr(o.log->str, ==, "01234");
    g_assert_true(co_queue_empty(&o.queue));
    g_string_free(o.log, TRUE);
}

static void test_queue(void)
{
    run_on(engine, queue_entry, NULL);
}

struct slow_wake {
    struct co_queue *q;
    uint64_t after;
};

CO_FN static void slow_wake_entry(void *arg)
{
    struct slow_wake *s = arg;

    co_sleep(s->after);
    co_queue_wake_one(s->q);
}

CO_FN static void queue_until_entry(void *arg)
{
    struct co_queue q = { 0 };
    struct slow_wake s = { &q, 1000000 };
    struct loop *l = co_loop(co_self());

    co_start(l, slow_wake_entry, &s);
    g_assert_true(co_queue_co_wait_until(&q, loop_clock_ns(l) + 10000000000));
    g_assert_true(co_queue_empty(&q));
}

static void test_queue_until(void)
{
    run_on(engine, queue_until_entry, NULL);
}

CO_FN static void mutex_user_entry(void *arg)
{
    struct order *o = arg;
    int me = o->next++;

    for (int i = 0; i < 3; i++) {
        co_mutex_co_lock(&o->mutex);
        g_assert_cmpint(o->inside++, ==, 0);
        co_relax();
        g_string_append_printf(o->log, "%d", me);
        o->inside--;
        co_mutex_unlock(&o->mutex);
    }
    co_latch_done(&o->latch);
}

CO_FN static void mutex_entry(void *arg)
{
    struct order o = { .log = g_string_new("") };

    for (int i = 0; i < 4; i++) {
        co_latch_add(&o.latch);
        co_start(co_loop(co_self()), mutex_user_entry, &o);
    }
    co_latch_co_wait(&o.latch);
    g_assert_cmpstr(o.log->str, ==, "012301230123");
    co_latch_co_wait(&o.latch);
    g_string_free(o.log, TRUE);
}

static void test_mutex(void)
{
    run_on(engine, mutex_entry, NULL);
}

/* Threads. */

static void remember_thread(void *arg)
{
    *(pthread_t *)arg = pthread_self();
}

CO_FN static void pool_entry(void *arg)
{
    pthread_t thread = pthread_self();

    co_in_pool(remember_thread, &thread);
    g_assert_false(pthread_equal(thread, pthread_self()));
}

static void test_in_pool(void)
{
    run_on(engine, pool_entry, NULL);
}

#define POSTERS 4
#define POSTS 2000

struct poster {
    struct loop *loop;
    unsigned *n_done;
    unsigned seen;
    pthread_t thread;
};

struct posted {
    struct poster *poster;
    unsigned nr;
};

static void posted_arrive(void *arg)
{
    struct posted *p = arg;
    struct poster *from = p->poster;

    g_assert_cmpuint(p->nr, ==, from->seen);
    from->seen++;
    if (from->seen == POSTS && ++*from->n_done == POSTERS) {
        loop_stop(from->loop);
    }
    g_free(p);
}

static void *poster_main(void *arg)
{
    struct poster *me = arg;

    for (unsigned i = 0; i < POSTS; i++) {
        struct posted *p = g_new(struct posted, 1);

        *p = (struct posted) { me, i };
        loop_post(me->loop, posted_arrive, p);
        if (i % 100 == 0) {
            g_usleep(100);
        }
    }
    return NULL;
}

static void test_post(gconstpointer data)
{
    struct loop_options opts = {
        .engine = (enum io_engine_kind)GPOINTER_TO_INT(data),
    };
    struct poster posters[POSTERS];
    unsigned n_done = 0;
    struct loop *l;

    if (loop_new(&opts, &l, NULL) < 0) {
        g_test_skip("the kernel refuses io_uring");
        return;
    }
    for (int i = 0; i < POSTERS; i++) {
        posters[i] = (struct poster) { .loop = l, .n_done = &n_done };
        pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]);
    }
    loop_run(l);
    for (int i = 0; i < POSTERS; i++) {
        g_assert_cmpuint(posters[i].seen, ==, POSTS);
        pthread_join(posters[i].thread, NULL);
    }
    /* Stopped before it ran: returns at once, once. */
    loop_stop(l);
    loop_run(l);
    loop_free(l);
}

/* Two loops that call each other. */

struct other {
    struct loop *loop;
    pthread_t thread;
    pthread_barrier_t ready;
    unsigned calls;
};

static void *other_main(void *arg)
{
    struct other *o = arg;
    struct loop_options opts = { .engine = IO_ENGINE_AUTO };

    g_assert_cmpint(loop_new(&opts, &o->loop, NULL), ==, 0);
    pthread_barrier_wait(&o->ready);
    loop_run(o->loop);
    loop_free(o->loop);
    return NULL;
}

CO_FN static void called_entry(void *arg)
{
    struct other *o = arg;

    g_assert_true(loop_current() == o->loop);
    co_sleep(10000);
    o->calls++;
}

CO_FN static void caller_entry(void *arg)
{
    struct other *o = arg;
    struct loop *here = loop_current();

    for (int i = 0; i < 50; i++) {
        co_call_on(o->loop, called_entry, o);
        g_assert_true(loop_current() == here);
    }
}

CO_FN static void callers_entry(void *arg)
{
    for (int i = 0; i < 4; i++) {
        co_start(loop_current(), caller_entry, arg);
    }
}

static void test_call_on(void)
{
    struct other o = { 0 };

    pthread_barrier_init(&o.ready, NULL, 2);
    pthread_create(&o.thread, NULL, other_main, &o);
    pthread_barrier_wait(&o.ready);
    run_on(engine, callers_entry, &o);
    loop_stop(o.loop);
    pthread_join(o.thread, NULL);
    pthread_barrier_destroy(&o.ready);
    g_assert_cmpuint(o.calls, ==, 200);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/loop/co/switches", test_switches);
    g_test_add_func("/loop/co/lives", test_lives);
    g_test_add_func("/loop/co/no-pool", test_no_pool);
    g_test_add_func("/loop/co/deep", test_deep);
    g_test_add_func("/loop/co/wake", test_wake);
    g_test_add_func("/loop/co/queue", test_queue);
    g_test_add_func("/loop/co/queue-until", test_queue_until);
    g_test_add_func("/loop/co/mutex", test_mutex);
    g_test_add_func("/loop/co/in-pool", test_in_pool);
    g_test_add_data_func("/loop/post/threads",
                         GINT_TO_POINTER(IO_ENGINE_THREADS), test_post);
    g_test_add_data_func("/loop/post/io_uring",
                         GINT_TO_POINTER(IO_ENGINE_IO_URING), test_post);
    g_test_add_func("/loop/co/call-on", test_call_on);
    return g_test_run();
}
