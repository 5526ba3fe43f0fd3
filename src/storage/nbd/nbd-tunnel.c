/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two coroutines carry bytes, one each way, until one end is gone; each then
 * ends the other's way.
 */
#include "storage/nbd/nbd-tunnel.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include "base/err.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "tls/tls-channel.h"
#include "tls/tls-creds.h"
#include "wire/nbd.h"

#define BUFFER (256u << 10)
#define GOODBYE_NS UINT64_C(200000000)
/* What a server says about a refusal. */
#define TEXT_MAX 4096u

struct nbd_tunnel {
    struct loop *loop;
    struct channel *server; /* plain at first, then TLS */
    struct channel *inner;  /* our end of the pair; NULL before it is open */
    uint32_t flags;         /* what we have told the server of the client */
    bool is_tls;
    struct co_latch ways;
    struct loop_timer timer;
    bool timed_out;
};

static void tunnel_expire(void *arg)
{
    struct nbd_tunnel *t = arg;

    t->timed_out = true;
    channel_shutdown(t->server);
}

struct nbd_tunnel *nbd_tunnel_new(struct channel *server)
{
    struct nbd_tunnel *t = g_new0(struct nbd_tunnel, 1);

    t->loop = loop_current();
    t->server = server;
    loop_timer_init(&t->timer, t->loop, tunnel_expire, t);
    return t;
}

const char *nbd_tunnel_alert(const struct nbd_tunnel *t)
{
    return t->is_tls ? tls_channel_alert(t->server) : NULL;
}

void nbd_tunnel_shutdown(struct nbd_tunnel *t)
{
    channel_shutdown(t->server);
}

/* --- STARTTLS --- */

static int tunnel_lost(int ret, GError **err)
{
    return err_set_errno(err, -ret, "The server did not begin TLS");
}

static CO_FN int tunnel_co_greet(struct nbd_tunnel *t,
                                 uint8_t greeting[NBD_GREETING_SIZE],
                                 GError **err)
{
    uint16_t offered;
    int ret = channel_co_read_full(t->server, greeting, NBD_GREETING_SIZE, 0);

    if (ret < 0) {
        return tunnel_lost(ret, err);
    }
    ret = nbd_decode_greeting(greeting, &offered);
    if (ret < 0 || !(offered & NBD_FLAG_FIXED_NEWSTYLE)) {
        return err_set(err, ENOTSUP,
                       "The server does not speak the protocol that TLS needs "
                       "(fixed newstyle)");
    }
    t->flags = NBD_FLAG_FIXED_NEWSTYLE | (offered & NBD_FLAG_NO_ZEROES);
    return 0;
}

static CO_FN int tunnel_co_refused(struct nbd_tunnel *t, uint32_t type,
                                   uint32_t len, GError **err)
{
    char text[TEXT_MAX + 1] = "";
    int ret = len <= TEXT_MAX && len > 0
                  ? channel_co_read_full(t->server, text, len, 0)
                  : 0;

    if (ret < 0) {
        return tunnel_lost(ret, err);
    }
    if (!(type & NBD_REP_ERROR(0))) {
        return err_set(err, EPROTO, "The server's answer to STARTTLS is wrong");
    }
    ret = err_set(err, EACCES, "Denied by server for option %d (starttls)%s%s",
                  NBD_OPT_STARTTLS, *text ? ", server reported: " : "",
                  g_utf8_validate(text, -1, NULL) ? text : "");
    err_hint(err,
             "The server has no TLS.  Without tls-creds it is used without "
             "protection.");
    return ret;
}

static CO_FN int tunnel_co_ask(struct nbd_tunnel *t, GError **err)
{
    uint8_t out[NBD_CLIENT_FLAGS_SIZE + NBD_OPT_SIZE];
    uint8_t in[NBD_OPT_REPLY_SIZE];
    uint32_t flags = GUINT32_TO_BE(t->flags), opt, type, len;
    struct iovec v;
    int ret;

    memcpy(out, &flags, sizeof(flags));
    nbd_encode_opt(out + sizeof(flags), NBD_OPT_STARTTLS, 0);
    ret = channel_co_write(t->server, iov_one(&v, out, sizeof(out)), 0);
    if (ret == 0) {
        ret = channel_co_read_full(t->server, in, sizeof(in), 0);
    }
    if (ret < 0) {
        return tunnel_lost(ret, err);
    }
    if (nbd_decode_opt_reply(in, &opt, &type, &len) < 0 ||
        opt != NBD_OPT_STARTTLS) {
        return err_set(err, EPROTO, "The server's answer to STARTTLS is wrong");
    }
    return type == NBD_REP_ACK && len == 0
               ? 0
               : tunnel_co_refused(t, type, len, err);
}

/* --- carrying --- */

static CO_FN int tunnel_co_carry(struct channel *from, struct channel *to,
                                 void *buf)
{
    for (;;) {
        struct iovec v;
        ssize_t n = channel_co_read(from, buf, BUFFER, 0);
        int ret;

        if (n <= 0) {
            return (int)n;
        }
        ret = channel_co_write(to, iov_one(&v, buf, (size_t)n), 0);
        if (ret < 0) {
            return ret;
        }
    }
}

/* libnbd begins with flags that the server has had from us already: they are
 * the same, or it would be led astray. */
static CO_FN bool up_co_swallow_flags(struct nbd_tunnel *t)
{
    uint8_t in[NBD_CLIENT_FLAGS_SIZE];

    return channel_co_read_full(t->inner, in, sizeof(in), 0) == 0 &&
           nbd_decode_client_flags(in) == t->flags;
}

static CO_FN void nbd_tunnel_up_entry(void *arg)
{
    struct nbd_tunnel *t = arg;
    void *buf = io_buf_get(BUFFER);

    if (up_co_swallow_flags(t) &&
        tunnel_co_carry(t->inner, t->server, buf) == 0) {
        channel_co_finish(t->server, GOODBYE_NS);
    }
    io_buf_put(buf, BUFFER);
    channel_shutdown(t->server);
    co_latch_done(&t->ways);
}

static CO_FN void nbd_tunnel_down_entry(void *arg)
{
    struct nbd_tunnel *t = arg;
    void *buf = io_buf_get(BUFFER);

    tunnel_co_carry(t->server, t->inner, buf);
    io_buf_put(buf, BUFFER);
    channel_shutdown(t->inner);
    co_latch_done(&t->ways);
}

static CO_FN int tunnel_co_start(struct nbd_tunnel *t,
                                 uint8_t greeting[NBD_GREETING_SIZE],
                                 int *ret_fd, GError **err)
{
    struct iovec v;
    int fds[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                   fds) < 0) {
        return err_set_errno(err, errno, "Could not make a pair of sockets");
    }
    t->inner = channel_new_fd(t->loop, fds[0]);
    *ret_fd = fds[1];
    ret = channel_co_write(t->inner, iov_one(&v, greeting, NBD_GREETING_SIZE),
                           0);
    g_assert(ret == 0); /* its buffer was empty */
    co_latch_add(&t->ways);
    co_latch_add(&t->ways);
    co_start(t->loop, nbd_tunnel_up_entry, t);
    co_start(t->loop, nbd_tunnel_down_entry, t);
    return 0;
}

static CO_FN int tunnel_co_begin_tls(struct nbd_tunnel *t,
                                     struct tls_creds *creds,
                                     const char *hostname, GError **err)
{
    struct tls_creds *latest = tls_creds_latest(creds);
    int ret = tls_channel_new(t->server, latest, hostname, &t->server, err);

    tls_creds_unref(latest);
    if (ret < 0) {
        return ret;
    }
    t->is_tls = true;
    return tls_channel_co_handshake(t->server, err);
}

int nbd_tunnel_co_open(struct nbd_tunnel *t, struct tls_creds *creds,
                       const char *hostname, uint64_t timeout_ns, int *ret_fd,
                       GError **err)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    int ret;

    loop_timer_arm(&t->timer, loop_clock_ns(t->loop) + timeout_ns);
    ret = tunnel_co_greet(t, greeting, err);
    if (ret == 0) {
        ret = tunnel_co_ask(t, err);
    }
    if (ret == 0) {
        ret = tunnel_co_begin_tls(t, creds, hostname, err);
    }
    loop_timer_cancel(&t->timer);
    if (ret < 0 && t->timed_out) {
        g_clear_error(err);
        return err_set(err, ETIMEDOUT,
                       "The server did not finish the handshake in time");
    }
    return ret < 0 ? ret : tunnel_co_start(t, greeting, ret_fd, err);
}

void nbd_tunnel_co_free(struct nbd_tunnel *t)
{
    if (!t) {
        return;
    }
    loop_timer_arm(&t->timer, loop_clock_ns(t->loop) + GOODBYE_NS);
    co_latch_co_wait(&t->ways);
    loop_timer_cancel(&t->timer);
    channel_free(t->inner);
    channel_free(t->server);
    g_free(t);
}
