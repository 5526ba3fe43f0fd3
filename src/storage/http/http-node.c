/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-node.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-ahead.h"
#include "storage/trace.h"

#define PIECE (2u * 1024 * 1024)
#define PIECES_PARALLEL 16

/* --- open and close --- */

static void http_hang_event(bool hanging, unsigned requests, void *arg)
{
    struct node *n = arg;
    const struct http_state *s = n->state;
    g_autofree char *shown = http_url_public(n->filename);
    json_t *data = json_pack("{s:s,s:b,s:s,s:I}", "node-name", n->name,
                             "hanging", hanging, "action",
                             s->client_opts.fail_on_hang ? "error" : "wait",
                             "requests", (json_int_t)requests);

    trace_http_hang(shown, hanging, requests);
    node_event(n, "BLOCK_NODE_HANG", data);
    json_decref(data);
}

void http_state_clear(struct http_state *s)
{
    http_names_clear(&s->names);
    http_url_clear(&s->url);
}

void http_node_co_close(struct node *n)
{
    struct http_state *s = n->state;

    if (s->client) { /* what is read ahead */
        http_client_end_reads(s->client, -ECANCELED, false);
    }
    http_ahead_co_free(s->ahead);
    s->ahead = NULL;
    http_client_co_close(s->client);
    s->client = NULL;
    http_state_clear(s);
}

int http_node_refuse_writing(unsigned flags, GError **err)
{
    return flags & NODE_RDWR
               ? err_set(err, EACCES, "curl driver does not support writes")
               : 0;
}

int http_node_co_open(struct node *n, unsigned flags, GError **err)
{
    struct http_state *s = n->state;
    int r = http_node_refuse_writing(flags, err);

    if (r < 0) {
        return r;
    }
    http_names_lend(&s->names, &s->identity);
    s->client_opts.hang_event = http_hang_event;
    s->client_opts.hang_arg = n;
    r = http_client_co_open(&s->url, &s->identity, &s->client_opts, &s->client,
                            err);
    if (r < 0) {
        g_autofree char *shown = http_url_public(n->filename);

        err_prefix(err, "Could not open '%s'", shown);
        return r;
    }
    s->ahead = http_ahead_new(s->client, s->readahead);
    n->size = http_client_pin(s->client)->size;
    return 0;
}

void http_node_adopt(struct node *n, const struct http_state *is)
{
    struct http_state *s = n->state;

    s->client_opts.fail_on_hang = is->client_opts.fail_on_hang;
    http_client_set_hang(s->client, is->client_opts.hang_timeout_ns,
                         is->client_opts.fail_on_hang);
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

int http_node_co_preadv(struct node *n, uint64_t off, struct iov iov,
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

char *http_node_version(struct node *n)
{
    const struct http_state *s = n->state;
    const struct http_pin *pin = http_client_pin(s->client);
    const char *tag = http_tag_is_strong(pin->etag) ? pin->etag : "";

    /* An address names an object of S3 in full, too. */
    return *tag || *pin->modified ? g_strdup_printf("%s size %" G_GUINT64_FORMAT
                                                    " tag %s modified %s",
                                                    s->url.text, pin->size, tag,
                                                    *tag ? "" : pin->modified)
                                  : NULL;
}

int http_node_co_check_identity(struct node *n, GError **err)
{
    const struct http_state *s = n->state;
    const char *why = http_client_failure(s->client);
    g_autofree char *shown = http_url_public(n->filename);

    return why ? err_set(err, ESTALE, "'%s' cannot be used any more: %s", shown,
                         why)
               : 0;
}

void http_node_interrupt(struct node *n)
{
    struct http_state *s = n->state;

    if (s->client) { /* NULL before it opens, and after it closed */
        http_client_end_reads(s->client, -EIO, true);
    }
}

void http_node_end_requests(struct node *n, int error)
{
    struct http_state *s = n->state;

    if (s->client) {
        http_client_end_reads(s->client, error, false);
    }
}

void http_node_yank(struct node *n)
{
    http_node_end_requests(n, -ECONNABORTED);
}

void http_node_set_hang(struct node *n, uint64_t timeout_ns, bool fail)
{
    struct http_state *s = n->state;

    s->client_opts.hang_timeout_ns = timeout_ns;
    s->client_opts.fail_on_hang = fail;
    http_client_set_hang(s->client, timeout_ns, fail);
}
