/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/migrate/address.h"

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/migrate/migrate.h"

#define NBD_PORT 10809

/* Servers that listen everywhere tell no address by which they are reached. */
static bool is_anywhere(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 ||
           strcmp(host, "[::]") == 0;
}

char *address_of_link(const struct migration *m, const char *uri)
{
    g_autoptr(GUri) u = g_uri_parse(uri, G_URI_FLAGS_ENCODED, NULL);
    const char *scheme = m->tls_creds ? "nbds" : "nbd";

    if (!u) {
        cli_error("the address '%s' of the server is not understood", uri);
        return NULL;
    }
    if (strstr(g_uri_get_scheme(u), "unix")) {
        return m->tls_creds ? g_strconcat("nbds", strchr(uri, '+'), NULL)
                            : g_strdup(uri);
    }
    if (m->address) {
        return g_strdup_printf("%s://%s%s", scheme, m->address,
                               g_uri_get_path(u));
    }
    if (is_anywhere(g_uri_get_host(u))) {
        cli_error("'%s' does not tell how the other host reaches it", uri);
        fprintf(stderr, "--address HOST[:PORT] says so.\n");
        return NULL;
    }
    return g_strconcat(scheme, strstr(uri, "://"), NULL);
}

static json_t *server_of(GUri *u)
{
    const char *query = g_uri_get_query(u);
    int port = g_uri_get_port(u);

    if (query && g_str_has_prefix(query, "socket=")) {
        g_autofree char *path = g_uri_unescape_string(query + strlen("socket="),
                                                      NULL);
        return json_pack("{s:s, s:s}", "type", "unix", "path", path);
    }
    g_autofree char *text = g_strdup_printf("%d", port < 0 ? NBD_PORT : port);
    return json_pack("{s:s, s:s, s:s}", "type", "inet", "host",
                     g_uri_get_host(u), "port", text);
}

json_t *address_node(const struct migration *m, const char *name,
                     const char *link)
{
    g_autoptr(GUri) u = g_uri_parse(link, G_URI_FLAGS_ENCODED, NULL);
    g_autofree char *export = g_uri_unescape_string(g_uri_get_path(u) + 1,
                                                    NULL);
    json_t *o = json_pack("{s:s, s:s, s:o, s:s, s:I}", "driver", "nbd",
                          "node-name", name, "server", server_of(u), "export",
                          export, "reconnect-delay", (json_int_t)m->link_delay);

    if (m->tls_creds) {
        json_object_set_new(o, "tls-creds", json_string(m->tls_creds));
    }
    if (m->tls_hostname) {
        json_object_set_new(o, "tls-hostname", json_string(m->tls_hostname));
    }
    return o;
}
