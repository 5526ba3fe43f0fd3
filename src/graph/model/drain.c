/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drain: a node that nobody is using for a while.
 *
 * A drain remembers which backends it stopped (those above the node) and which
 * drivers it quiesced (those at and below it; filters wherever the requests of
 * those backends go too, before the wait, since a throttle holds requests),
 * because the graph may look different when it ends.  A backend or node that
 * goes away meanwhile removes itself from these lists.
 *
 * A change of edges above a node stops requests alone: to quiesce a format may
 * take a flush, and guests would wait for that (P4).
 */
#include "graph/graph-int.h"
#include "graph/model/early.h"
#include "graph/model/in-flight.h"
#include "graph/model/model.h"
#include "graph/trace.h"
#include "loop/loop.h"

static void add_once(GPtrArray *array, void *item)
{
    if (!g_ptr_array_find(array, item, NULL)) {
        g_ptr_array_add(array, item);
    }
}

static void collect_backends(struct node *n, GPtrArray *backends)
{
    g_autoptr(GPtrArray) above = g_ptr_array_new();

    nodes_add_above(above, n);
    for (unsigned i = 0; i < above->len; i++) {
        const struct node *at = g_ptr_array_index(above, i);

        for (struct edge *e = at->parents; e; e = e->next_in_child) {
            if (e->backend) {
                add_once(backends, e->backend);
            }
        }
    }
}

/* The filters that requests of @backends go through, by any path. */
static void collect_filters(GPtrArray *backends, GPtrArray *nodes)
{
    GPtrArray *all = g_ptr_array_new();

    for (unsigned i = 0; i < backends->len; i++) {
        struct backend *u = g_ptr_array_index(backends, i);

        nodes_add_below(all, u->edge->child);
    }
    for (unsigned i = 0; i < all->len; i++) {
        if (node_is_filter(g_ptr_array_index(all, i))) {
            add_once(nodes, g_ptr_array_index(all, i));
        }
    }
    g_ptr_array_free(all, TRUE);
}

/* Populates that no backend counts: copies that go on after the read that began
 * them. */
static CO_FN void drain_co_wait_in_flight(GPtrArray *nodes)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        early_co_wait_idle(g_ptr_array_index(nodes, i), EARLY_DRAIN_NS);
        inflight_co_wait_idle(g_ptr_array_index(nodes, i));
    }
}

/* Storage that does not answer must not keep a drain from its end. */
static void drain_let_go(struct drain *d)
{
    for (unsigned i = 0; i < d->backends->len; i++) {
        struct backend *u = g_ptr_array_index(d->backends, i);

        if (u->stats.in_flight > 0) {
            node_let_go(u->edge->child);
        }
    }
}

static CO_FN void drain_co_wait_backends(struct drain *d)
{
    for (unsigned i = 0; i < d->backends->len;) {
        struct backend *u = g_ptr_array_index(d->backends, i);

        if (u->stats.in_flight > 0) {
            struct graph *g = d->node->graph;
            uint64_t until = loop_clock_ns(g->loop) + LET_GO_NS;

            if (!co_queue_co_wait_until(&u->idle, until)) {
                drain_let_go(d);
            }
            /* Backends may have gone while this waited: look again from the
             * start, which is cheap, as it is only a list of counters. */
            i = 0;
        } else {
            i++;
        }
    }
}

/* Whoever else drains @n meanwhile waits until its driver is quiet, too. */
static CO_FN void drain_co_quiesce_node(struct node *n)
{
    struct node_int *p = n->priv;

    if (p->quiesced++ == 0 && n->drv->co_quiesce && p->open) {
        p->quieting = true;
        n->drv->co_quiesce(n);
        p->quieting = false;
        co_queue_wake_all(&p->quieted);
    }
    while (p->quieting) {
        co_queue_co_wait(&p->quieted);
    }
}

/* Quiesce those of @nodes that are filters, or those that are not. */
static CO_FN void drain_co_quiesce(struct drain *d, GPtrArray *nodes,
                                   bool filters)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        struct node *n = g_ptr_array_index(nodes, i);

        if (node_is_filter(n) != filters) {
            continue;
        }
        g_ptr_array_add(d->quiet, n);
        drain_co_quiesce_node(n);
    }
}

/* What was written to an image above @n before its base was read: the base is
 * part of what the drain keeps still. */
static CO_FN void drain_co_wait_above(struct node *n)
{
    g_autoptr(GPtrArray) above = g_ptr_array_new();
    unsigned i = 0;

    nodes_add_above(above, n);
    while (i < above->len) {
        struct node *at = g_ptr_array_index(above, i);

        if (at->refs == 0) { /* it is being closed, and settles that itself */
            g_ptr_array_remove_index_fast(above, i);
        } else {
            node_ref(at);
            i++;
        }
    }
    for (i = 0; i < above->len; i++) {
        early_co_drain(g_ptr_array_index(above, i));
        node_co_unref(g_ptr_array_index(above, i));
    }
}

/* Stop the backends above @n; with @drivers also what drivers do by
 * themselves. */
static CO_FN void drain_co_begin(struct node *n, bool drivers)
{
    struct graph *g = n->graph;
    struct drain *d = g_new0(struct drain, 1);
    GPtrArray *nodes = g_ptr_array_new();

    d->node = n;
    d->owner = co_self();
    d->backends = g_ptr_array_new();
    d->quiet = g_ptr_array_new();
    d->next = g->drains;
    g->drains = d;
    collect_backends(n, d->backends);
    nodes_add_below(nodes, n);
    collect_filters(d->backends, nodes);
    trace_drain_begin(n->name, d->backends->len, nodes->len);
    for (unsigned i = 0; i < d->backends->len; i++) {
        ((struct backend *)g_ptr_array_index(d->backends, i))->quiesced++;
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        node_ref(g_ptr_array_index(nodes, i));
    }
    /* Filters may be holding requests back: they let go first. */
    drain_co_quiesce(d, nodes, true);
    drain_co_wait_backends(d);
    drain_co_wait_above(n);
    drain_co_wait_in_flight(nodes);
    if (drivers) {
        drain_co_quiesce(d, nodes, false);
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        node_co_unref(g_ptr_array_index(nodes, i));
    }
    g_ptr_array_free(nodes, TRUE);
    d->begun = true;
    trace_drain_quiet(n->name);
}

void node_co_drain_begin(struct node *n)
{
    drain_co_begin(n, true);
}

void node_co_drain_requests_begin(struct node *n)
{
    drain_co_begin(n, false);
}

/* The one to end: the caller's own, the latest first; else any. One that is
 * still beginning belongs to somebody else. */
static struct drain **drain_find(struct node *n)
{
    struct drain **any = NULL;

    for (struct drain **p = &n->graph->drains; *p; p = &(*p)->next) {
        if ((*p)->node != n || !(*p)->begun) {
            continue;
        }
        if ((*p)->owner == co_self()) {
            return p;
        }
        any = any ? any : p;
    }
    return any;
}

void node_drain_end(struct node *n)
{
    struct drain **p = drain_find(n);
    struct drain *d;

    g_assert(p);
    d = *p;
    *p = d->next;
    trace_drain_end(n->name);
    for (unsigned i = 0; i < d->quiet->len; i++) {
        struct node *q = g_ptr_array_index(d->quiet, i);

        g_assert(q->priv->quiesced > 0);
        if (--q->priv->quiesced == 0 && q->drv->resume && q->priv->open) {
            q->drv->resume(q);
        }
    }
    for (unsigned i = 0; i < d->backends->len; i++) {
        struct backend *u = g_ptr_array_index(d->backends, i);

        g_assert(u->quiesced > 0);
        if (--u->quiesced == 0) {
            co_queue_wake_all(&u->drain_waiters);
        }
    }
    g_ptr_array_free(d->backends, TRUE);
    g_ptr_array_free(d->quiet, TRUE);
    g_free(d);
}
