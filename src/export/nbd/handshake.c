/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The handshake, fixed newstyle only.
 *
 * Bytes are read exactly as far as the protocol has announced them, never
 * ahead, and each option is answered as a whole: its handler, which does not
 * yield, collects the replies, and one write sends them.  The deadline of the
 * whole handshake is the connection's timer.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "export/trace.h"

#define SHOWN_NAME 80u

void nbd_opt_reply(struct nbd_conn *c, uint32_t opt, uint32_t type,
                   const void *data, size_t len)
{
    uint8_t head[NBD_OPT_REPLY_SIZE];

    nbd_encode_opt_reply(head, opt, type, (uint32_t)len);
    g_byte_array_append(c->out, head, sizeof(head));
    g_byte_array_append(c->out, data, (guint)len);
}

void nbd_opt_error(struct nbd_conn *c, uint32_t opt, uint32_t type,
                   const char *fmt, ...)
{
    char text[512];
    const char *end;
    va_list ap;

    va_start(ap, fmt);
    g_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    /* Where it was cut, no half character may stay. */
    g_utf8_validate(text, -1, &end);
    nbd_opt_reply(c, opt, type, text, (size_t)(end - text));
}

char *nbd_text_show(struct nbd_text t)
{
    char *s = g_strndup(t.s, MIN(t.len, SHOWN_NAME));
    const char *end;

    g_utf8_validate(s, -1, &end);
    s[end - s] = '\0';
    for (char *p = s; *p; p++) {
        if (g_ascii_iscntrl(*p)) {
            *p = '?';
        }
    }
    return s;
}

static CO_FN int handshake_co_send(struct nbd_conn *c)
{
    struct iovec v;
    struct iov iov = iov_one(&v, c->out->data, c->out->len);
    int ret = 0;

    if (c->out->len > 0) {
        ret = channel_co_write(c->ch, iov, 0);
    }
    g_byte_array_set_size(c->out, 0);
    return ret;
}

/* Greeting and client flags: only bits that were offered may come back. */
static CO_FN int handshake_co_greet(struct nbd_conn *c)
{
    uint8_t greeting[NBD_GREETING_SIZE], in[NBD_CLIENT_FLAGS_SIZE];
    unsigned offered = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
    uint32_t flags;
    int ret;

    nbd_encode_greeting(greeting, (uint16_t)offered);
    g_byte_array_append(c->out, greeting, sizeof(greeting));
    ret = handshake_co_send(c);
    if (ret < 0) {
        return ret;
    }
    ret = channel_co_read_full(c->ch, in, sizeof(in), 0);
    if (ret < 0) {
        return ret;
    }
    flags = nbd_decode_client_flags(in);
    if (flags & ~offered) {
        return -EBADMSG;
    }
    c->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return 0;
}

static CO_FN int handshake_co_skip(struct nbd_conn *c, uint32_t len)
{
    while (len > 0) {
        size_t n = MIN(len, NBD_RX_SIZE);
        int ret = channel_co_read_full(c->ch, c->rx, n, 0);
        if (ret < 0) {
            return ret;
        }
        len -= (uint32_t)n;
    }
    return 0;
}

/* Answer the option that has been read. */
static CO_FN int handshake_co_answer(struct nbd_conn *c,
                                     enum nbd_opt_result *ret_result)
{
    struct nbd_option o = { .opt = c->opt.opt,
                            .data = c->rx,
                            .len = c->opt.len };

    *ret_result = nbd_opt_handle(c, &o);
    return handshake_co_send(c);
}

/* Read one option and answer it, or find where it is answered. */
static CO_FN int handshake_co_option(struct nbd_conn *c,
                                     enum nbd_opt_result *ret_result)
{
    uint8_t in[NBD_OPT_SIZE];
    struct nbd_opt_header h;
    struct nbd_option o;
    int ret = channel_co_read_full(c->ch, in, sizeof(in), 0);

    if (ret < 0) {
        return ret;
    }
    ret = nbd_decode_opt(in, &h);
    if (ret < 0) {
        return ret;
    }
    trace_nbd_server_option(c, h.opt, h.len);
    if (c->options_remaining-- == 0 || h.len > NBD_MAX_OPTION_SKIP ||
        (!c->fixed && h.opt != NBD_OPT_EXPORT_NAME)) {
        return -EPROTO;
    }
    *ret_result = NBD_OPT_NEXT;
    if (h.len > NBD_MAX_OPTION_LEN && nbd_access_needs_tls(c)) {
        /* Nothing that is read in the clear is of use to anybody. */
        return -EPROTO;
    }
    if (h.len > NBD_MAX_OPTION_LEN) {
        ret = handshake_co_skip(c, h.len);
        nbd_opt_error(c, h.opt, NBD_REP_ERR_TOO_BIG,
                      "option data of %u bytes is too long, %u are allowed",
                      h.len, NBD_MAX_OPTION_LEN);
        return ret < 0 ? ret : handshake_co_send(c);
    }
    ret = h.len ? channel_co_read_full(c->ch, c->rx, h.len, 0) : 0;
    if (ret < 0) {
        return ret;
    }
    c->opt = h;
    o = (struct nbd_option) { .opt = h.opt, .data = c->rx, .len = h.len };
    c->moving = nbd_opt_find_other(c, &o);
    if (c->moving) {
        *ret_result = NBD_OPT_MOVE;
        return 0;
    }
    return handshake_co_answer(c, ret_result);
}

/* Nothing that was said in the clear counts: somebody in between may have said
 * it. */
static CO_FN int handshake_co_start_tls(struct nbd_conn *c)
{
    g_autoptr(GPtrArray) rules = nbd_export_rules(c->server);

    c->structured = false;
    nbd_meta_forget(c);
    return nbd_access_co_start_tls(c, rules);
}

/* The answer to STARTTLS is the last that is sent in the clear; what the client
 * sent behind that option is read as a part of the TLS handshake. */
static CO_FN int handshake_co_next(struct nbd_conn *c,
                                   enum nbd_opt_result *ret_result)
{
    int ret = handshake_co_option(c, ret_result);

    if (ret == 0 && *ret_result == NBD_OPT_TLS) {
        *ret_result = NBD_OPT_NEXT;
        ret = handshake_co_start_tls(c);
    }
    return ret;
}

/* All options behind one that ended with @ret and @result. */
static CO_FN int handshake_co_go_on(struct nbd_conn *c, int ret,
                                    enum nbd_opt_result result)
{
    while (ret == 0 && result == NBD_OPT_NEXT) {
        ret = handshake_co_next(c, &result);
    }
    if (ret < 0) {
        return ret;
    }
    return result == NBD_OPT_BEGIN  ? 0
           : result == NBD_OPT_MOVE ? NBD_MOVES
                                    : -ECONNABORTED;
}

int nbd_handshake_co_run(struct nbd_conn *c)
{
    return handshake_co_go_on(c, handshake_co_greet(c), NBD_OPT_NEXT);
}

int nbd_handshake_co_resume(struct nbd_conn *c)
{
    enum nbd_opt_result result;
    int ret = handshake_co_answer(c, &result);

    return handshake_co_go_on(c, ret, result);
}
