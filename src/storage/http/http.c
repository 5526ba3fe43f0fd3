/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The drivers "http" and "https": a file on a web server as a node. */
#include <string.h>

#include "base/err.h"
#include "graph/driver.h"
#include "storage/http/http-node.h"
#include "storage/storage.h"

static const char *const http_reference_options[] = { "url", NULL };

static void http_reference(const struct node *n, json_t *o)
{
    const struct http_state *s = n->state;

    json_object_set_new(o, "url", json_string(s->url.text));
}

static void http_describe(struct node *n)
{
    const struct http_state *s = n->state;

    g_free(n->filename);
    n->filename = g_strdup(s->url.text);
}

static int http_take_options(struct node *n, struct opts *o,
                             struct http_state *s, GError **err)
{
    const char *scheme = n->drv->name;
    int r;

    http_names_init(&s->names);
    s->identity.sslverify = true;
    if ((r = http_options_take_url(o, scheme, &s->url, err)) < 0 ||
        (r = http_options_take_names(o, n->graph, &s->names, err)) < 0 ||
        (r = http_options_take_client(o, &s->client_opts, &s->readahead, err)) <
            0) {
        return r;
    }
    if (s->url.tls) {
        r = http_options_take_tls(o, n->graph, &s->names,
                                  &s->identity.sslverify, err);
    }
    return r;
}

static CO_FN int http_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    int r = http_take_options(n, o, n->state, err);

    if (r == 0) {
        http_describe(n);
        r = http_node_co_open(n, flags, err);
    }
    if (r < 0) {
        http_node_co_close(n);
    }
    return r;
}

static CO_FN int http_co_reopen(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    const struct http_state *s = n->state;
    struct http_state is = {};
    int r = http_node_refuse_writing(flags, err);

    if (r < 0 || ((flags ^ n->flags) & NODE_RDWR)) {
        return r; /* @o is empty */
    }
    r = http_take_options(n, o, &is, err);
    if (r == 0 && strcmp(s->url.text, is.url.text)) {
        r = err_set(err, EINVAL, "Cannot change the option 'url'");
    }
    if (r == 0) {
        http_node_adopt(n, &is);
    }
    http_state_clear(&is);
    return r;
}

static const char *const http_name_prefixes[] = { "http:", NULL };
static const char *const https_name_prefixes[] = { "https:", NULL };

#define HTTP_DRIVER(scheme) \
    .name = #scheme, .state_size = sizeof(struct http_state), \
    .option_names = scheme##_option_names, \
    .reference_options = http_reference_options, .reference = http_reference, \
    .name_prefixes = scheme##_name_prefixes, .co_open = http_co_open, \
    .co_close = http_node_co_close, .co_reopen = http_co_reopen, \
    .describe = http_describe, HTTP_NODE_OPERATIONS

const struct node_driver http_driver = { HTTP_DRIVER(http) };
const struct node_driver https_driver = { HTTP_DRIVER(https) };
