/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See control.h. */
#include "graph/background/control.h"
#include "graph/demand.h"
#include "graph/trace.h"
#include "loop/loop.h"

#define DIVIDE_NS UINT64_C(50000000)

static struct storage_control *control_find(struct graph *g, uint64_t device)
{
    for (unsigned i = 0; device && i < g->controls->len; i++) {
        struct storage_control *c = g_ptr_array_index(g->controls, i);

        if (c->device == device) {
            return storage_control_ref(c);
        }
    }
    return NULL;
}

static struct storage_control *control_new(struct graph *g, uint64_t device)
{
    struct storage_control *c = g_new0(struct storage_control, 1);

    c->graph = g;
    c->device = device;
    c->refs = 1;
    c->members = g_ptr_array_new();
    limit_init(&c->limit, loop_clock_ns(g->loop));
    g_ptr_array_add(g->controls, c);
    return c;
}

struct storage_control *storage_control_ref(struct storage_control *c)
{
    c->refs++;
    return c;
}

void storage_control_unref(struct storage_control *c)
{
    if (!c || --c->refs > 0) {
        return;
    }
    g_assert(c->members->len == 0);
    g_ptr_array_remove(c->graph->controls, c);
    g_ptr_array_free(c->members, TRUE);
    g_free(c);
}

void storage_control_adopt(struct node *n)
{
    uint64_t device;

    if (n->drv->kind != NODE_PROTOCOL || n->priv->control) {
        return;
    }
    device = n->drv->device_id ? n->drv->device_id(n) : 0;
    n->priv->control = control_find(n->graph, device);
    if (!n->priv->control) {
        n->priv->control = control_new(n->graph, device);
    }
}

void storage_control_release(struct node *n)
{
    g_clear_pointer(&n->priv->control, storage_control_unref);
}

/* Of two targets the one that asks for less time, as far as it is known. */
static uint64_t target_order(const struct storage_control *c,
                             const struct latency_target *t)
{
    return t->ns ? t->ns
           : t->times > 0
               ? (uint64_t)((double)MAX(c->limit.idle_p99, 1000) * t->times)
               : UINT64_MAX;
}

void storage_control_retarget(struct storage_control *c)
{
    struct latency_target lowest = { 0 };

    for (unsigned i = 0; i < c->members->len; i++) {
        const struct member *m = g_ptr_array_index(c->members, i);
        const struct latency_target *t = &m->work->limits.target;

        if (target_order(c, t) < target_order(c, &lowest)) {
            lowest = *t;
        }
    }
    if (c->members->len) {
        limit_set_target(&c->limit, &lowest, loop_clock_ns(c->graph->loop));
    }
}

void storage_control_divide(struct storage_control *c)
{
    uint64_t now = loop_clock_ns(c->graph->loop);
    double rate;

    limit_tick(&c->limit, now);
    rate = limit_rate(&c->limit);
    if (rate == c->divided && now - c->divide_ns < DIVIDE_NS) {
        return;
    }
    if (rate != c->divided) {
        trace_background_rate(c->device, (int)c->limit.phase,
                              rate < RATE_NONE ? (uint64_t)rate : UINT64_MAX,
                              c->limit.idle_p99);
    }
    share_divide((struct member **)c->members->pdata, c->members->len, rate,
                 now - c->divide_ns);
    c->divide_ns = now;
    c->divided = rate;
}
