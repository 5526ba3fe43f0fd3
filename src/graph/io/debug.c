/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Debug events and breakpoints: from where they happen to who listens. */
#include "graph/debug.h"
#include <errno.h>
#include "graph/graph-int.h"
#include "graph/trace.h"

const char *const debug_event_names[] = {
#define DEBUG_EVENT_NAME(id, name) name,
    DEBUG_EVENTS(DEBUG_EVENT_NAME)
#undef DEBUG_EVENT_NAME
        NULL
};

/* Events of what the dispatcher does to one node: only that node is told of
 * them. */
static bool event_is_own(enum debug_event ev)
{
    return ev >= DEBUG_PWRITEV_RMW_HEAD && ev <= DEBUG_PWRITEV_DONE;
}

void node_co_debug_event_slow(struct node *n, enum debug_event ev)
{
    if (event_is_own(ev) && !n->drv->co_debug_event) {
        return;
    }
    /* Events of a format's disk are not passed on to its file. */
    while (n && !n->drv->co_debug_event && !n->drv->supports_backing) {
        n = node_file(n);
    }
    if (n && n->drv->co_debug_event) {
        trace_debug_event(n->name, debug_event_names[ev]);
        n->drv->co_debug_event(n, ev);
    }
}

/* A command goes to the nearest such filter, also through formats. */
static struct node *debugger_of(struct node *n)
{
    while (n && !n->drv->debug_control) {
        n = node_file(n);
    }
    return n;
}

static int debug_control(struct node *n, enum debug_control what,
                         const char *event, const char *tag)
{
    n = debugger_of(n);
    return n ? n->drv->debug_control(n, what, event, tag) : -ENOTSUP;
}

int node_debug_break(struct node *n, const char *event, const char *tag)
{
    return debug_control(n, DEBUG_BREAK, event, tag);
}

int node_debug_resume(struct node *n, const char *tag)
{
    return debug_control(n, DEBUG_RESUME, NULL, tag);
}

int node_debug_remove_break(struct node *n, const char *tag)
{
    return debug_control(n, DEBUG_REMOVE_BREAK, NULL, tag);
}

bool node_debug_is_suspended(struct node *n, const char *tag)
{
    return debug_control(n, DEBUG_IS_SUSPENDED, NULL, tag) > 0;
}

void graph_debug_release(struct graph *g)
{
    for (unsigned i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);

        if (n->drv->debug_control && n->priv->open) {
            n->drv->debug_control(n, DEBUG_RELEASE, NULL, NULL);
        }
    }
}
