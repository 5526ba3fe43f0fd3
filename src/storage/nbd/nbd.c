/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver "nbd": an export of an NBD server as a node.
 *
 * Large transfers are cut into pieces that run in parallel, over several
 * connections when the server allows it (nbd-client.h); block status is asked
 * for gigabytes ahead and kept (storage/extents.h), so that a base far away is
 * walked in a handful of round trips.
 *
 * A server that cannot flush is volatile: nothing can be promised about what
 * was written to it.  It is opened for writing only when the options say that
 * flushes do not matter (cache.no-flush=on).
 */
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "storage/nbd/nbd-client.h"
#include "storage/extents.h"
#include "storage/nbd/nbd-options.h"
#include "storage/storage.h"
#include "storage/trace.h"
#include "wire/nbd-uri.h"

/* One READ or WRITE; also the largest buffer that never fails. */
#define PIECE (1024u * 1024)
/* One TRIM or ZERO carries no payload, but some servers apply their limit. */
#define PIECE_EFFECT_MAX (UINT64_C(1) << 30)
#define PIECES_PARALLEL 16
/* Of a base:allocation entry. */
#define STATE_ZERO 2u
/* Lengths on the wire have 32 bits. */
#define STATUS_AHEAD_MAX ((UINT64_C(1) << 32) - 65536)

struct nbd_state {
    struct nbd_targets targets;
    struct nbd_tls tls;
    struct nbd_client_options client_opts;
    struct nbd_client *client;
    struct nbd_offer offer;
    struct extents extents;
    struct co_mutex status_lock; /* one question about the map at a time */
    bool no_flush, no_status;
};

/* --- open and close --- */

static const char *const nbd_reference_options[] = { "server", "path",   "host",
                                                     "port",   "export", NULL };

static void nbd_reference(const struct node *n, json_t *o)
{
    const struct nbd_target *t =
        &((const struct nbd_state *)n->state)->targets.list[0];

    json_object_set_new(
        o, "server",
        t->path ? json_pack("{s:s, s:s}", "type", "unix", "path", t->path)
                : json_pack("{s:s, s:s, s:s}", "type", "inet", "host", t->host,
                            "port", t->port));
    if (*t->export_name) {
        json_object_set_new(o, "export", json_string(t->export_name));
    }
}

static void nbd_describe(struct node *n)
{
    const struct nbd_state *s = n->state;
    g_free(n->filename);
    n->filename = nbd_uri_format(&s->targets.list[0]);
}

/* Can it be used as @flags ask? */
static int check_offer(const struct node *n, unsigned flags, GError **err)
{
    const struct nbd_state *s = n->state;
    if (!(flags & NODE_RDWR)) {
        return 0;
    }
    if (s->targets.n > 1) {
        /* A write to the one may still be under way when the other has taken
         * over, and nobody knows that they have the same bytes. */
        err_set(err, EACCES,
                "A node with 'fallback-servers' cannot be written to");
        err_hint(err, "Open it with read-only=on.");
        return -EACCES;
    }
    if (s->offer.read_only) {
        err_set(err, EACCES, "NBD export '%s' is read-only", n->filename);
        err_hint(err, "Open it with read-only=on.");
        return -EACCES;
    }
    if (!s->offer.flush && !s->no_flush) {
        err_set(err, ENOTSUP,
                "The server of '%s' cannot flush: what is "
                "written there may be lost",
                n->filename);
        err_hint(err, "Open it with read-only=on, or accept the loss with "
                      "cache.no-flush=on.");
        return -ENOTSUP;
    }
    return 0;
}

/* What nobody may change must not have changed. */
static void keep_content(const struct node *n, unsigned flags)
{
    const struct nbd_state *s = n->state;

    nbd_client_keep_content(s->client,
                            s->offer.read_only && !(flags & NODE_RDWR));
}

static CO_FN void nbd_co_close(struct node *n)
{
    struct nbd_state *s = n->state;
    nbd_client_co_close(s->client);
    s->client = NULL;
    extents_clear(&s->extents);
    nbd_targets_clear(&s->targets);
    nbd_tls_clear(&s->tls);
}

static void nbd_hang_event(bool hanging, unsigned requests, void *arg)
{
    struct node *n = arg;
    const struct nbd_state *s = n->state;
    json_t *data = json_pack("{s:s,s:b,s:s,s:I}", "node-name", n->name,
                             "hanging", hanging, "action",
                             s->client_opts.fail_on_hang ? "error" : "wait",
                             "requests", (json_int_t)requests);

    node_event(n, "BLOCK_NODE_HANG", data);
    json_decref(data);
}

static CO_FN int nbd_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct nbd_state *s = n->state;

    s->no_flush = flags & NODE_NO_FLUSH;
    extents_init(&s->extents);
    int ret = nbd_options_take(o, n->graph, &s->targets, &s->tls,
                               &s->client_opts, err);
    if (ret == 0) {
        nbd_describe(n);
        s->client_opts.hang_event = nbd_hang_event;
        s->client_opts.hang_arg = n;
        ret = nbd_client_co_open(s->targets.list, s->targets.n, &s->client_opts,
                                 &s->client, err);
    }
    if (ret == 0) {
        s->offer = *nbd_client_offer(s->client);
        n->size = s->offer.size;
        ret = check_offer(n, flags, err);
    }
    if (ret == 0) {
        keep_content(n, flags);
    }
    if (ret < 0) {
        nbd_co_close(n);
    }
    return ret;
}

static void nbd_set_hang(struct node *n, uint64_t timeout_ns, bool fail)
{
    struct nbd_state *s = n->state;

    s->client_opts.hang_timeout_ns = timeout_ns;
    s->client_opts.fail_on_hang = fail;
    nbd_client_set_hang(s->client, timeout_ns, fail);
}

static CO_FN int nbd_co_reopen(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    struct nbd_state *s = n->state;
    struct nbd_targets ts = {};
    struct nbd_tls tls = {};
    struct nbd_client_options co = {};

    if ((flags ^ n->flags) & NODE_RDWR) {
        return check_offer(n, flags, err); /* @o is empty */
    }
    int ret = nbd_options_take(o, n->graph, &ts, &tls, &co, err);
    if (ret == 0 && (g_strcmp0(s->tls.id, tls.id) ||
                     g_strcmp0(s->tls.hostname, tls.hostname))) {
        ret = err_set(err, EINVAL,
                      "Cannot change the options of TLS of a connection");
    }
    nbd_tls_clear(&tls);
    if (ret == 0) {
        g_autofree char *was = nbd_targets_format(&s->targets);
        g_autofree char *is = nbd_targets_format(&ts);
        if (!g_str_equal(was, is)) {
            ret = err_set(err, EINVAL, "Cannot change the option 'server'");
        }
    }
    nbd_targets_clear(&ts);
    ret = ret < 0 ? ret : check_offer(n, flags, err);
    if (ret == 0) {
        nbd_set_hang(n, co.hang_timeout_ns, co.fail_on_hang);
    }
    return ret;
}

static void nbd_limits(struct node *n, struct node_limits *l)
{
    const struct nbd_state *s = n->state;
    l->request_alignment = s->offer.min_block;
    l->fast_zero = s->offer.fast_zero;
}

/* --- transfers --- */

/* A transfer in pieces: workers take the next piece until all are taken. */
struct split {
    struct nbd_state *s;
    struct nbd_request request; /* of the whole */
    struct iov iov;
    uint64_t next, piece;
    int ret; /* the first error */
    struct co_latch workers;
};

/* One piece of a READ or WRITE, through a buffer when memory is scattered. */
static CO_FN int nbd_co_piece(struct split *sp, uint64_t at, uint64_t len)
{
    struct nbd_request r = sp->request;
    r.off += at;
    r.len = len;
    if (r.op != NBD_OP_READ && r.op != NBD_OP_WRITE) {
        return nbd_client_co_request(sp->s->client, &r);
    }
    struct iov part = iov_slice(sp->iov, at, len);
    r.buf = iov_contiguous(part);
    if (r.buf) {
        return nbd_client_co_request(sp->s->client, &r);
    }
    void *bounce = io_buf_get(len);
    r.buf = bounce;
    if (r.op == NBD_OP_WRITE) {
        iov_to_buf(part, 0, bounce, len);
    }
    int ret = nbd_client_co_request(sp->s->client, &r);
    if (ret == 0 && r.op == NBD_OP_READ) {
        iov_from_buf(part, 0, bounce, len);
    }
    io_buf_put(bounce, len);
    return ret;
}

static CO_FN void nbd_split_co_work(struct split *sp)
{
    while (sp->next < sp->request.len && sp->ret == 0) {
        uint64_t at = sp->next;
        uint64_t len = MIN(sp->piece, sp->request.len - at);
        sp->next += len;
        int ret = nbd_co_piece(sp, at, len);
        if (ret < 0 && sp->ret == 0) {
            sp->ret = ret;
        }
    }
}

static CO_FN void nbd_split_entry(void *arg)
{
    struct split *sp = arg;
    nbd_split_co_work(sp);
    co_latch_done(&sp->workers);
}

/* Do @request, which is any length, in pieces of at most @piece. */
static CO_FN int nbd_co_split(struct nbd_state *s, struct nbd_request request,
                              struct iov iov, uint64_t piece)
{
    struct split sp = {
        .s = s,
        .request = request,
        .iov = iov,
        .piece = piece,
    };
    uint64_t pieces = (request.len + piece - 1) / piece;
    unsigned helpers = (unsigned)MIN(pieces, PIECES_PARALLEL) - 1;

    for (unsigned i = 0; i < helpers; i++) {
        co_latch_add(&sp.workers);
        co_start(loop_current(), nbd_split_entry, &sp);
    }
    nbd_split_co_work(&sp);
    co_latch_co_wait(&sp.workers);
    return sp.ret;
}

static CO_FN int nbd_co_flush(struct node *n)
{
    struct nbd_state *s = n->state;
    if (s->no_flush || !s->offer.flush) {
        return 0;
    }
    struct nbd_request r = { .op = NBD_OP_FLUSH };
    return nbd_client_co_request(s->client, &r);
}

/* A server may obey FUA by a flush, and may have dropped what was written
 * before when that failed: G6. It does not say which part failed; lack of
 * space, of which a write has its own, and what it refuses are no flush. */
static void fua_result(struct node *n, int ret)
{
    if (ret < 0 && ret != -ENOSPC && ret != -EINVAL && ret != -EPERM &&
        ret != -ENOTSUP && ret != -ENOMEM && ret != -EOVERFLOW) {
        node_fail(n);
    }
}

/* A change of [off, off+len): FUA by flag where the server has it, else by a
 * flush behind. */
static CO_FN int nbd_co_change(struct node *n, struct nbd_request request,
                               struct iov iov, uint64_t piece,
                               unsigned io_flags)
{
    struct nbd_state *s = n->state;
    bool fua = (io_flags & IO_FUA) && !s->no_flush;

    if (fua && s->offer.fua) {
        request.flags |= NBD_REQUEST_FUA;
    }
    extents_wrote(&s->extents, request.off, request.len);
    int ret = nbd_co_split(s, request, iov, piece);
    extents_wrote(&s->extents, request.off, request.len);
    if (fua && s->offer.fua) {
        fua_result(n, ret);
    } else if (ret == 0 && fua) {
        ret = nbd_co_flush(n);
        fua_result(n, ret);
    }
    return ret;
}

static uint64_t payload_piece(const struct nbd_state *s)
{
    return MIN(s->offer.max_block / s->offer.min_block * s->offer.min_block,
               PIECE);
}

static uint64_t effect_piece(const struct nbd_state *s)
{
    return MIN(s->offer.max_block / s->offer.min_block * s->offer.min_block,
               PIECE_EFFECT_MAX);
}

static CO_FN int nbd_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    struct nbd_state *s = n->state;
    struct nbd_request r = {
        .op = NBD_OP_READ,
        .off = off,
        .len = iov.len,
        .flags = flags & IO_BACKGROUND ? NBD_REQUEST_BACKGROUND : 0,
    };
    return nbd_co_split(s, r, iov, payload_piece(s));
}

static CO_FN int nbd_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    struct nbd_state *s = n->state;
    struct nbd_request r = { .op = NBD_OP_WRITE, .off = off, .len = iov.len };
    return nbd_co_change(n, r, iov, payload_piece(s), flags);
}

static CO_FN int nbd_co_zero(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags)
{
    struct nbd_state *s = n->state;
    struct nbd_request r = { .op = NBD_OP_ZERO, .off = off, .len = len };

    if (!s->offer.zero || ((flags & IO_FAST) && !s->offer.fast_zero)) {
        return -ENOTSUP;
    }
    if (!(flags & IO_MAY_UNMAP)) {
        r.flags |= NBD_REQUEST_NO_HOLE;
    }
    if (flags & IO_FAST) {
        r.flags |= NBD_REQUEST_FAST_ZERO;
    }
    return nbd_co_change(n, r, (struct iov) {}, effect_piece(s), flags);
}

static CO_FN int nbd_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct nbd_state *s = n->state;
    struct nbd_request r = { .op = NBD_OP_TRIM, .off = off, .len = len };

    if (!s->offer.trim) {
        return 0;
    }
    return nbd_co_change(n, r, (struct iov) {}, effect_piece(s), 0);
}

static CO_FN int nbd_co_cache(struct node *n, uint64_t off, uint64_t len)
{
    struct nbd_state *s = n->state;
    struct nbd_request r = { .op = NBD_OP_CACHE, .off = off, .len = len };

    if (!s->offer.cache) {
        return 0;
    }
    return nbd_co_split(s, r, (struct iov) {}, effect_piece(s));
}

/* --- status --- */

/* Where the entries of a reply have been read up to. */
struct entries_walk {
    struct node *n;
    uint64_t at; /* so far it is known */
    uint64_t end;
    struct extents_run first;
};

static void entries_keep(struct entries_walk *w, uint64_t end, bool zero)
{
    struct nbd_state *s = w->n->state;

    if (end > w->at) {
        if (w->first.end == 0) {
            w->first = (struct extents_run) { w->at, end, zero };
        }
        extents_set(&s->extents, w->at, end, zero);
        w->at = end;
    }
}

/* An entry that ends at @end, or inside a block, which a server must not send:
 * such a block counts as data. */
static void entries_take(struct entries_walk *w, uint64_t end, bool zero)
{
    uint32_t block = ((struct nbd_state *)w->n->state)->offer.min_block;
    uint64_t whole = end == w->n->size ? end : round_down(end, block);

    entries_keep(w, whole, zero);
    if (whole < end && w->at < end) {
        entries_keep(w, MIN(w->at + block, w->end), false);
    }
}

/* Keep the runs of a reply that begins at @off; whatever the server says, no
 * run passes the end of what was asked. False: nothing usable. */
static bool nbd_keep_entries(struct node *n, uint64_t off, uint64_t len,
                             const GArray *entries,
                             struct extents_run *ret_first)
{
    struct nbd_state *s = n->state;
    struct entries_walk w = { .n = n, .at = off, .end = off + len };
    const struct extents_run *known;
    uint64_t pos = off;

    for (guint i = 0; i + 1 < entries->len && pos < w.end; i += 2) {
        uint64_t run = g_array_index(entries, uint32_t, i);
        bool zero = g_array_index(entries, uint32_t, i + 1) & STATE_ZERO;
        if (run == 0) {
            trace_nbd_bad_status(n->filename, pos, "extent of no length");
            break;
        }
        pos += MIN(run, w.end - pos);
        entries_take(&w, pos, zero);
    }
    /* Joined with what follows and says the same. */
    known = extents_find(&s->extents, off);
    *ret_first = known ? *known : w.first;
    return w.at > off;
}

/* Ask the server about @off and far beyond. */
static CO_FN int nbd_co_ask(struct node *n, uint64_t off,
                            struct extents_run *ret_run)
{
    struct nbd_state *s = n->state;
    uint64_t from = off / s->offer.min_block * s->offer.min_block;
    uint64_t len = MIN(n->size - from, STATUS_AHEAD_MAX);
    uint64_t generation = s->extents.generation;
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    struct nbd_request r = {
        .op = NBD_OP_STATUS,
        .off = from,
        .len = len,
        .entries = entries,
    };

    int ret = nbd_client_co_request(s->client, &r);
    if (ret < 0) {
        return ret;
    }
    if (!nbd_keep_entries(n, from, len, entries, ret_run)) {
        return -EPROTO;
    }
    if (generation != s->extents.generation) {
        /* Written to meanwhile: the reply may be older than the write. */
        extents_forget(&s->extents);
    }
    return 0;
}

/* The run that holds @off. It fails only when it has_given_up(). */
static CO_FN int nbd_co_find_run(struct node *n, uint64_t off, uint64_t len,
                                 struct extents_run *ret_run)
{
    struct nbd_state *s = n->state;
    struct extents_run unknown = { off, off + len, false }, run = unknown;
    const struct extents_run *known = extents_find(&s->extents, off);
    int ret = 0;

    if (known || s->no_status || !s->offer.status) {
        *ret_run = known ? *known : unknown;
        return 0;
    }
    co_mutex_co_lock(&s->status_lock);
    known = extents_find(&s->extents, off);
    if (known) {
        run = *known;
    } else {
        ret = nbd_co_ask(n, off, &run);
        /* A server that cannot answer is asked no more; "data" is always
         * right, and a lost connection shows itself at the read. */
        if (ret == -EINVAL || ret == -ENOTSUP || ret == -EPROTO) {
            s->no_status = true;
        }
        if (ret < 0 || off < run.start || off >= run.end) {
            run = unknown;
        }
    }
    co_mutex_unlock(&s->status_lock);
    *ret_run = run;
    return has_given_up(ret) ? ret : 0;
}

static CO_FN int nbd_co_map(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map)
{
    struct extents_run run;
    int ret = nbd_co_find_run(n, off, len, &run);

    if (ret < 0) {
        return ret;
    }
    ret_map->kind = run.zero ? MAP_ZERO : MAP_DATA;
    ret_map->len = MIN(run.end - off, len);
    return 0;
}

static CO_FN int nbd_co_check_identity(struct node *n, GError **err)
{
    const struct nbd_state *s = n->state;
    const char *why = nbd_client_failure(s->client);
    return why ? err_set(err, ESTALE, "'%s' cannot be used any more: %s",
                         n->filename, why)
               : 0;
}

static void nbd_interrupt(struct node *n)
{
    struct nbd_state *s = n->state;
    if (s->client) { /* NULL before it opens, and after it closed */
        nbd_client_interrupt(s->client);
    }
}

static void nbd_end_requests(struct node *n, int error)
{
    struct nbd_state *s = n->state;
    if (s->client) {
        nbd_client_end_requests(s->client, error);
    }
}

static void nbd_yank(struct node *n)
{
    struct nbd_state *s = n->state;
    if (s->client) {
        nbd_client_yank(s->client);
    }
}

static const char *const nbd_name_prefixes[] = { "nbd:", "nbd+",
                                                 "nbds:", "nbds+", NULL };

const struct node_driver nbd_driver = {
    .name = "nbd",
    .kind = NODE_PROTOCOL,
    .state_size = sizeof(struct nbd_state),
    .is_remote = true,
    .handles_fua = true,
    .option_names = nbd_option_names,
    .reference_options = nbd_reference_options,
    .reference = nbd_reference,
    .name_prefixes = nbd_name_prefixes,
    .co_open = nbd_co_open,
    .co_close = nbd_co_close,
    .co_reopen = nbd_co_reopen,
    .co_check_identity = nbd_co_check_identity,
    .describe = nbd_describe,
    .limits = nbd_limits,
    .co_preadv = nbd_co_preadv,
    .co_pwritev = nbd_co_pwritev,
    .co_zero = nbd_co_zero,
    .co_discard = nbd_co_discard,
    .co_flush = nbd_co_flush,
    .no_truncate = "Cannot grow NBD nodes",
    .co_map = nbd_co_map,
    .co_cache = nbd_co_cache,
    .interrupt = nbd_interrupt,
    .end_requests = nbd_end_requests,
    .yank = nbd_yank,
    .set_hang = nbd_set_hang,
};
