/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which version of which disk a node shows, in a form that is still true after a
 * restart: for what is kept of it elsewhere.
 */
#include "graph/driver.h"
#include "graph/image.h"

/* What of the options decides the bytes: as for a name in a header. */
static char *version_options(const struct node *n)
{
    json_t *o = json_object();
    char *text, *ret;

    if (n->drv->reference) {
        n->drv->reference(n, o);
    }
    text = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
    ret = g_strdup(text);
    free(text);
    json_decref(o);
    return ret;
}

char *node_version(struct node *n)
{
    g_autofree char *options = NULL;
    GString *s;

    if (node_is_writable(n)) {
        return NULL;
    }
    if (node_is_filter(n)) {
        return node_version(node_file(n));
    }
    if (n->drv->kind == NODE_PROTOCOL) {
        return n->drv->version ? n->drv->version(n) : NULL;
    }
    options = version_options(n);
    s = g_string_new(NULL);
    g_string_append_printf(s, "%s %s %" G_GUINT64_FORMAT, n->drv->name, options,
                           n->size);
    for (struct edge *e = n->children; e; e = e->next_in_parent) {
        g_autofree char *child = node_version(e->child);

        if (!child) {
            g_string_free(s, TRUE);
            return NULL;
        }
        g_string_append_printf(s, " %s(%s)", e->name, child);
    }
    return g_string_free(s, FALSE);
}
