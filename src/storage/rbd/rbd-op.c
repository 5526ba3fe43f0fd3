/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/rbd/rbd-op.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

/* Between two looks at a cluster that hangs. */
#define LOOK_NS UINT64_C(1000000000)

/* Who waits for an operation, and who ends it, agree about whose it is. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Changes that were abandoned. Outlives the node. */
struct rbd_lost {
    int refs, changes; /* atomic */
};

static void lost_unref(struct rbd_lost *l)
{
    if (__atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        g_free(l);
    }
}

static uint64_t waits_now_ns(const struct rbd_waits *w)
{
    return loop_clock_ns(w->loop);
}

/* --- the queue --- */

/* What has waited since @until_ns or longer; with @all of any kind. */
static void waits_end_until(struct rbd_waits *w, uint64_t until_ns, int verdict,
                            bool all)
{
    for (GList *l = w->waiting.head; l; l = l->next) {
        struct rbd_op *op = l->data;

        if (op->since_ns <= until_ns && !op->verdict &&
            (all || op->kind == RBD_OP_READ)) {
            op->verdict = verdict;
            co_queue_wake_all(&op->sleepers);
        }
    }
}

static void waits_set_hanging(struct rbd_waits *w, bool hanging)
{
    if (w->hanging != hanging) {
        w->hanging = hanging;
        if (w->hang_event) {
            w->hang_event(hanging, w->waiting.length, w->hang_arg);
        }
    }
}

/* Look at the oldest operation: does it hang, and when will it? */
static void waits_look(void *arg)
{
    struct rbd_waits *w = arg;
    const struct rbd_op *oldest = g_queue_peek_head(&w->waiting);
    uint64_t now = waits_now_ns(w), timeout = w->hang_timeout_ns;

    if (!oldest || !timeout || w->over) {
        return;
    }
    if (now - oldest->since_ns < timeout) {
        loop_timer_arm(&w->timer, oldest->since_ns + timeout);
        return;
    }
    waits_set_hanging(w, true);
    if (w->fail_on_hang) {
        waits_end_until(w, now - timeout, -ETIMEDOUT, false);
    }
    loop_timer_arm(&w->timer, now + MIN(timeout, LOOK_NS));
}

void rbd_waits_init(struct rbd_waits *w)
{
    w->loop = loop_current();
    g_queue_init(&w->waiting);
    loop_timer_init(&w->timer, w->loop, waits_look, w);
    w->lost = g_new0(struct rbd_lost, 1);
    w->lost->refs = 1;
}

void rbd_waits_done(struct rbd_waits *w)
{
    if (w->lost) {
        g_assert(w->waiting.length == 0);
        loop_timer_cancel(&w->timer);
        lost_unref(w->lost);
        w->lost = NULL;
    }
}

void rbd_waits_end(struct rbd_waits *w, int verdict, bool all)
{
    waits_end_until(w, UINT64_MAX, verdict, all);
}

void rbd_waits_interrupt(struct rbd_waits *w)
{
    w->over = true;
    waits_end_until(w, UINT64_MAX, -EIO, true);
}

void rbd_waits_set_hang(struct rbd_waits *w, uint64_t timeout_ns, bool fail)
{
    w->hang_timeout_ns = timeout_ns;
    w->fail_on_hang = fail;
    waits_set_hanging(w, false);
    loop_timer_cancel(&w->timer);
    waits_look(w);
}

bool rbd_waits_lost_changes(const struct rbd_waits *w)
{
    return __atomic_load_n(&w->lost->changes, __ATOMIC_ACQUIRE) > 0;
}

/* --- one operation --- */

void rbd_op_begin(struct rbd_waits *w, struct rbd_op *op)
{
    op->waits = w;
    op->lost = w->lost;
    op->link.data = op;
    op->since_ns = waits_now_ns(w);
    if (w->over) {
        op->verdict = -EIO;
    }
    g_queue_push_tail_link(&w->waiting, &op->link);
    if (w->hang_timeout_ns && w->waiting.length == 1) {
        loop_timer_arm(&w->timer, op->since_ns + w->hang_timeout_ns);
    }
}

static void op_leave(struct rbd_op *op)
{
    struct rbd_waits *w = op->waits;
    const struct rbd_op *oldest;

    g_queue_unlink(&w->waiting, &op->link);
    oldest = g_queue_peek_head(&w->waiting);
    if (!oldest || waits_now_ns(w) - oldest->since_ns < w->hang_timeout_ns) {
        waits_set_hanging(w, false);
    }
}

/* On the loop. */
static void op_arrive(void *arg)
{
    struct rbd_op *op = arg;

    op->is_done = true;
    co_queue_wake_all(&op->sleepers);
}

/* The operation that was abandoned has ended. */
static void op_bury(struct rbd_op *op)
{
    struct rbd_lost *l = op->lost;

    if (op->kind == RBD_OP_CHANGE) {
        __atomic_sub_fetch(&l->changes, 1, __ATOMIC_ACQ_REL);
    }
    op->discard(op);
    lost_unref(l);
}

void rbd_op_finish(struct rbd_op *op, int64_t result)
{
    bool is_abandoned;

    pthread_mutex_lock(&lock);
    op->result = result;
    op->is_finished = true;
    is_abandoned = op->is_abandoned;
    if (!is_abandoned) {
        /* Somebody waits, so the loop is there. */
        loop_post(op->waits->loop, op_arrive, op);
    }
    pthread_mutex_unlock(&lock);
    if (is_abandoned) {
        op_bury(op);
    }
}

/* False: it has ended, and that is about to be known. */
static bool op_abandon(struct rbd_op *op)
{
    bool ok;

    pthread_mutex_lock(&lock);
    ok = !op->is_finished;
    op->is_abandoned = ok;
    if (ok) {
        __atomic_add_fetch(&op->lost->refs, 1, __ATOMIC_ACQ_REL);
        if (op->kind == RBD_OP_CHANGE) {
            __atomic_add_fetch(&op->lost->changes, 1, __ATOMIC_ACQ_REL);
        }
    }
    pthread_mutex_unlock(&lock);
    return ok;
}

/* Its verdict, which comes with its deadline, too. */
static int op_judge(struct rbd_op *op)
{
    if (!op->verdict && op->deadline_ns &&
        waits_now_ns(op->waits) >= op->deadline_ns) {
        op->verdict = -ETIMEDOUT;
    }
    return op->verdict;
}

int64_t rbd_op_co_wait(struct rbd_op *op, bool *ret_abandoned)
{
    *ret_abandoned = false;
    while (!op->is_done) {
        int verdict = op_judge(op);

        if (verdict) {
            op_leave(op);
            if (op_abandon(op)) {
                *ret_abandoned = true;
                return verdict;
            }
            while (!op->is_done) {
                co_queue_co_wait(&op->sleepers);
            }
            return op->result;
        }
        if (op->deadline_ns) {
            co_queue_co_wait_until(&op->sleepers, op->deadline_ns);
        } else {
            co_queue_co_wait(&op->sleepers);
        }
    }
    op_leave(op);
    return op->result;
}

/* --- calls that block --- */

struct call {
    struct rbd_op op;
    int64_t (*fn)(void *arg);
    void (*free_arg)(void *arg);
    void *arg;
};

static void call_discard(struct rbd_op *op)
{
    struct call *c = (struct call *)(void *)((char *)op -
                                             offsetof(struct call, op));

    c->free_arg(c->arg);
    g_free(c);
}

static void *call_thread(void *arg)
{
    struct call *c = arg;

    rbd_op_finish(&c->op, c->fn(c->arg));
    return NULL;
}

/* Signals stay with the threads that expect them. */
static int call_start(struct call *c)
{
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_t thread;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    r = pthread_create(&thread, &attr, call_thread, c);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -r;
}

int64_t rbd_co_call(struct rbd_waits *w, enum rbd_op_kind kind,
                    uint64_t timeout_ns, int64_t (*fn)(void *arg),
                    void (*free_arg)(void *arg), void *arg, bool *ret_abandoned)
{
    struct call *c = g_new0(struct call, 1);
    int64_t ret;
    int r;

    *ret_abandoned = false;
    c->op.kind = kind;
    c->op.deadline_ns = timeout_ns ? waits_now_ns(w) + timeout_ns : 0;
    c->op.discard = call_discard;
    c->fn = fn;
    c->free_arg = free_arg;
    c->arg = arg;
    rbd_op_begin(w, &c->op);
    r = call_start(c);
    if (r < 0) {
        op_leave(&c->op);
        g_free(c);
        return r;
    }
    ret = rbd_op_co_wait(&c->op, ret_abandoned);
    if (!*ret_abandoned) {
        g_free(c);
    }
    return ret;
}
