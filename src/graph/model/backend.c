/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backends: the roots of the graph.  Every request of a guest or a job enters
 * here: it waits among the drain waiters while its backend is drained, is
 * checked against the size and the permissions, counted, and handed to the
 * dispatcher.
 *
 * One that comes back with -ERESTART (node_let_go()) leaves and enters again,
 * so it waits there if a drain is under way.  To make a write again is
 * harmless, because it has not been answered.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/err.h"
#include "graph/demand.h"
#include "graph/model/model.h"
#include "loop/loop.h"

int backend_co_new(struct node *n, const char *name, unsigned perm,
                   unsigned shared, const struct backend_ops *ops, void *arg,
                   struct backend **ret_backend, GError **err)
{
    struct backend *u = g_new0(struct backend, 1);
    struct graph *g = n->graph;
    int ret;

    u->name = g_strdup(name);
    u->graph = g;
    u->ops = ops;
    u->arg = arg;
    graph_co_lock(g);
    u->edge = edge_link(NULL, u, n, ops && ops->role ? ops->role : "root", perm,
                        shared);
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
    u->next = g->backends;
    g->backends = u;
    drain_adopt_backend(u);
    *ret_backend = u;
    return 0;
}

static void backend_unlist(struct backend *u)
{
    struct backend **p = &u->graph->backends;

    while (*p != u) {
        p = &(*p)->next;
    }
    *p = u->next;
}

void backend_co_free(struct backend *u)
{
    struct node *n;

    if (!u) {
        return;
    }
    while (u->stats.in_flight > 0 || u->n_drain_waiters > 0) {
        co_queue_co_wait(&u->idle);
    }
    graph_co_lock(u->graph);
    drain_forget_backend(u);
    backend_unlist(u);
    n = edge_unlink(u->edge);
    (void)perm_co_refresh(n, NULL);
    graph_unlock(u->graph);
    node_co_unref(n);
    g_free(u->name);
    g_free(u);
}

int backend_co_set_perms(struct backend *u, unsigned perm, unsigned shared,
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

/* --- entering and leaving --- */

void backend_co_enter(struct backend *u)
{
    while (u->quiesced > 0) {
        u->n_drain_waiters++;
        co_queue_co_wait(&u->drain_waiters);
        u->n_drain_waiters--;
    }
    u->stats.in_flight++;
}

void backend_leave(struct backend *u)
{
    g_assert(u->stats.in_flight > 0);
    if (--u->stats.in_flight == 0 && !co_queue_empty(&u->idle)) {
        co_queue_wake_all(&u->idle);
    }
}

/* Must the request be made again? */
static bool backend_leaves_to_restart(struct backend *u, int ret)
{
    backend_leave(u);
    return ret == -ERESTART && !u->ending;
}

void backend_let_go(struct backend *u)
{
    u->ending = true;
    node_let_go(backend_node(u));
}

/* 0, or what a request that asks too much gets. */
static int backend_check(struct backend *u, uint64_t off, uint64_t len,
                         unsigned perm, enum acct_kind kind)
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

void backend_stats_invalid(struct backend *u, enum acct_kind kind)
{
    u->stats.invalid[kind]++;
}

/* --- requests --- */

/* @flags of a request, with its number unless it is background work. */
static unsigned flags_begin(struct backend *u, unsigned flags, uint64_t now_ns)
{
    return flags & IO_BACKGROUND ? flags
                                 : flags | demand_begin(u->graph, now_ns);
}

int backend_co_preadv(struct backend *u, uint64_t off, struct iov iov,
                      unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    flags = flags_begin(u, flags, start);
    do {
        backend_co_enter(u);
        ret = backend_check(u, off, iov.len, 0, ACCT_READ);
        if (ret == 0) {
            ret = node_co_preadv(u->edge->child, off, iov, flags);
            account_done(u, ACCT_READ, off, iov.len, start, ret);
        }
    } while (backend_leaves_to_restart(u, ret));
    demand_end(u->graph, flags);
    return ret;
}

int backend_co_pwritev(struct backend *u, uint64_t off, struct iov iov,
                       unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    flags = flags_begin(u, flags, start);
    do {
        backend_co_enter(u);
        ret = backend_check(u, off, iov.len, PERM_WRITE, ACCT_WRITE);
        if (ret == 0) {
            ret = node_co_pwritev(u->edge->child, off, iov, flags);
            account_done(u, ACCT_WRITE, off, iov.len, start, ret);
        }
    } while (backend_leaves_to_restart(u, ret));
    demand_end(u->graph, flags);
    return ret;
}

int backend_co_zero(struct backend *u, uint64_t off, uint64_t len,
                    unsigned flags)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        backend_co_enter(u);
        ret = backend_check(u, off, len, PERM_WRITE, ACCT_WRITE);
        if (ret == 0) {
            ret = node_co_zero(u->edge->child, off, len, flags);
            account_done(u, ACCT_WRITE, off, len, start, ret);
        }
    } while (backend_leaves_to_restart(u, ret));
    return ret;
}

int backend_co_discard(struct backend *u, uint64_t off, uint64_t len)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        backend_co_enter(u);
        ret = backend_check(u, off, len, PERM_WRITE, ACCT_UNMAP);
        if (ret == 0) {
            ret = node_co_discard(u->edge->child, off, len);
            account_done(u, ACCT_UNMAP, off, len, start, ret);
        }
    } while (backend_leaves_to_restart(u, ret));
    return ret;
}

int backend_co_flush(struct backend *u)
{
    uint64_t start = loop_clock_ns(u->graph->loop);
    int ret;

    do {
        backend_co_enter(u);
        ret = node_co_flush(u->edge->child);
        account_done(u, ACCT_FLUSH, 0, 0, start, ret);
    } while (backend_leaves_to_restart(u, ret));
    return ret;
}

int backend_co_status(struct backend *u, uint64_t off, uint64_t len,
                      struct extent *ret_ext)
{
    int ret;

    do {
        backend_co_enter(u);
        ret = backend_check(u, off, len, 0, ACCT_READ);
        if (ret == 0) {
            ret = len ? node_co_status_above(u->edge->child, NULL, off, len,
                                             ret_ext)
                      : -EINVAL;
        }
    } while (backend_leaves_to_restart(u, ret));
    return ret;
}

int backend_co_cache(struct backend *u, uint64_t off, uint64_t len)
{
    int ret;

    do {
        backend_co_enter(u);
        ret = backend_check(u, off, len, 0, ACCT_READ);
        if (ret == 0 && len > 0) {
            ret = node_co_cache(u->edge->child, off, len);
        }
    } while (backend_leaves_to_restart(u, ret));
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
