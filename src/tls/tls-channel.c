/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * GnuTLS reads from ->rx and writes to ->tx, both memory; the coroutines move
 * bytes between these and the channel below.
 *
 *   below --read--> rx --pull--> GnuTLS --> reader
 *   below <--write-- tx <--push-- GnuTLS <-- writer
 *
 * Records go to the channel below in the order in which GnuTLS made them:
 * ->tx_lock is held from before ->tx is taken until all of it is written.
 * The reader, too, may have to write: an answer to a change of keys.
 *
 * Memory is bounded: a record has 16 KiB, a batch of them TX_BATCH, GnuTLS limits
 * handshake messages, and nothing is read that nobody waits for.
 */
#include "tls/tls-channel.h"
#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include "base/err.h"
#include "loop/channel-int.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "tls/tls-creds-int.h"

#define RX_SIZE (64u << 10)
#define TX_BATCH (128u << 10)
#define RECORD (16u << 10)
/* Certificates of a chain; GnuTLS alone would take 128 KiB. */
#define HANDSHAKE_MESSAGE_MAX (64u << 10)
/* Warnings that mean nothing; more of them are a waste of our time. */
#define WARNINGS_MAX 8
/* Telling a peer why its handshake failed. */
#define ALERT_NS (200 * 1000 * 1000ull)

struct tls_channel {
    struct channel c;
    struct channel *under;
    struct tls_creds *creds;
    gnutls_session_t session;
    gnutls_typed_vdata_st expected[2]; /* of the peer's certificate */
    char *hostname;
    uint8_t *rx; /* bytes [rx_start, rx_end) are not pulled yet */
    size_t rx_start, rx_end;
    bool rx_ended;   /* below there are no more */
    GByteArray *tx;  /* pushed ... */
    GByteArray *out; /* ... and being written */
    struct co_mutex tx_lock;
    uint8_t *record; /* a record of parts that lie apart */
    unsigned warnings;
    bool ended;        /* the peer said that this was all */
    const char *alert; /* that the peer sent, or NULL */
    char *identity, *version;
};

static struct tls_channel *to_tls(const struct channel *c)
{
    return (struct tls_channel *)c;
}

/* --- between GnuTLS and memory --- */

static ssize_t tls_pull(gnutls_transport_ptr_t p, void *buf, size_t len)
{
    struct tls_channel *t = p;
    size_t n = MIN(len, t->rx_end - t->rx_start);

    if (n == 0 && !t->rx_ended) {
        gnutls_transport_set_errno(t->session, EAGAIN);
        return -1;
    }
    memcpy(buf, t->rx + t->rx_start, n);
    t->rx_start += n;
    return (ssize_t)n;
}

static ssize_t tls_push(gnutls_transport_ptr_t p, const giovec_t *v, int n)
{
    struct tls_channel *t = p;
    ssize_t len = 0;

    for (int i = 0; i < n; i++) {
        g_byte_array_append(t->tx, v[i].iov_base, (guint)v[i].iov_len);
        len += (ssize_t)v[i].iov_len;
    }
    return len;
}

/* --- between memory and the channel below --- */

static CO_FN int tls_co_fill(struct tls_channel *t, uint64_t timeout_ns)
{
    ssize_t n;

    g_assert(t->rx_start == t->rx_end);
    n = channel_co_read(t->under, t->rx, RX_SIZE, timeout_ns);
    if (n < 0) {
        return (int)n;
    }
    t->rx_start = 0;
    t->rx_end = (size_t)n;
    t->rx_ended = n == 0;
    return 0;
}

static CO_FN int tls_co_push_out(struct tls_channel *t, uint64_t timeout_ns)
{
    int r = 0;

    co_mutex_co_lock(&t->tx_lock);
    while (t->tx->len > 0 && r == 0) {
        GByteArray *full = t->tx;
        struct iovec v;

        t->tx = t->out;
        t->out = full;
        r = channel_co_write(t->under, iov_one(&v, full->data, full->len),
                             timeout_ns);
        g_byte_array_set_size(full, 0);
    }
    co_mutex_unlock(&t->tx_lock);
    return r;
}

/* --- reading and writing --- */

static int errno_of(ssize_t n)
{
    switch (n) {
    case GNUTLS_E_PREMATURE_TERMINATION: return -ECONNRESET;
    case GNUTLS_E_MEMORY_ERROR: return -ENOMEM;
    default: return -EPROTO;
    }
}

static void tls_note_alert(struct tls_channel *t)
{
    t->alert = gnutls_alert_get_name(gnutls_alert_get(t->session));
    t->alert = t->alert ? t->alert : "unknown alert";
}

/* Is what GnuTLS says no end? */
static bool tls_goes_on(struct tls_channel *t, ssize_t n)
{
    if (n == GNUTLS_E_WARNING_ALERT_RECEIVED) {
        return ++t->warnings <= WARNINGS_MAX;
    }
    return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
}

static CO_FN ssize_t tls_co_recv(struct channel *c, void *buf, size_t len,
                                 uint64_t timeout_ns)
{
    struct tls_channel *t = to_tls(c);

    while (!t->ended) {
        ssize_t n = gnutls_record_recv(t->session, buf, len);
        int r = t->tx->len > 0 ? tls_co_push_out(t, timeout_ns) : 0;

        if (n > 0) {
            return n;
        }
        if (n == 0) {
            t->ended = true;
        } else if (!tls_goes_on(t, n)) {
            if (n == GNUTLS_E_FATAL_ALERT_RECEIVED) {
                tls_note_alert(t);
            }
            return errno_of(n);
        } else if (r == 0 && t->rx_start == t->rx_end) {
            r = tls_co_fill(t, timeout_ns);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static CO_FN ssize_t tls_co_send(struct channel *c, struct iov iov,
                                 uint64_t timeout_ns)
{
    struct tls_channel *t = to_tls(c);
    size_t batch = MIN(iov.len, TX_BATCH), done = 0;
    int r;

    while (done < batch) {
        size_t len = MIN(batch - done, RECORD);
        struct iov part = iov_slice(iov, done, len);
        void *data = iov_contiguous(part);
        ssize_t n;

        if (!data) {
            data = t->record;
            iov_to_buf(part, 0, data, len);
        }
        n = gnutls_record_send(t->session, data, len);
        if (n <= 0) {
            return n < 0 ? errno_of(n) : -EPROTO;
        }
        done += (size_t)n;
    }
    r = tls_co_push_out(t, timeout_ns);
    if (r == 0 && done < iov.len) {
        /* Encrypting takes longer than a send: others come in between. */
        co_relax();
    }
    return r < 0 ? r : (ssize_t)done;
}

static CO_FN void tls_co_finish(struct channel *c, uint64_t timeout_ns)
{
    struct tls_channel *t = to_tls(c);

    if (t->version) {
        gnutls_bye(t->session, GNUTLS_SHUT_WR);
        tls_co_push_out(t, timeout_ns);
    }
}

static void tls_shutdown(struct channel *c)
{
    channel_shutdown(to_tls(c)->under);
}

static void tls_shutdown_write(struct channel *c)
{
    channel_shutdown_write(to_tls(c)->under);
}

static bool tls_peer_has_ended(const struct channel *c)
{
    return to_tls(c)->ended || channel_peer_has_ended(to_tls(c)->under);
}

static void tls_free(struct channel *c)
{
    struct tls_channel *t = to_tls(c);

    if (t->session) {
        gnutls_deinit(t->session);
    }
    channel_free(t->under);
    tls_creds_unref(t->creds);
    g_byte_array_free(t->tx, TRUE);
    g_byte_array_free(t->out, TRUE);
    io_buf_put(t->rx, RX_SIZE);
    io_buf_put(t->record, RECORD);
    g_free(t->hostname);
    g_free(t->identity);
    g_free(t->version);
    g_free(t);
}

static void tls_moved(struct channel *c)
{
    channel_move(to_tls(c)->under, c->loop);
}

static const struct channel_ops tls_ops = {
    .co_recv = tls_co_recv,
    .co_send = tls_co_send,
    .co_finish = tls_co_finish,
    .shutdown = tls_shutdown,
    .shutdown_write = tls_shutdown_write,
    .moved = tls_moved,
    .peer_has_ended = tls_peer_has_ended,
    .free = tls_free,
};

/* --- the session --- */

static int session_set_creds(gnutls_session_t s, const struct tls_creds *tc)
{
    switch (tc->kind) {
    case TLS_X509:
        return gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, tc->x509);
    case TLS_PSK:
        return gnutls_credentials_set(s, GNUTLS_CRD_PSK,
                                      tc->server ? (void *)tc->psk_server
                                                 : (void *)tc->psk_client);
    case TLS_ANON:
        return gnutls_credentials_set(s, GNUTLS_CRD_ANON,
                                      tc->server ? (void *)tc->anon_server
                                                 : (void *)tc->anon_client);
    }
    g_assert_not_reached();
}

/* A numeric address is no name that a server could choose a certificate by. */
static bool is_address(const char *host)
{
    struct in6_addr any;

    return inet_pton(AF_INET, host, &any) == 1 ||
           inet_pton(AF_INET6, host, &any) == 1;
}

/* The peer's certificate is verified inside of the handshake, so that it is told
 * when we do not believe it: the chain, the times, the purpose and the name. */
static int session_expect(struct tls_channel *t)
{
    const struct tls_creds *tc = t->creds;
    unsigned n = 0;

    if (tc->server) {
        gnutls_certificate_server_set_request(
            t->session,
            tc->verify_peer ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
    }
    if (!tc->verify_peer) {
        return 0;
    }
    t->expected[n++] = (gnutls_typed_vdata_st) {
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(tc->server ? GNUTLS_KP_TLS_WWW_CLIENT
                                             : GNUTLS_KP_TLS_WWW_SERVER),
    };
    if (!tc->server) {
        t->expected[n++] = (gnutls_typed_vdata_st) {
            .type = GNUTLS_DT_DNS_HOSTNAME,
            .data = (unsigned char *)t->hostname,
        };
    }
    gnutls_session_set_verify_cert2(t->session, t->expected, n, 0);
    return tc->server || is_address(t->hostname)
               ? 0
               : gnutls_server_name_set(t->session, GNUTLS_NAME_DNS,
                                        t->hostname, strlen(t->hostname));
}

static int session_open(struct tls_channel *t)
{
    const struct tls_creds *tc = t->creds;
    /* No tickets: nobody comes back often enough to resume a session. */
    unsigned flags = (tc->server ? GNUTLS_SERVER : GNUTLS_CLIENT) |
                     GNUTLS_NONBLOCK | GNUTLS_NO_TICKETS;
    int r = gnutls_init(&t->session, flags);

    if (r < 0) {
        t->session = NULL;
        return r;
    }
    gnutls_session_set_ptr(t->session, t->creds);
    gnutls_handshake_set_max_packet_length(t->session, HANDSHAKE_MESSAGE_MAX);
    gnutls_transport_set_ptr(t->session, t);
    gnutls_transport_set_pull_function(t->session, tls_pull);
    gnutls_transport_set_vec_push_function(t->session, tls_push);
    r = gnutls_priority_set(t->session, tc->priority);
    if (r >= 0) {
        r = session_set_creds(t->session, tc);
    }
    return r >= 0 && tc->kind == TLS_X509 ? session_expect(t) : r;
}

int tls_channel_new(struct channel *under, struct tls_creds *creds,
                    const char *hostname, struct channel **ret, GError **err)
{
    struct tls_channel *t = g_new0(struct tls_channel, 1);
    int r;

    g_assert(creds->server || creds->kind != TLS_X509 || !creds->verify_peer ||
             hostname);
    channel_init(&t->c, &tls_ops, under->loop,
                 g_strdup(channel_describe(under)));
    t->creds = tls_creds_ref(creds);
    t->hostname = g_strdup(hostname);
    t->rx = io_buf_get(RX_SIZE);
    t->record = io_buf_get(RECORD);
    t->tx = g_byte_array_new();
    t->out = g_byte_array_new();
    r = session_open(t);
    if (r < 0) {
        channel_free(&t->c);
        return err_set(err, ENOMEM, "Could not begin a TLS session: %s",
                       gnutls_strerror(r));
    }
    t->under = under;
    *ret = &t->c;
    return 0;
}

const char *tls_channel_identity(const struct channel *c)
{
    return to_tls(c)->identity;
}

const char *tls_channel_version(const struct channel *c)
{
    return to_tls(c)->version;
}

const char *tls_channel_alert(const struct channel *c)
{
    return to_tls(c)->alert;
}

/* --- the handshake --- */

static char *dn_of_peer(gnutls_session_t s)
{
    unsigned n = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(s, &n);
    gnutls_x509_crt_t cert;
    size_t size = 0;
    char *dn = NULL;

    if (n == 0 || gnutls_x509_crt_init(&cert) < 0) {
        return NULL;
    }
    if (gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER) >= 0 &&
        gnutls_x509_crt_get_dn(cert, NULL, &size) ==
            GNUTLS_E_SHORT_MEMORY_BUFFER) {
        dn = g_malloc0(size + 1);
        if (gnutls_x509_crt_get_dn(cert, dn, &size) < 0 || strlen(dn) != size) {
            g_clear_pointer(&dn, g_free);
        }
    }
    gnutls_x509_crt_deinit(cert);
    return dn;
}

static char *user_of_peer(gnutls_session_t s)
{
    gnutls_datum_t user;

    if (gnutls_psk_server_get_username2(s, &user) < 0 || user.size == 0 ||
        memchr(user.data, 0, user.size)) {
        return NULL;
    }
    return g_strndup((char *)user.data, user.size);
}

/* Only what the handshake has proven is an identity. */
static int session_identify(struct tls_channel *t)
{
    const struct tls_creds *tc = t->creds;
    gnutls_session_t s = t->session;

    t->version = g_strdup_printf(
        "%s %s", gnutls_protocol_get_name(gnutls_protocol_get_version(s)),
        gnutls_cipher_get_name(gnutls_cipher_get(s)));
    if (!tc->server || !tls_creds_name_clients(tc)) {
        return 0;
    }
    t->identity = tc->kind == TLS_PSK ? user_of_peer(s) : dn_of_peer(s);
    return t->identity ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

struct step {
    struct tls_channel *t;
    int r;
    bool failed;
};

/* On a thread of the pool; meanwhile nobody else touches the session. */
static void step_in_pool(void *arg)
{
    struct step *step = arg;
    struct tls_channel *t = step->t;

    step->r = gnutls_handshake(t->session);
    if (step->r == 0) {
        step->r = session_identify(t);
    }
    step->failed = step->r < 0 && !tls_goes_on(t, step->r);
    if (step->failed) {
        gnutls_alert_send_appropriate(t->session, step->r);
    }
}

static int handshake_error(struct tls_channel *t, int r, GError **err)
{
    gnutls_datum_t text = { 0 };

    if (r == GNUTLS_E_FATAL_ALERT_RECEIVED) {
        tls_note_alert(t);
        return err_set(err, EACCES,
                       "TLS handshake failed: the other end says: %s",
                       t->alert);
    }
    if (r == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        unsigned status = gnutls_session_get_verify_cert_status(t->session);

        gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509,
                                                     &text, 0);
        err_set(err, EACCES, "TLS handshake failed: %s",
                text.data ? (char *)text.data : gnutls_strerror(r));
        gnutls_free(text.data);
        if (t->hostname && (status & GNUTLS_CERT_UNEXPECTED_OWNER)) {
            err_hint(err,
                     "The certificate is not for '%s'; tls-hostname says "
                     "which name to expect.",
                     t->hostname);
        }
        return -EACCES;
    }
    return err_set(err, -errno_of(r), "TLS handshake failed: %s",
                   gnutls_strerror(r));
}

int tls_channel_co_handshake(struct channel *c, GError **err)
{
    struct tls_channel *t = to_tls(c);
    struct step step = { .t = t };
    int r = 0;

    do {
        if (t->rx_start == t->rx_end && step.r == GNUTLS_E_AGAIN) {
            r = tls_co_fill(t, 0);
        }
        if (r == 0) {
            co_in_pool(step_in_pool, &step);
            r = tls_co_push_out(t, step.failed ? ALERT_NS : 0);
        }
    } while (r == 0 && step.r < 0 && !step.failed);
    if (step.failed) {
        return handshake_error(t, step.r, err);
    }
    return r < 0 ? err_set_errno(err, -r, "TLS handshake failed") : 0;
}
