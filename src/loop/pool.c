/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread pool: one queue, one lock.  Results travel back as messages to
 * the loop, so that nothing here touches loop state.
 */
#include "loop/pool.h"
#include <pthread.h>
#include <signal.h>
#include "loop/loop-priv.h"

struct pool {
    struct loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct io_req *head, *tail;
    unsigned n_queued;
    unsigned n_idle;
    unsigned n_threads, max_threads;
    bool stop;
    pthread_t *threads;
};

struct pool *pool_new(struct loop *l, unsigned max_threads)
{
    struct pool *p = g_new0(struct pool, 1);

    p->loop = l;
    p->max_threads = max_threads ? max_threads : 16;
    p->threads = g_new0(pthread_t, p->max_threads);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    return p;
}

void pool_free(struct pool *p)
{
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    g_assert(!p->head);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++) {
        pthread_join(p->threads[i], NULL);
    }
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    g_free(p->threads);
    g_free(p);
}

static void req_done(struct loop_msg *m)
{
    struct io_req *r = (struct io_req *)
        (void *)((char *)m - offsetof(struct io_req, msg));

    io_req_complete(r, r->result);
}

/* Under the lock: the next request, or NULL to end. */
static struct io_req *pool_next(struct pool *p)
{
    struct io_req *r;

    while (!p->head && !p->stop) {
        p->n_idle++;
        pthread_cond_wait(&p->work, &p->lock);
        p->n_idle--;
    }
    r = p->head;
    if (r) {
        p->head = r->next;
        p->n_queued--;
    }
    return r;
}

static void *pool_thread(void *arg)
{
    struct pool *p = arg;
    struct io_req *r;

    pthread_mutex_lock(&p->lock);
    while ((r = pool_next(p))) {
        pthread_mutex_unlock(&p->lock);
        r->result = io_req_execute(r);
        r->msg.fn = req_done;
        loop_send(p->loop, &r->msg);   /* @r may be gone from here on */
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Under the lock. Signals stay with the threads that expect them. */
static void pool_grow(struct pool *p)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&p->threads[p->n_threads], NULL, pool_thread, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r == 0) {
        p->n_threads++;
    } else if (p->n_threads == 0) {
        g_error("Cannot start a thread: %s", g_strerror(r));
    }
}

void pool_submit(struct pool *p, struct io_req *r)
{
    r->next = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->head) {
        p->tail->next = r;
    } else {
        p->head = r;
    }
    p->tail = r;
    p->n_queued++;
    if (p->n_idle < p->n_queued && p->n_threads < p->max_threads) {
        pool_grow(p);
    }
    if (p->n_idle) {
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->lock);
}

void io_req_to_pool(struct loop *l, struct io_req *r)
{
    pool_submit(l->pool, r);
}
