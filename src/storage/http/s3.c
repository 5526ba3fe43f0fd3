/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver "s3": an object of an S3 server as a node, for reading.
 *
 * Requests are signed by libcurl.  Where the bucket keeps versions, the one
 * that the first answer names is asked for from then on, so that an object that
 * is replaced is no harm; where it does not, a replaced object is noticed as any
 * other file is (http-fetch.h).
 */
#include <string.h>

#include "base/err.h"
#include "graph/driver.h"
#include "storage/http/http-node.h"
#include "storage/http/s3-credentials.h"
#include "storage/http/s3-target.h"
#include "storage/storage.h"

struct s3_state {
    struct http_state http; /* first: it is what the operations see */
    struct s3_target target;
    struct s3_credentials credentials;
    char *scheme; /* of signing */
};

static const char *const s3_option_names[] = { "bucket",
                                               "key",
                                               "filename",
                                               "endpoint",
                                               "region",
                                               "version-id",
                                               "path-style",
                                               "key-id",
                                               "key-secret",
                                               "session-token-secret",
                                               "credentials-file",
                                               "profile",
                                               "anonymous",
                                               "readahead",
                                               "timeout",
                                               "proxy-username",
                                               "proxy-password-secret",
                                               "sslverify",
                                               "ca-secret",
                                               "tls-creds",
                                               "connections",
                                               "reconnect-delay",
                                               "open-timeout",
                                               "hang-timeout",
                                               "on-base-hang",
                                               "unpinned",
                                               NULL };
static const char *const s3_reference_options[] = {
    "bucket", "key", "endpoint", "region", "version-id", "path-style", NULL
};

static void s3_reference(const struct node *n, json_t *o)
{
    const struct s3_target *t = &((const struct s3_state *)n->state)->target;

    json_object_set_new(o, "bucket", json_string(t->bucket));
    json_object_set_new(o, "key", json_string(t->key));
    json_object_set_new(o, "region", json_string(t->region));
    if (t->has_endpoint) {
        json_object_set_new(o, "endpoint", json_string(t->endpoint));
    }
    if (t->version) {
        json_object_set_new(o, "version-id", json_string(t->version));
    }
    if (t->virtual_host) {
        json_object_set_new(o, "path-style", json_string("off"));
    }
}

static void s3_describe(struct node *n)
{
    const struct s3_state *s = n->state;

    g_free(n->filename);
    n->filename = s3_target_format(&s->target);
}

/* --- signing --- */

static bool lines_add(struct curl_slist **lines, const char *line)
{
    struct curl_slist *more = curl_slist_append(*lines, line);

    *lines = more ? more : *lines;
    return more != NULL;
}

static bool add_token(struct curl_slist **lines, GBytes *token)
{
    gsize len;
    const char *text = g_bytes_get_data(token, &len);
    char *line = g_strdup_printf("x-amz-security-token: %.*s", (int)len, text);
    bool ok = lines_add(lines, line);

    explicit_bzero(line, strlen(line));
    g_free(line);
    return ok;
}

static struct curl_slist *s3_sign(CURL *easy, struct curl_slist *lines,
                                  const void *arg)
{
    const struct s3_state *s = arg;
    bool ok = curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK;

    if (ok && s->credentials.key_id) {
        /* libcurl does not add the second, and servers refuse requests without
         * it. */
        ok = curl_easy_setopt(easy, CURLOPT_AWS_SIGV4, s->scheme) == CURLE_OK &&
             lines_add(&lines, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
    }
    if (ok && s->credentials.token) {
        ok = add_token(&lines, s->credentials.token);
    }
    if (!ok) {
        curl_slist_free_all(lines);
        return NULL;
    }
    return lines;
}

/* --- open and close --- */

static void s3_clear(struct s3_state *s)
{
    s3_target_clear(&s->target);
    s3_credentials_clear(&s->credentials);
    g_clear_pointer(&s->scheme, g_free);
}

static CO_FN void s3_co_close(struct node *n)
{
    http_node_co_close(n);
    s3_clear(n->state);
}

static CO_FN int s3_co_take_options(struct node *n, struct opts *o,
                                    struct s3_state *s, GError **err)
{
    struct http_state *h = &s->http;
    int r;

    http_names_init(&h->names);
    h->identity.sslverify = true;
    if ((r = s3_target_take(o, &s->target, err)) < 0 ||
        (r = s3_credentials_co_take(o, n->graph, &s->credentials, err)) < 0 ||
        (r = http_options_take_proxy(o, n->graph, &h->names, err)) < 0 ||
        (r = http_options_take_client(o, &h->client_opts, &h->readahead, err)) <
            0 ||
        (r = http_options_take_tls(o, n->graph, &h->names,
                                   &h->identity.sslverify, err)) < 0) {
        return r;
    }
    h->names.username = g_strdup(s->credentials.key_id);
    h->names.password = s->credentials.key ? g_bytes_ref(s->credentials.key)
                                           : NULL;
    h->client_opts.redirects = 0; /* a signature is for one server */
    h->client_opts.prepare = s3_sign;
    h->client_opts.prepare_arg = s;
    s->scheme = g_strdup_printf("aws:amz:%s:s3", s->target.region);
    return s3_target_url(&s->target, s->target.version, &h->url, err);
}

/* Ask for the version that the first answer has named. */
static int s3_pin_version(struct s3_state *s, GError **err)
{
    const char *version = http_client_version(s->http.client);
    struct http_url u = {};
    int r = 0;

    if (*version && strcmp(version, "null")) {
        r = s3_target_url(&s->target, version, &u, err);
    }
    if (u.text) {
        http_client_set_address(s->http.client, u.text);
    }
    http_url_clear(&u);
    return r;
}

static CO_FN int s3_co_open(struct node *n, struct opts *o, unsigned flags,
                            GError **err)
{
    int r = s3_co_take_options(n, o, n->state, err);

    if (r == 0) {
        s3_describe(n);
        r = http_node_co_open(n, flags, err);
    }
    if (r == 0) {
        r = s3_pin_version(n->state, err);
    }
    if (r < 0) {
        s3_co_close(n);
    }
    return r;
}

static CO_FN int s3_co_reopen(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    const struct s3_state *s = n->state;
    struct s3_state is = {};
    int r = http_node_refuse_writing(flags, err);

    if (r < 0 || ((flags ^ n->flags) & NODE_RDWR)) {
        return r; /* @o is empty */
    }
    r = s3_co_take_options(n, o, &is, err);
    if (r == 0 && strcmp(s->http.url.text, is.http.url.text)) {
        r = err_set(err, EINVAL, "Cannot change which object it is");
    }
    if (r == 0) {
        http_node_adopt(n, &is.http);
    }
    http_state_clear(&is.http);
    s3_clear(&is);
    return r;
}

static const char *const s3_name_prefixes[] = { "s3:", NULL };

const struct node_driver s3_driver = {
    HTTP_NODE_OPERATIONS,
    .name = "s3",
    .state_size = sizeof(struct s3_state),
    .option_names = s3_option_names,
    .reference_options = s3_reference_options,
    .reference = s3_reference,
    .name_prefixes = s3_name_prefixes,
    .co_open = s3_co_open,
    .co_close = s3_co_close,
    .co_reopen = s3_co_reopen,
    .describe = s3_describe,
};
