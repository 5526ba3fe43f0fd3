/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Help for those who mistyped a format. */
#include "base/suggest.h"
#include "graph/driver.h"
#include "graph/graph-int.h"
#include "graph/image.h"

void graph_hint_formats(struct graph *g, const char *name, GError **err)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (unsigned i = 0; g->drivers[i]; i++) {
        if (g->drivers[i]->kind == NODE_FORMAT) {
            g_ptr_array_add(names, (char *)g->drivers[i]->name);
        }
    }
    g_ptr_array_add(names, NULL);
    suggest_hint(err, name, (const char *const *)names->pdata);
}
