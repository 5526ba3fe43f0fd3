/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Notes about an image for whoever runs the program. */
#include "graph/driver.h"
#include "graph/graph-int.h"
#include "graph/trace.h"

void node_notice(const struct node *n, const char *fmt, ...)
{
    g_autofree char *what = NULL, *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_node_notice(n->name, what);
    if (n->graph->notice) {
        text = g_strdup_printf("'%s': %s",
                               n->filename ? n->filename : node_title(n), what);
        n->graph->notice(text);
    }
}
