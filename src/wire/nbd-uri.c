/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Export names have at most 4096 bytes (the protocol's limit) and no zero
 * bytes; a socket path is only ever absolute when a URI gives it.
 */
#include "wire/nbd-uri.h"

#include <string.h>

#include "base/err.h"

#define EXPORT_NAME_MAX 4096

void nbd_target_clear(struct nbd_target *t)
{
    g_free(t->path);
    g_free(t->host);
    g_free(t->port);
    g_free(t->export_name);
    *t = (struct nbd_target) {};
}

/* How a name can begin; the longest that fits counts. */
static const struct scheme {
    const char *prefix;
    bool unix_socket, tls, legacy;
} schemes[] = {
    { "nbd://", false, false, false },
    { "nbd+tcp://", false, false, false },
    { "nbd+unix://", true, false, false },
    { "nbds://", false, true, false },
    { "nbds+tcp://", false, true, false },
    { "nbds+unix://", true, true, false },
    { "nbd:", false, false, true },
};

static const struct scheme *find_scheme(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(schemes); i++) {
        if (g_str_has_prefix(name, schemes[i].prefix)) {
            return &schemes[i];
        }
    }
    return NULL;
}

static int bad_uri(const char *name, const char *why, GError **err)
{
    return err_set(err, EINVAL, "Invalid NBD address '%s': %s", name, why);
}

/* Undo %XX of @len bytes; NULL for a bad escape or a zero byte. */
static char *unescape(const char *text, size_t len)
{
    return g_uri_unescape_segment(text, text + len, NULL);
}

static bool is_port(const char *text)
{
    guint64 port;
    return g_ascii_string_to_unsigned(text, 10, 0, 65535, &port, NULL);
}

/* HOST, HOST:PORT, [ADDRESS], [ADDRESS]:PORT. */
static int parse_authority(const char *name, const char *auth, size_t len,
                           struct nbd_target *t, GError **err)
{
    g_autofree char *text = g_strndup(auth, len);
    char *host = text, *port = NULL, *end;

    if (strchr(text, '@')) {
        return bad_uri(name, "a user name has no meaning here", err);
    }
    if (*text == '[') {
        host = text + 1;
        end = strchr(host, ']');
        if (!end || (end[1] && end[1] != ':')) {
            return bad_uri(name, "']' is missing", err);
        }
        port = end[1] ? end + 2 : NULL;
        *end = '\0';
    } else if ((end = strchr(text, ':'))) {
        port = end + 1;
        *end = '\0';
    }
    if (port && *port && !is_port(port)) {
        return bad_uri(name, "the port is not a number up to 65535", err);
    }
    t->host = unescape(host, strlen(host));
    if (!t->host) {
        return bad_uri(name, "bad escape in the host name", err);
    }
    if (!*t->host) {
        g_free(t->host);
        t->host = g_strdup("localhost");
    }
    t->port = g_strdup(port && *port ? port : NBD_DEFAULT_PORT);
    return 0;
}

/* socket=PATH and nothing else. */
static int parse_query(const char *name, const char *query,
                       struct nbd_target *t, GError **err)
{
    g_auto(GStrv) items = g_strsplit(query ? query : "", "&", 16);

    for (unsigned i = 0; items[i]; i++) {
        if (!*items[i]) {
            continue;
        }
        if (!g_str_has_prefix(items[i], "socket=")) {
            return bad_uri(name, "unknown parameter after '?'", err);
        }
        const char *value = items[i] + strlen("socket=");
        if (t->path) {
            return bad_uri(name, "two sockets", err);
        }
        t->path = unescape(value, strlen(value));
        if (!t->path) {
            return bad_uri(name, "bad escape in the socket path", err);
        }
    }
    return 0;
}

static int parse_uri(const char *name, const struct scheme *sch,
                     struct nbd_target *t, GError **err)
{
    const char *auth = name + strlen(sch->prefix);
    size_t auth_len = strcspn(auth, "/?#");
    const char *path = auth + auth_len;
    size_t path_len = strcspn(path, "?#");
    const char *query = path[path_len] == '?' ? path + path_len + 1 : NULL;

    if (strchr(auth, '#')) {
        return bad_uri(name, "'#' must be written %23", err);
    }
    if (path_len > 0) {
        path++;
        path_len--;
    }
    t->tls = sch->tls;
    t->export_name = unescape(path, path_len);
    if (!t->export_name) {
        return bad_uri(name, "bad escape in the export name", err);
    }
    int ret = parse_query(name, query, t, err);
    if (ret < 0) {
        return ret;
    }
    if (!sch->unix_socket) {
        return t->path ? bad_uri(name, "a socket needs nbd+unix://", err)
                       : parse_authority(name, auth, auth_len, t, err);
    }
    if (auth_len > 0) {
        return bad_uri(name, "nbd+unix:// takes no host", err);
    }
    return t->path && *t->path ? 0
                               : bad_uri(name, "?socket=PATH is missing", err);
}

/* nbd:HOST:PORT and nbd:unix:PATH, with :exportname= at the end. */
static int parse_legacy(const char *name, struct nbd_target *t, GError **err)
{
    static const char mark[] = ":exportname=";
    const char *text = name + strlen("nbd:");
    const char *exp = strstr(text, mark);
    g_autofree char *addr = exp ? g_strndup(text, (gsize)(exp - text))
                                : g_strdup(text);

    t->export_name = g_strdup(exp ? exp + strlen(mark) : "");
    if (g_str_has_prefix(addr, "unix:")) {
        t->path = g_strdup(addr + strlen("unix:"));
        return *t->path ? 0 : bad_uri(name, "the socket path is empty", err);
    }
    char *colon = strrchr(addr, ':');
    if (!colon || !is_port(colon + 1)) {
        return bad_uri(name, "expected nbd:HOST:PORT or nbd:unix:PATH", err);
    }
    return parse_authority(name, addr, strlen(addr), t, err);
}

int nbd_uri_parse(const char *name, struct nbd_target *ret, GError **err)
{
    const struct scheme *sch = find_scheme(name);
    struct nbd_target t = {};

    if (!sch) {
        return bad_uri(name, "expected nbd:// or nbd+unix://", err);
    }
    int r = sch->legacy ? parse_legacy(name, &t, err)
                        : parse_uri(name, sch, &t, err);
    if (r == 0 && strlen(t.export_name) > EXPORT_NAME_MAX) {
        r = bad_uri(name, "the export name is longer than 4096 bytes", err);
    }
    if (r < 0) {
        nbd_target_clear(&t);
        return r;
    }
    *ret = t;
    return 0;
}

char *nbd_uri_format(const struct nbd_target *t)
{
    const char *s = t->tls ? "nbds" : "nbd";
    g_autofree char *name = g_uri_escape_string(
        t->export_name, G_URI_RESERVED_CHARS_ALLOWED_IN_PATH, FALSE);

    if (t->path) {
        /* '&' would begin another parameter. */
        g_autofree char *path = g_uri_escape_string(t->path, "/:", FALSE);
        return g_strdup_printf("%s+unix://%s%s?socket=%s", s, *name ? "/" : "",
                               name, path);
    }
    bool v6 = strchr(t->host, ':');
    g_autofree char *host = g_uri_escape_string(t->host, ":", FALSE);
    return g_strdup_printf("%s://%s%s%s:%s%s%s", s, v6 ? "[" : "", host,
                           v6 ? "]" : "", t->port, *name ? "/" : "", name);
}
