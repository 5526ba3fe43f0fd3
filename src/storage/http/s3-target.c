/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/s3-target.h"

#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "storage/http/http-url.h"

#define KEY_MAX 1024u
#define BUCKET_MIN 3u
#define BUCKET_MAX 255u
#define REGION_DEFAULT "us-east-1"
#define REGION_CHARS "abcdefghijklmnopqrstuvwxyz0123456789-_"

void s3_target_clear(struct s3_target *t)
{
    g_free(t->bucket);
    g_free(t->key);
    g_free(t->endpoint);
    g_free(t->region);
    g_free(t->version);
    *t = (struct s3_target) {};
}

static int bad_name(GError **err, const char *why)
{
    return err_set(err, EINVAL, "Invalid S3 address: %s", why);
}

/* --- names --- */

static int take_query(const char *query, struct s3_target *t, GError **err)
{
    g_auto(GStrv) parts = g_strsplit(query, "&", -1);

    for (unsigned i = 0; parts[i]; i++) {
        char *value = strchr(parts[i], '=');
        char **ret = NULL;

        if (value) {
            *value++ = '\0';
            ret = g_str_equal(parts[i], "endpoint")    ? &t->endpoint
                  : g_str_equal(parts[i], "region")    ? &t->region
                  : g_str_equal(parts[i], "versionId") ? &t->version
                                                       : NULL;
        }
        if (!ret || *ret) {
            return bad_name(err, "after '?' may stand endpoint, region and "
                                 "versionId, once each");
        }
        *ret = g_uri_unescape_string(value, NULL);
        if (!*ret) {
            return bad_name(err, "a wrong escape (%XX)");
        }
    }
    return 0;
}

static int target_parse(const char *name, struct s3_target *t, GError **err)
{
    const char *at = name + strlen("s3://"), *slash, *query;

    if (!g_str_has_prefix(name, "s3://")) {
        return bad_name(err, "it does not begin with 's3://'");
    }
    query = strchr(at, '?');
    g_autofree char *path = query ? g_strndup(at, (gsize)(query - at))
                                  : g_strdup(at);

    slash = strchr(path, '/');
    if (!slash) {
        return bad_name(err, "it names no object (s3://BUCKET/KEY)");
    }
    t->bucket = g_strndup(path, (gsize)(slash - path));
    t->key = g_uri_unescape_string(slash + 1, NULL);
    if (!t->key) {
        return bad_name(err, "a wrong escape (%XX)");
    }
    return query ? take_query(query + 1, t, err) : 0;
}

static bool is_bucket(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(name[i]) && !strchr("-._", name[i])) {
            return false;
        }
    }
    return len >= BUCKET_MIN && len <= BUCKET_MAX && g_ascii_isalnum(name[0]);
}

static int target_check(const struct s3_target *t, GError **err)
{
    if (!is_bucket(t->bucket)) {
        return err_set(err, EINVAL,
                       "'%s' is no name of a bucket: letters, digits, '-', "
                       "'.' and '_', at least 3",
                       t->bucket);
    }
    if (!*t->key || strlen(t->key) > KEY_MAX ||
        !g_utf8_validate(t->key, -1, NULL)) {
        return err_set(err, EINVAL,
                       "The key of an object has 1 to %u bytes of UTF-8",
                       KEY_MAX);
    }
    if (!*t->region || t->region[strspn(t->region, REGION_CHARS)]) {
        return err_set(err, EINVAL,
                       "'%s' is no name of a region: small letters, digits "
                       "and '-'",
                       t->region);
    }
    return 0;
}

/* --- options --- */

static int take_names(struct opts *o, struct s3_target *t, GError **err)
{
    g_autofree char *filename = NULL;
    int r = opts_take_str(o, "filename", &filename, err);

    if (r > 0) {
        r = target_parse(filename, t, err);
    } else if (r == 0 &&
               (r = opts_take_str(o, "bucket", &t->bucket, err)) >= 0) {
        r = opts_take_str(o, "key", &t->key, err);
    }
    if (r < 0) {
        return r;
    }
    if (!t->bucket || !t->key) {
        return opts_missing(t->bucket ? "key" : "bucket", err);
    }
    return 0;
}

/* An option wins over what the name says. */
static int take_member(struct opts *o, const char *option, char **member,
                       GError **err)
{
    char *value = NULL;
    int r = opts_take_str(o, option, &value, err);

    if (r > 0) {
        g_free(*member);
        *member = value;
    }
    return MIN(r, 0);
}

static int take_endpoint(struct s3_target *t, GError **err)
{
    struct http_url u = {};
    g_autoptr(GError) why = NULL;
    const char *host;
    int r;

    t->has_endpoint = t->endpoint != NULL;
    if (!t->endpoint) {
        t->endpoint = g_strdup_printf("https://s3.%s.amazonaws.com", t->region);
    }
    r = http_url_parse(t->endpoint, &u, &why);
    if (r < 0) {
        return err_set(err, EINVAL, "Parameter 'endpoint' is wrong: %s",
                       why->message);
    }
    http_url_clear(&u);
    while (g_str_has_suffix(t->endpoint, "/")) {
        t->endpoint[strlen(t->endpoint) - 1] = '\0';
    }
    host = strstr(t->endpoint, "://");
    return !host || strpbrk(host + 3, "/?#")
               ? err_set(err, EINVAL,
                         "Parameter 'endpoint' is wrong: it has more than "
                         "scheme, host and port")
               : 0;
}

int s3_target_take(struct opts *o, struct s3_target *t, GError **err)
{
    bool path_style = true;
    int r = take_names(o, t, err);

    if (r < 0 || (r = take_member(o, "endpoint", &t->endpoint, err)) < 0 ||
        (r = take_member(o, "region", &t->region, err)) < 0 ||
        (r = take_member(o, "version-id", &t->version, err)) < 0 ||
        (r = opts_take_bool(o, "path-style", &path_style, err)) < 0) {
        return r;
    }
    t->virtual_host = !path_style;
    if (!t->region) {
        t->region = g_strdup(REGION_DEFAULT);
    }
    r = target_check(t, err);
    return r < 0 ? r : take_endpoint(t, err);
}

/* --- addresses --- */

char *s3_target_format(const struct s3_target *t)
{
    g_autofree char *key = g_uri_escape_string(t->key, "/", FALSE);
    GString *s = g_string_new(NULL);
    char mark = '?';
    const struct {
        const char *name, *value;
    } parts[] = {
        { "endpoint", t->has_endpoint ? t->endpoint : NULL },
        { "region", strcmp(t->region, REGION_DEFAULT) ? t->region : NULL },
        { "versionId", t->version },
    };

    g_string_printf(s, "s3://%s/%s", t->bucket, key);
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (parts[i].value) {
            g_autofree char *v = g_uri_escape_string(parts[i].value,
                                                     "/:", FALSE);

            g_string_append_printf(s, "%c%s=%s", mark, parts[i].name, v);
            mark = '&';
        }
    }
    return g_string_free(s, FALSE);
}

int s3_target_url(const struct s3_target *t, const char *version,
                  struct http_url *ret, GError **err)
{
    g_autofree char *key = g_uri_escape_string(t->key, "/", FALSE);
    g_autofree char *v = version ? g_uri_escape_string(version, NULL, FALSE)
                                 : NULL;
    const char *host = strstr(t->endpoint, "://") + 3;
    g_autofree char *server = t->virtual_host
                                  ? g_strdup_printf(
                                        "%.*s%s.%s", (int)(host - t->endpoint),
                                        t->endpoint, t->bucket, host)
                                  : g_strdup_printf("%s/%s", t->endpoint,
                                                    t->bucket);
    struct http_url u = {};
    int r = http_url_parse(server, &u, err);

    if (r < 0) {
        return r;
    }
    /* Not what libcurl makes of it: a key may hold "..". */
    g_free(u.text);
    u.text = g_strdup_printf("%s/%s%s%s", server, key, v ? "?versionId=" : "",
                             v ? v : "");
    *ret = u;
    return 0;
}
