/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The thread pool: a queue for each file, one lock.  Results travel back as
 * messages to the loop, so that nothing here touches loop state.
 *
 * A request may wait for its disk for any time, so no file may have all
 * threads: requests of one file run on at most PER_FILE of them at once, files
 * take turns.  What is about names, and what is called, has a queue of its own.
 */
#include "loop/pool.h"
#include <pthread.h>
#include <signal.h>
#include "loop/loop-priv.h"

#define PER_FILE 16
#define MAX_THREADS 256

/* Requests of one file that wait, and how many run. */
struct file_queue {
    int key; /* queue_key() */
    unsigned n_running, n_waiting;
    struct io_req *head, *tail;
    bool ready; /* in the list of the pool */
    struct file_queue *next;
};

struct pool {
    struct loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t work;
    GHashTable *files; /* key -> struct file_queue; in use */
    struct file_queue *ready_head, *ready_tail; /* may run something now */
    unsigned n_runnable; /* requests that a free thread would take */
    unsigned n_idle;
    unsigned n_threads, max_threads;
    unsigned per_file;
    bool stop;
    pthread_t *threads;
};

struct pool *pool_new(struct loop *l, unsigned max_threads)
{
    struct pool *p = g_new0(struct pool, 1);

    p->loop = l;
    p->max_threads = max_threads ? max_threads : MAX_THREADS;
    p->per_file = MIN(p->max_threads, PER_FILE);
    p->threads = g_new0(pthread_t, p->max_threads);
    p->files = g_hash_table_new_full(NULL, NULL, NULL, g_free);
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
    g_assert(p->n_runnable == 0);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++) {
        pthread_join(p->threads[i], NULL);
    }
    g_assert(g_hash_table_size(p->files) == 0);
    g_hash_table_destroy(p->files);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    g_free(p->threads);
    g_free(p);
}

static void req_done(struct loop_msg *m)
{
    struct io_req *r = (struct io_req *)(void *)((char *)m -
                                                 offsetof(struct io_req, msg));

    io_req_complete(r, r->result);
}

/* --- queues; under the lock --- */

/* Whose queue @r waits in: that of the file that is written, or read. */
static int queue_key(const struct io_req *r)
{
    switch (r->op) {
    case IO_OP_OPEN:
    case IO_OP_STAT:
    case IO_OP_RENAME:
    case IO_OP_UNLINK:
    case IO_OP_FSYNC_DIR: return -1;
    case IO_OP_CALL: return -2;
    case IO_OP_COPY:
    case IO_OP_CLONE: return r->fd2;
    default: return r->fd;
    }
}

static struct file_queue *queue_of(struct pool *p, int key)
{
    struct file_queue *q = g_hash_table_lookup(p->files, GINT_TO_POINTER(key));

    if (!q) {
        q = g_new0(struct file_queue, 1);
        q->key = key;
        g_hash_table_insert(p->files, GINT_TO_POINTER(key), q);
    }
    return q;
}

/* How many of @q's requests a free thread would take. */
static unsigned queue_runnable(const struct pool *p, const struct file_queue *q)
{
    return MIN(q->n_waiting, p->per_file - q->n_running);
}

/* @q has changed; it had @before runnable requests. An empty one goes. */
static void queue_changed(struct pool *p, struct file_queue *q, unsigned before)
{
    unsigned now = queue_runnable(p, q);

    p->n_runnable += now - before;
    if (now > 0 && !q->ready) {
        q->ready = true;
        q->next = NULL;
        if (p->ready_head) {
            p->ready_tail->next = q;
        } else {
            p->ready_head = q;
        }
        p->ready_tail = q;
    }
    if (q->n_waiting == 0 && q->n_running == 0) {
        g_hash_table_remove(p->files, GINT_TO_POINTER(q->key));
    }
}

static void queue_put(struct pool *p, struct io_req *r)
{
    struct file_queue *q = queue_of(p, queue_key(r));
    unsigned before = queue_runnable(p, q);

    r->next = NULL;
    if (q->head) {
        q->tail->next = r;
    } else {
        q->head = r;
    }
    q->tail = r;
    q->n_waiting++;
    queue_changed(p, q, before);
}

/* A request of the first file in the list, which goes to its end. */
static struct io_req *queue_take(struct pool *p, struct file_queue **ret_queue)
{
    struct file_queue *q = p->ready_head;
    unsigned before = queue_runnable(p, q);
    struct io_req *r = q->head;

    p->ready_head = q->next;
    q->ready = false;
    q->head = r->next;
    q->n_waiting--;
    q->n_running++;
    queue_changed(p, q, before);
    *ret_queue = q;
    return r;
}

static void queue_ended(struct pool *p, struct file_queue *q)
{
    unsigned before = queue_runnable(p, q);

    q->n_running--;
    queue_changed(p, q, before);
}

/* --- threads --- */

/* Under the lock: the next request, or NULL to end. */
static struct io_req *pool_next(struct pool *p, struct file_queue **ret_queue)
{
    while (!p->ready_head && !p->stop) {
        p->n_idle++;
        pthread_cond_wait(&p->work, &p->lock);
        p->n_idle--;
    }
    return p->ready_head ? queue_take(p, ret_queue) : NULL;
}

static void *pool_thread(void *arg)
{
    struct pool *p = arg;
    struct file_queue *q;
    struct io_req *r;

    pthread_mutex_lock(&p->lock);
    while ((r = pool_next(p, &q))) {
        pthread_mutex_unlock(&p->lock);
        r->result = io_req_execute(r);
        r->msg.fn = req_done;
        loop_send(p->loop, &r->msg); /* @r may be gone from here on */
        pthread_mutex_lock(&p->lock);
        queue_ended(p, q);
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
    pthread_mutex_lock(&p->lock);
    queue_put(p, r);
    if (p->n_idle < p->n_runnable && p->n_threads < p->max_threads) {
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
