/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The addresses of exports, as clients take them (the NBD project's
 * doc/uri.md). */
#include <string.h>
#include "export/nbd/nbd-int.h"

/* Such characters stand for themselves, in a path the slash besides. */
static char *uri_escape(const char *text, const char *besides)
{
    return g_uri_escape_string(text, besides, FALSE);
}

static char *export_uri(const struct nbd_server *s, const char *name)
{
    g_autofree char *export = uri_escape(name, "/");
    const char *scheme = s->creds ? "nbds" : "nbd";

    if (s->path) {
        g_autofree char *path = uri_escape(s->path, "/");

        return g_strdup_printf("%s+unix:///%s?socket=%s", scheme, export, path);
    }
    bool is_v6 = strchr(s->host, ':') != NULL;

    return g_strdup_printf("%s://%s%s%s:%u/%s", scheme, is_v6 ? "[" : "",
                           s->host, is_v6 ? "]" : "", s->port, export);
}

/* Can clients reach what @s serves? */
static bool is_reachable(const struct nbd_server *s)
{
    return s && !s->stopping && (s->path || s->host);
}

json_t *nbd_exports_describe(struct exports *es)
{
    json_t *list = json_array();

    for (guint i = 0; i < es->list->len; i++) {
        struct export *e = g_ptr_array_index(es->list, i);
        const struct nbd_export *ne = (struct nbd_export *)e;

        if (e->drv == &nbd_export_driver && !e->starting && !e->shutting_down &&
            is_reachable(es->nbd)) {
            g_autofree char *uri = export_uri(es->nbd, ne->name);

            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:s}", "id", e->id,
                                            "name", ne->name, "uri", uri));
        }
    }
    return list;
}
