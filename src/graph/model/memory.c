/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See graph/memory.h. */
#include "graph/memory.h"
#include "graph/graph-int.h"
#include "graph/model/model.h"
#include "loop/io.h"

#define SECOND_NS UINT64_C(1000000000)

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

void graph_memory_begin(struct graph *g)
{
    g->memory = memory_budget_new(MEMORY_DEFAULT);
    loop_timer_init(&g->memory_timer, g->loop, timer_fired, g);
    memory_budget_set_timer(g->memory, timer_set, g);
}

void graph_memory_end(struct graph *g)
{
    loop_timer_cancel(&g->memory_timer);
    memory_budget_free(g->memory);
}
