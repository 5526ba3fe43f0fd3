/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guests' requests under way; see graph/demand.h. */
#include "graph/demand.h"
#include "graph/background/control.h"
#include "loop/loop.h"

/* Storages that are told apart in one request; further ones are not seen. */
#define STORAGES 4
#define DEMANDS_MAX (UINT32_MAX >> IO_DEMAND_SHIFT)

struct demand {
    uint32_t next_free; /* number of another one; 0: the last */
    unsigned n;
    uint64_t begun_ns;
    uint64_t elsewhere_ns; /* waiting for what is no storage's fault */
    struct {
        struct storage_control *control; /* a reference */
        uint64_t begun_ns, done_ns;
    } at[STORAGES];
};

/* Number 0 stands for none. */
static uint32_t demand_new(struct demands *d)
{
    uint32_t number = d->free;

    if (number) {
        d->free = d->list[number - 1]->next_free;
        return number;
    }
    if (d->list_len == DEMANDS_MAX) {
        return 0;
    }
    if (d->list_len % 64 == 0) {
        d->list = g_renew(struct demand *, d->list, d->list_len + 64);
    }
    d->list[d->list_len++] = g_new0(struct demand, 1);
    return d->list_len;
}

static struct demand *demand_of(struct graph *g, unsigned flags)
{
    return g->demands.list[(flags >> IO_DEMAND_SHIFT) - 1];
}

void demands_free(struct demands *d)
{
    for (uint32_t i = 0; i < d->list_len; i++) {
        g_assert(d->list[i]->n == 0);
        g_free(d->list[i]);
    }
    g_free(d->list);
}

unsigned demand_begin(struct graph *g, uint64_t now_ns)
{
    unsigned flags = demand_new(&g->demands) << IO_DEMAND_SHIFT;

    if (flags) {
        demand_of(g, flags)->begun_ns = now_ns;
        demand_of(g, flags)->elsewhere_ns = 0;
    }
    return flags;
}

/* What storage number @i answers for: all of the time, waits for locks and
 * tables included, but for what the others took. */
static uint64_t demand_share_ns(const struct demand *d, unsigned i,
                                uint64_t now_ns)
{
    uint64_t own = d->at[i].done_ns - d->at[i].begun_ns;
    uint64_t all = now_ns - d->begun_ns, others = d->elsewhere_ns;

    for (unsigned k = 0; k < d->n; k++) {
        others += k == i ? 0 : d->at[k].done_ns - d->at[k].begun_ns;
    }
    return MAX(own, all > others ? all - others : 0);
}

void demand_end(struct graph *g, unsigned flags)
{
    uint64_t now = loop_clock_ns(g->loop);
    struct demand *d;

    if (!(flags & IO_DEMAND)) {
        return;
    }
    d = demand_of(g, flags);
    for (unsigned i = 0; i < d->n; i++) {
        struct storage_control *c = d->at[i].control;

        limit_demand_done(&c->limit, d->at[i].begun_ns,
                          demand_share_ns(d, i, now), now);
    }
    for (unsigned i = 0; i < d->n; i++) {
        storage_control_unref(d->at[i].control);
    }
    d->n = 0;
    d->next_free = g->demands.free;
    g->demands.free = flags >> IO_DEMAND_SHIFT;
}

void demand_reaches_storage(struct node *n, unsigned flags)
{
    struct storage_control *c = n->priv->control;
    struct demand *d = demand_of(n->graph, flags);
    uint64_t now;

    for (unsigned i = 0; i < d->n; i++) {
        if (d->at[i].control == c) {
            return; /* its time runs */
        }
    }
    if (d->n == STORAGES) {
        return;
    }
    now = loop_clock_ns(n->graph->loop);
    d->at[d->n].control = storage_control_ref(c);
    d->at[d->n].begun_ns = d->at[d->n].done_ns = now;
    d->n++;
    limit_demand_begin(&c->limit, now);
}

void demand_leaves_storage(struct node *n, unsigned flags)
{
    struct demand *d = demand_of(n->graph, flags);

    for (unsigned i = 0; i < d->n; i++) {
        if (d->at[i].control == n->priv->control) {
            d->at[i].done_ns = loop_clock_ns(n->graph->loop);
        }
    }
}

void node_demand_excuse(struct node *n, unsigned flags, uint64_t ns)
{
    if (flags & IO_DEMAND) {
        demand_of(n->graph, flags)->elsewhere_ns += ns;
    }
}
