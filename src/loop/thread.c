/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "loop/thread.h"
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include "base/err.h"
#include "loop/loop.h"

struct loop_thread {
    struct loop_options options;
    struct loop *loop;
    pid_t id;
    GError *err;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t known; /* loop or err is set */
};

static void *thread_main(void *arg)
{
    struct loop_thread *t = arg;
    struct loop *l = NULL;
    GError *err = NULL;

    (void)loop_new(&t->options, &l, &err);
    pthread_mutex_lock(&t->lock);
    t->loop = l;
    t->id = gettid();
    t->err = err;
    pthread_cond_signal(&t->known);
    pthread_mutex_unlock(&t->lock);
    if (l) {
        loop_run(l);
        loop_free(l);
    }
    return NULL;
}

static void thread_free(struct loop_thread *t)
{
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->known);
    g_free(t);
}

static int thread_await(struct loop_thread *t, GError **err)
{
    int r = 0;

    pthread_mutex_lock(&t->lock);
    while (!t->loop && !t->err) {
        pthread_cond_wait(&t->known, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    if (t->err) {
        r = -t->err->code;
        pthread_join(t->thread, NULL);
        g_propagate_error(err, g_steal_pointer(&t->err));
    }
    return r;
}

int loop_thread_start(const struct loop_options *opts,
                      struct loop_thread **ret_thread, GError **err)
{
    struct loop_thread *t = g_new0(struct loop_thread, 1);
    int r;

    t->options = *opts;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->known, NULL);
    if (pthread_create(&t->thread, NULL, thread_main, t)) {
        r = err_set(err, EAGAIN, "Could not start a thread");
    } else {
        r = thread_await(t, err);
    }
    if (r < 0) {
        thread_free(t);
        return r;
    }
    *ret_thread = t;
    return 0;
}

struct loop *loop_thread_loop(const struct loop_thread *t)
{
    return t->loop;
}

int loop_thread_id(const struct loop_thread *t)
{
    return t->id;
}

void loop_thread_stop(struct loop_thread *t)
{
    if (t) {
        loop_stop(t->loop);
        pthread_join(t->thread, NULL);
        thread_free(t);
    }
}
