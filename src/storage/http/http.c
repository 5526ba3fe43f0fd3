/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers "http" and "https": a file on a web server as a node, for
 * reading.
 *
 * Large reads are cut into pieces that run in parallel.  HTTP does not tell
 * what of a file is a hole: all of it is data.
 */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-ahead.h"
#include "storage/http/http-client.h"
#include "storage/http/http-options.h"
#include "storage/storage.h"
#include "storage/trace.h"

#define PIECE (2u * 1024 * 1024)
#define PIECES_PARALLEL 16

struct http_state {
    struct http_url url;
    struct http_names names;
    struct http_identity identity;
    struct http_client_options client_opts;
    struct http_client *client;
    struct http_ahead *ahead;
    uint64_t readahead;
};

/* --- open and close --- */

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

static void http_hang_event(bool hanging, unsigned requests, void *arg)
{
    struct node *n = arg;
    const struct http_state *s = n->state;
    g_autofree char *shown = http_url_public(s->url.text);
    json_t *data = json_pack("{s:s,s:b,s:s,s:I}", "node-name", n->name,
                             "hanging", hanging, "action",
                             s->client_opts.fail_on_hang ? "error" : "wait",
                             "requests", (json_int_t)requests);

    trace_http_hang(shown, hanging, requests);
    node_event(n, "BLOCK_NODE_HANG", data);
    json_decref(data);
}

static CO_FN void http_co_close(struct node *n)
{
    struct http_state *s = n->state;

    if (s->client) { /* what is read ahead */
        http_client_end_reads(s->client, -ECANCELED, false);
    }
    http_ahead_co_free(s->ahead);
    s->ahead = NULL;
    http_client_co_close(s->client);
    s->client = NULL;
    http_names_clear(&s->names);
    http_url_clear(&s->url);
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
    http_names_lend(&s->names, &s->identity);
    return r;
}

static int refuse_writing(unsigned flags, GError **err)
{
    return flags & NODE_RDWR
               ? err_set(err, EACCES, "curl driver does not support writes")
               : 0;
}

static CO_FN int http_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    struct http_state *s = n->state;
    int r = http_take_options(n, o, s, err);

    if (r == 0) {
        r = refuse_writing(flags, err);
    }
    if (r == 0) {
        http_describe(n);
        s->client_opts.hang_event = http_hang_event;
        s->client_opts.hang_arg = n;
        r = http_client_co_open(&s->url, &s->identity, &s->client_opts,
                                &s->client, err);
        if (r < 0) {
            g_autofree char *shown = http_url_public(s->url.text);

            err_prefix(err, "Could not open '%s'", shown);
        }
    }
    if (r < 0) {
        http_co_close(n);
        return r;
    }
    s->ahead = http_ahead_new(s->client, s->readahead);
    n->size = http_client_pin(s->client)->size;
    return 0;
}

static CO_FN int http_co_reopen(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    struct http_state *s = n->state, is = {};
    int r = refuse_writing(flags, err);

    if (r < 0 || ((flags ^ n->flags) & NODE_RDWR)) {
        return r; /* @o is empty */
    }
    r = http_take_options(n, o, &is, err);
    if (r == 0 && strcmp(s->url.text, is.url.text)) {
        r = err_set(err, EINVAL, "Cannot change the option 'url'");
    }
    if (r == 0) {
        s->client_opts.fail_on_hang = is.client_opts.fail_on_hang;
        http_client_set_hang(s->client, is.client_opts.hang_timeout_ns,
                             is.client_opts.fail_on_hang);
    }
    http_names_clear(&is.names);
    http_url_clear(&is.url);
    return r;
}

/* --- reading --- */

/* A read in pieces: workers take the next piece until all are taken. */
struct split {
    struct http_ahead *ahead;
    uint64_t off, next;
    struct iov iov;
    bool background;
    int ret; /* the first error */
    struct co_latch workers;
};

static CO_FN void http_split_co_work(struct split *sp)
{
    while (sp->next < sp->iov.len && sp->ret == 0) {
        uint64_t at = sp->next, len = MIN(PIECE, sp->iov.len - at);

        sp->next += len;
        int r = http_ahead_co_read(sp->ahead, sp->off + at,
                                   iov_slice(sp->iov, at, len), sp->background);
        if (r < 0 && sp->ret == 0) {
            sp->ret = r;
        }
    }
}

static CO_FN void http_split_entry(void *arg)
{
    struct split *sp = arg;

    http_split_co_work(sp);
    co_latch_done(&sp->workers);
}

static CO_FN int http_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    const struct http_state *s = n->state;
    struct split sp = {
        .ahead = s->ahead,
        .off = off,
        .iov = iov,
        .background = flags & IO_BACKGROUND,
    };
    uint64_t pieces = (iov.len + PIECE - 1) / PIECE;
    unsigned helpers = (unsigned)MIN(pieces, PIECES_PARALLEL) - 1;

    for (unsigned i = 0; i < helpers; i++) {
        co_latch_add(&sp.workers);
        co_start(loop_current(), http_split_entry, &sp);
    }
    http_split_co_work(&sp);
    co_latch_co_wait(&sp.workers);
    return sp.ret;
}

/* --- the server --- */

static CO_FN int http_co_check_identity(struct node *n, GError **err)
{
    const struct http_state *s = n->state;
    const char *why = http_client_failure(s->client);
    g_autofree char *shown = http_url_public(s->url.text);

    return why ? err_set(err, ESTALE, "'%s' cannot be used any more: %s", shown,
                         why)
               : 0;
}

static void http_interrupt(struct node *n)
{
    struct http_state *s = n->state;

    if (s->client) { /* NULL before it opens, and after it closed */
        http_client_end_reads(s->client, -EIO, true);
    }
}

static void http_end_requests(struct node *n, int error)
{
    struct http_state *s = n->state;

    if (s->client) {
        http_client_end_reads(s->client, error, false);
    }
}

static void http_yank(struct node *n)
{
    http_end_requests(n, -ECONNABORTED);
}

static void http_set_hang(struct node *n, uint64_t timeout_ns, bool fail)
{
    struct http_state *s = n->state;

    s->client_opts.hang_timeout_ns = timeout_ns;
    s->client_opts.fail_on_hang = fail;
    http_client_set_hang(s->client, timeout_ns, fail);
}

static const char *const http_name_prefixes[] = { "http:", NULL };
static const char *const https_name_prefixes[] = { "https:", NULL };

#define HTTP_DRIVER(scheme) \
    .name = #scheme, .kind = NODE_PROTOCOL, \
    .state_size = sizeof(struct http_state), \
    .option_names = scheme##_option_names, \
    .reference_options = http_reference_options, .reference = http_reference, \
    .name_prefixes = scheme##_name_prefixes, .co_open = http_co_open, \
    .co_close = http_co_close, .co_reopen = http_co_reopen, \
    .co_check_identity = http_co_check_identity, .describe = http_describe, \
    .co_preadv = http_co_preadv, .interrupt = http_interrupt, \
    .end_requests = http_end_requests, .yank = http_yank, \
    .set_hang = http_set_hang

const struct node_driver http_driver = { HTTP_DRIVER(http) };
const struct node_driver https_driver = { HTTP_DRIVER(https) };
