/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See graph/memory.h. */
#include "graph/memory.h"
#include "graph/graph-int.h"
#include "graph/model/model.h"
#include "loop/io.h"

#define SECOND_NS UINT64_C(1000000000)

/* What is posted to the graph's loop by those of others; one at a time is under
 * way. */
struct memory_wake {
    struct graph *graph; /* NULL: it has ended */
    bool posted;         /* atomic */
};

struct memory_budget *graph_memory(struct graph *g)
{
    return g->memory;
}

static void timer_set(void *arg, unsigned seconds)
{
    struct graph *g = arg;

    g->memory_seconds = seconds;
    if (seconds) {
        loop_timer_arm(&g->memory_timer,
                       loop_clock_ns(g->loop) + seconds * SECOND_NS);
    } else {
        loop_timer_cancel(&g->memory_timer);
    }
}

static void timer_fired(void *arg)
{
    struct graph *g = arg;

    memory_budget_clean(g->memory, g->memory_seconds);
    io_buf_trim(); /* what was freed just now is kept for reuse by the loop */
}

static void wake_arrived(void *arg)
{
    struct memory_wake *w = arg;

    __atomic_store_n(&w->posted, false, __ATOMIC_SEQ_CST);
    if (w->graph) {
        memory_budget_shrink(w->graph->memory);
    } else {
        g_free(w);
    }
}

/* On any thread, one at a time. */
static void wake_post(void *arg)
{
    struct graph *g = arg;
    struct memory_wake *w = g->memory_wake;

    if (!__atomic_exchange_n(&w->posted, true, __ATOMIC_SEQ_CST)) {
        loop_post(g->loop, wake_arrived, w);
    }
}

void graph_memory_begin(struct graph *g)
{
    g->memory = memory_budget_new(MEMORY_DEFAULT);
    loop_timer_init(&g->memory_timer, g->loop, timer_fired, g);
    memory_budget_set_timer(g->memory, timer_set, g);
    g->memory_wake = g_new0(struct memory_wake, 1);
    g->memory_wake->graph = g;
    memory_budget_set_wake(g->memory, wake_post, g);
}

void graph_memory_end(struct graph *g)
{
    loop_timer_cancel(&g->memory_timer);
    memory_budget_free(g->memory);
    /* From here on nobody posts it any more. */
    g->memory_wake->graph = NULL;
    if (!__atomic_load_n(&g->memory_wake->posted, __ATOMIC_SEQ_CST)) {
        g_free(g->memory_wake);
    }
}
