/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Users: the roots of the graph.  Every request of a guest or a job comes in
 * here: it waits at the door while its user is drained, is checked against the
 * size and the permissions, counted, and handed to the dispatcher.
 *
 * One that comes back with -ERESTART (node_let_go()) leaves and comes in again:
 * whoever drains finds it at the door.  To make a write again is harmless, for
 * it has not been answered.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/err.h"
#include "graph/graph-int.h"
#include "loop/loop.h"

int user_co_new(struct node *n, const char *name, unsigned perm,
                unsigned shared, const struct user_ops *ops, void *arg,
                struct user **ret_user, GError **err)
{
    struct user *u = g_new0(struct user, 1);
    struct graph *g = n->graph;
    int ret;

    u->name = g_strdup(name);
    u->graph = g;
    u->ops = ops;
    u->arg = arg;
    graph_co_lock(g);
    u->edge = edge_link(NULL, u, n, ops && ops->role ? ops->role : "root",
                        perm, shared);
    ret = perm_co_refresh(n, err);
    if (ret < 0) {
        edge_unlink(u->edge);
        (void)perm_co_refresh(n, NULL);
    }
    graph_unlock(g);
    if (ret < 0) {
        node_co_unref(n);
        g_free(u->name);
        g_free(u);
        return ret;
    }
    u->next = g->users;
    g->users = u;
    drain_adopt_user(u);
    *ret_user = u;
    return 0;
}

static void user_unlist(struct user *u)
{
    struct user **p = &u->graph->users;

    while (*p != u) {
        p = &(*p)->next;
    }
    *p = u->next;
}

void user_co_free(struct user *u)
{
    struct node *n;

    if (!u) {
        return;
    }
    while (u->stats.in_flight > 0 || u->n_drain_waiters > 0) {
        co_queue_co_wait(&u->idle);
    }
    graph_co_lock(u->graph);
    drain_forget_user(u);
    user_unlist(u);
    n = edge_unlink(u->edge);
    (void)perm_co_refresh(n, NULL);
    graph_unlock(u->graph);
    node_co_unref(n);
    g_free(u->name);
    g_free(u);
}

struct node *user_node(const struct user *u)
{
    return u->edge->child;
}

int user_co_set_perms(struct user *u, unsigned perm, unsigned shared,
                      GError **err)
{
    struct edge *e = u->edge;
    unsigned old_perm = e->perm, old_shared = e->shared;
    int ret;

    graph_co_lock(u->graph);
    e->perm = e->own_perm = perm;
    e->shared = e->own_shared = shared;
    ret = perm_co_refresh(e->child, err);
    if (ret < 0) {
        e->perm = e->own_perm = old_perm;
        e->shared = e->own_shared = old_shared;
        (void)perm_co_refresh(e->child, NULL);
    }
    graph_unlock(u->graph);
    return ret;
}

/* --- the door --- */

void user_co_enter(struct user *u)
{
    while (u->quiesced > 0) {
        u->n_drain_waiters++;
        co_queue_co_wait(&u->drain_waiters);
        u->n_drain_waiters--;
    }
    u->stats.in_flight++;
}

void user_leave(struct user *u)
{
    g_assert(u->stats.in_flight > 0);
    if (--u->stats.in_flight == 0 && !co_queue_empty(&u->idle)) {
        co_queue_wake_all(&u->idle);
    }
}

/* Must the request be made again? */
static bool user_leaves_to_restart(struct user *u, int ret)
{
    user_leave(u);
    return ret == -ERESTART && !u->ending;
}

void user_let_go(struct user *u)
{
    u->ending = true;
    node_let_go(user_node(u));
}

/* 0, or what a request that asks too much gets. */
static int user_check(struct user *u, uint64_t off, uint64_t len, unsigned perm,
                      enum acct_kind kind)
{
    struct node *n = u->edge->child;
    int ret = 0;

    if (off > n->size || len > n->size - off) {
        ret = -EIO;
    } else if (perm && !node_is_writable(n)) {
        ret = -EPERM;
    } else if ((u->edge->perm & perm) != perm) {
        ret = -EACCES;
    }
    if (ret < 0) {
        u->stats.invalid[kind]++;
    }
    return ret;
}

/* --- requests --- */

int user_co_preadv(struct user *u, uint64_t off, struct iov iov,
                   unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, iov.len, 0, ACCT_READ);
        if (ret == 0) {
            ret = node_co_preadv(u->edge->child, off, iov, flags);
            account_done(u, ACCT_READ, off, iov.len, flags, start, ret);
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_pwritev(struct user *u, uint64_t off, struct iov iov,
                    unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, iov.len, PERM_WRITE, ACCT_WRITE);
        if (ret == 0) {
            ret = node_co_pwritev(u->edge->child, off, iov, flags);
            account_done(u, ACCT_WRITE, off, iov.len, flags, start, ret);
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_zero(struct user *u, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, len, PERM_WRITE, ACCT_WRITE);
        if (ret == 0) {
            ret = node_co_zero(u->edge->child, off, len, flags);
            account_done(u, ACCT_WRITE, off, len, flags | IO_BACKGROUND, start,
                         ret);
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_discard(struct user *u, uint64_t off, uint64_t len)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, len, PERM_WRITE, ACCT_UNMAP);
        if (ret == 0) {
            ret = node_co_discard(u->edge->child, off, len);
            account_done(u, ACCT_UNMAP, off, len, 0, start, ret);
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_flush(struct user *u)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        user_co_enter(u);
        ret = node_co_flush(u->edge->child);
        account_done(u, ACCT_FLUSH, 0, 0, 0, start, ret);
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_status(struct user *u, uint64_t off, uint64_t len,
                   struct extent *ret_ext)
{
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, len, 0, ACCT_READ);
        if (ret == 0) {
            ret = len ? node_co_status_above(u->edge->child, NULL, off, len,
                                             ret_ext)
                      : -EINVAL;
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int user_co_cache(struct user *u, uint64_t off, uint64_t len)
{
    int ret;

    do {
        user_co_enter(u);
        ret = user_check(u, off, len, 0, ACCT_READ);
        if (ret == 0 && len > 0) {
            ret = node_co_cache(u->edge->child, off, len);
        }
    } while (user_leaves_to_restart(u, ret));
    return ret;
}

int node_co_cache(struct node *n, uint64_t off, uint64_t len)
{
    /* The first node that knows what to do, through filters that do not. */
    while (n && !n->drv->co_cache) {
        n = node_filtered(n);
    }
    return n ? n->drv->co_cache(n, off, len) : 0;
}
