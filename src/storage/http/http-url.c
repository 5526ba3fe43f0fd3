/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-url.h"

#include <curl/curl.h>
#include <string.h>

#include "base/err.h"

void http_url_clear(struct http_url *u)
{
    g_free(u->text);
    g_free(u->origin);
    *u = (struct http_url) {};
}

/* Owned by GLib; NULL where the address does not say it. */
static char *url_part(CURLU *h, CURLUPart part, unsigned flags)
{
    char *text = NULL, *ret;

    if (curl_url_get(h, part, &text, flags) != CURLUE_OK) {
        return NULL;
    }
    ret = g_strdup(text);
    curl_free(text);
    return ret;
}

static bool has_part(CURLU *h, CURLUPart part)
{
    g_autofree char *text = url_part(h, part, 0);

    return text != NULL;
}

static int url_take(CURLU *h, struct http_url *ret, GError **err)
{
    g_autofree char *scheme = url_part(h, CURLUPART_SCHEME, 0);
    g_autofree char *host = url_part(h, CURLUPART_HOST, 0);
    g_autofree char *port = url_part(h, CURLUPART_PORT, CURLU_DEFAULT_PORT);
    g_autofree char *lower = host ? g_ascii_strdown(host, -1) : NULL;

    if (!scheme || (strcmp(scheme, "http") && strcmp(scheme, "https"))) {
        return err_set(err, EINVAL, "it is neither http: nor https:");
    }
    if (!host || !*host || !port) {
        return err_set(err, EINVAL, "it names no host");
    }
    if (has_part(h, CURLUPART_USER) || has_part(h, CURLUPART_PASSWORD)) {
        return err_set(err, EINVAL, "it holds a user name or a password");
    }
    curl_url_set(h, CURLUPART_FRAGMENT, NULL, 0);
    ret->tls = g_str_equal(scheme, "https");
    ret->origin = g_strdup_printf("%s://%s:%s", scheme, lower, port);
    ret->text = url_part(h, CURLUPART_URL, 0);
    return ret->text ? 0 : err_set(err, EINVAL, "it is not valid");
}

/* libcurl takes "http:///x" for "http://x". */
static bool lacks_host(const char *text)
{
    return !g_ascii_strncasecmp(text, "http:///", 8) ||
           !g_ascii_strncasecmp(text, "https:///", 9);
}

static int url_resolve(const char *base, const char *text, struct http_url *ret,
                       GError **err)
{
    CURLU *h = curl_url();
    unsigned flags = CURLU_NON_SUPPORT_SCHEME;
    int r;

    if (!h) {
        return err_set(err, ENOMEM, "out of memory");
    }
    if (lacks_host(text) ||
        (base && curl_url_set(h, CURLUPART_URL, base, 0) != CURLUE_OK) ||
        curl_url_set(h, CURLUPART_URL, text, flags) != CURLUE_OK) {
        r = err_set(err, EINVAL, "it is not a valid address");
    } else {
        r = url_take(h, ret, err);
    }
    curl_url_cleanup(h);
    return r;
}

int http_url_parse(const char *text, struct http_url *ret, GError **err)
{
    return url_resolve(NULL, text, ret, err);
}

int http_url_redirect(const struct http_url *from, const char *location,
                      struct http_url *ret, GError **err)
{
    struct http_url to = {};
    int r = url_resolve(from->text, location, &to, err);

    if (r == 0 && from->tls && !to.tls) {
        r = err_set(err, EPERM, "it leads from https: to http:");
        http_url_clear(&to);
    }
    if (r == 0) {
        *ret = to;
    }
    return r;
}

char *http_url_public(const char *text)
{
    const char *query = strchr(text, '?'), *slashes = strstr(text, "://");
    g_autofree char *shown = query ? g_strndup(text, (gsize)(query - text))
                                   : g_strdup(text);
    const char *at;

    if (!slashes || slashes - text > (query ? query - text : G_MAXLONG)) {
        return g_steal_pointer(&shown);
    }
    /* A name and password before the host. */
    size_t begin = (size_t)(slashes - text) + 3;
    size_t end = begin + strcspn(shown + begin, "/");

    at = memrchr(shown + begin, '@', end - begin);
    return at ? g_strdup_printf("%.*s%s", (int)begin, shown, at + 1)
              : g_steal_pointer(&shown);
}
