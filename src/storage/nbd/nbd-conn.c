/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See nbd-conn.h.  A handle that libnbd has declared dead or closed has failed
 * all its requests with ENOTCONN, which no server can send: that is how the
 * loss of the connection is told from an error of the server.
 */
#include "storage/nbd/nbd-conn.h"

#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/nbd/nbd-cover.h"
#include "storage/nbd/nbd-tunnel.h"
#include "wire/nbd-uri.h"

/* A server that has more to say about one status request is not believed. */
#define ENTRIES_MAX (2u * 1024 * 1024)

#define KEEPALIVE_IDLE_S 30
#define KEEPALIVE_COUNT 4

struct nbd_conn {
    const struct nbd_target *target;
    struct tls_creds *creds; /* or NULL */
    const char *hostname;
    struct nbd_handle *h;
    struct nbd_tunnel *tunnel; /* with @creds */
    struct channel *channel; /* the socket that libnbd has; NULL before that */
    GPtrArray *flights;      /* requests without a reply */
    bool shut;
    struct co_queue writer_queue; /* the writer, when it has nothing to do */
    struct co_queue reader_queue; /* the driver, while libnbd only writes */
    struct co_latch writer;       /* 1 while the writer lives */
    char *why;
};

const char *nbd_op_name(enum nbd_op op)
{
    static const char *const names[] = {
        [NBD_OP_READ] = "read",     [NBD_OP_WRITE] = "write",
        [NBD_OP_FLUSH] = "flush",   [NBD_OP_TRIM] = "trim",
        [NBD_OP_ZERO] = "zero",     [NBD_OP_CACHE] = "cache",
        [NBD_OP_STATUS] = "status",
    };
    return names[op];
}

struct nbd_conn *nbd_conn_new(const struct nbd_target *t,
                              struct tls_creds *creds, const char *hostname)
{
    struct nbd_conn *c = g_new0(struct nbd_conn, 1);
    c->target = t;
    c->creds = creds;
    c->hostname = hostname;
    c->flights = g_ptr_array_new();
    return c;
}

unsigned nbd_conn_in_flight(const struct nbd_conn *c)
{
    return c->flights->len;
}

static bool conn_is_alive(const struct nbd_conn *c)
{
    return nbd_aio_is_ready(c->h) == 1 || nbd_aio_is_processing(c->h) == 1;
}

bool nbd_conn_is_usable(const struct nbd_conn *c)
{
    return !c->shut && conn_is_alive(c);
}

static unsigned conn_direction(const struct nbd_conn *c)
{
    return nbd_aio_get_direction(c->h);
}

/* What libnbd said last, without the name of the call. */
static const char *nbd_error_text(void)
{
    const char *text = nbd_get_error();
    const char *colon;
    if (!text) {
        return "unknown error";
    }
    while (g_str_has_prefix(text, "nbd_") && (colon = strstr(text, ": "))) {
        text = colon + 2;
    }
    return text;
}

static int set_nbd_error(GError **err, int fallback)
{
    int errnum = nbd_get_errno();
    return err_set(err, errnum > 0 ? errnum : fallback, "%s", nbd_error_text());
}

/* --- connecting --- */

static int conn_setup_handle(struct nbd_conn *c, GError **err)
{
    c->h = nbd_create();
    if (!c->h) {
        return set_nbd_error(err, ENOMEM);
    }
    /* Not from LIBNBD_DEBUG: it would print every packet. */
    nbd_set_debug(c->h, false);
    if (nbd_set_tls(c->h, LIBNBD_TLS_DISABLE) < 0 ||
        nbd_set_export_name(c->h, c->target->export_name) < 0 ||
        nbd_set_full_info(c->h, true) < 0 ||
        nbd_add_meta_context(c->h, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0) {
        return set_nbd_error(err, EINVAL);
    }
    return 0;
}

/* A peer that vanished without a word is noticed in two minutes or so. */
static void set_keepalive(int fd)
{
    int on = 1, idle = KEEPALIVE_IDLE_S, count = KEEPALIVE_COUNT;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

/* Put TLS between libnbd and the socket to the server. */
static CO_FN int conn_co_open_tunnel(struct nbd_conn *c, uint64_t timeout_ns,
                                     GError **err)
{
    struct channel *server = c->channel;
    int fd, ret;

    c->channel = NULL;
    c->tunnel = nbd_tunnel_new(server);
    ret = nbd_tunnel_co_open(c->tunnel, c->creds, c->hostname, timeout_ns, &fd,
                             err);
    if (ret == 0) {
        c->channel = channel_new_fd(loop_current(), fd);
    }
    return ret;
}

static CO_FN int conn_co_open_socket(struct nbd_conn *c, uint64_t timeout_ns,
                                     GError **err)
{
    struct sock_addr addr = {
        .path = c->target->path,
        .host = c->target->host,
        .port = c->target->port,
    };
    int ret = channel_co_connect(&addr, &c->channel, err);
    if (ret < 0) {
        return ret;
    }
    if (!c->target->path) {
        set_keepalive(channel_fd(c->channel));
    }
    if (c->creds) {
        ret = c->shut ? err_set(err, ESHUTDOWN, "The connection was shut down")
                      : conn_co_open_tunnel(c, timeout_ns, err);
        if (ret < 0) {
            return ret;
        }
    }
    int fd = fcntl(channel_fd(c->channel), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return err_set_errno(err, errno, "Could not duplicate the socket");
    }
    /* Takes @fd, whatever it returns. */
    return nbd_aio_connect_socket(c->h, fd) < 0 ? set_nbd_error(err, EIO) : 0;
}

/* Drive the handle once: wait for what it wants, let it go on. */
static CO_FN int conn_co_step(struct nbd_conn *c, uint64_t timeout_ns,
                              GError **err)
{
    unsigned dir = conn_direction(c);
    short events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                   (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
    int got = channel_co_poll_fd(channel_fd(c->channel), events, timeout_ns);
    if (got == -ETIMEDOUT) {
        return err_set(err, ETIMEDOUT,
                       "The server did not finish the "
                       "handshake in time");
    }
    if (got < 0) {
        return err_set_errno(err, -got, "Waiting for the server failed");
    }
    if (c->shut) {
        return err_set(err, ESHUTDOWN, "The connection was shut down");
    }
    int ret = 0;
    dir = conn_direction(c);
    if ((dir & LIBNBD_AIO_DIRECTION_READ) && (got & ~POLLOUT)) {
        ret = nbd_aio_notify_read(c->h);
    } else if ((dir & LIBNBD_AIO_DIRECTION_WRITE) && (got & ~POLLIN)) {
        ret = nbd_aio_notify_write(c->h);
    }
    return ret < 0 ? set_nbd_error(err, EIO) : 0;
}

static CO_FN int conn_co_handshake(struct nbd_conn *c, uint64_t timeout_ns,
                                   GError **err)
{
    struct loop *l = loop_current();
    uint64_t deadline = loop_clock_ns(l) + timeout_ns;

    while (nbd_aio_is_ready(c->h) != 1) {
        if (nbd_aio_is_dead(c->h) == 1 || nbd_aio_is_closed(c->h) == 1) {
            return err_set(err, ECONNRESET,
                           "The server closed the connection "
                           "during the handshake");
        }
        uint64_t now = loop_clock_ns(l);
        int ret = conn_co_step(c, now < deadline ? deadline - now : 1, err);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static bool is_block_size(int64_t size)
{
    return size > 0 && size <= 65536 && !(size & (size - 1));
}

/* @text is libnbd's and NULL where the server said nothing. */
static void take_sum(char *text, char sum[NBD_SUM_LEN + 1])
{
    g_autofree char *hex = text ? g_compute_checksum_for_string(
                                      G_CHECKSUM_SHA256, text, -1)
                                : NULL;

    g_strlcpy(sum, hex ? hex : "", NBD_SUM_LEN + 1);
    free(text);
}

static int conn_read_offer(struct nbd_conn *c, struct nbd_offer *offer,
                           GError **err)
{
    struct nbd_handle *h = c->h;
    int64_t size = nbd_get_size(h);
    if (size < 0) {
        return err_set(err, EFBIG,
                       "The server's size of the export is not "
                       "below 2^63 bytes");
    }
    int64_t min = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t max = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);
    *offer = (struct nbd_offer) {
        .size = (uint64_t)size,
        .min_block = is_block_size(min) ? (uint32_t)min : 1,
        .max_block = max > 0 ? (uint32_t)CLAMP(max, 65536, 32 << 20)
                             : 32u << 20,
        .read_only = nbd_is_read_only(h) == 1,
        .multi_conn = nbd_can_multi_conn(h) == 1,
        .flush = nbd_can_flush(h) == 1,
        .fua = nbd_can_fua(h) == 1,
        .trim = nbd_can_trim(h) == 1,
        .zero = nbd_can_zero(h) == 1,
        .fast_zero = nbd_can_fast_zero(h) == 1,
        .cache = nbd_can_cache(h) == 1,
        .status = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1,
    };
    take_sum(nbd_get_canonical_export_name(h), offer->name_sum);
    take_sum(nbd_get_export_description(h), offer->description_sum);
    return 0;
}

/* A server that does not believe us says so by an alert, after TLS is complete
 * for us; libnbd sees the end of the stream. */
static void conn_explain_refusal(const struct nbd_conn *c, GError **err)
{
    const char *alert = c->tunnel ? nbd_tunnel_alert(c->tunnel) : NULL;

    if (alert && err) {
        g_clear_error(err);
        err_set(err, EACCES, "The server has ended TLS: %s", alert);
        err_hint(err, "It may want another certificate of us; those of "
                      "tls-creds are in its folder.");
    }
}

int nbd_conn_co_connect(struct nbd_conn *c, uint64_t timeout_ns,
                        struct nbd_offer *ret_offer, GError **err)
{
    int ret = conn_setup_handle(c, err);
    if (ret == 0) {
        ret = conn_co_open_socket(c, timeout_ns, err);
    }
    if (ret == 0 && c->shut) {
        ret = err_set(err, ESHUTDOWN, "The connection was shut down");
    }
    if (ret == 0) {
        ret = conn_co_handshake(c, timeout_ns, err);
        if (ret < 0) {
            conn_explain_refusal(c, err);
        }
    }
    if (ret == 0) {
        ret = conn_read_offer(c, ret_offer, err);
    }
    if (ret < 0 && c->channel) { /* else the address is named already */
        g_autofree char *name = nbd_uri_format(c->target);

        err_prefix(err, "Could not open '%s'", name);
    }
    return ret;
}

/* --- driving --- */

/* The handle died, or is to: let nobody sleep on the socket. */
static void conn_wake_all(struct nbd_conn *c)
{
    if (c->channel) {
        channel_shutdown(c->channel);
    } else if (c->tunnel) {
        nbd_tunnel_shutdown(c->tunnel);
    }
    co_queue_wake_all(&c->writer_queue);
    co_queue_wake_all(&c->reader_queue);
}

static void conn_note_error(struct nbd_conn *c)
{
    if (!c->why) {
        c->why = g_strdup(nbd_error_text());
    }
}

/* Something may have changed what libnbd waits for. */
static void conn_update(struct nbd_conn *c)
{
    if (!conn_is_alive(c)) {
        conn_wake_all(c);
        return;
    }
    unsigned dir = conn_direction(c);
    if (dir & LIBNBD_AIO_DIRECTION_WRITE) {
        co_queue_wake_all(&c->writer_queue);
    }
    if (dir & LIBNBD_AIO_DIRECTION_READ) {
        co_queue_wake_all(&c->reader_queue);
    }
}

static CO_FN void conn_writer_entry(void *arg)
{
    struct nbd_conn *c = arg;

    while (!c->shut && conn_is_alive(c)) {
        if (!(conn_direction(c) & LIBNBD_AIO_DIRECTION_WRITE)) {
            co_queue_co_wait(&c->writer_queue);
            continue;
        }
        int got = channel_co_poll_fd(channel_fd(c->channel), POLLOUT, 0);
        if (got < 0 && got != -EINTR) {
            conn_wake_all(c);
            break;
        }
        if (!c->shut && conn_is_alive(c) && got > 0 &&
            (conn_direction(c) & LIBNBD_AIO_DIRECTION_WRITE)) {
            if (nbd_aio_notify_write(c->h) < 0) {
                conn_note_error(c);
            }
            conn_update(c);
        }
    }
    co_latch_done(&c->writer);
}

const char *nbd_conn_co_drive(struct nbd_conn *c)
{
    co_latch_add(&c->writer);
    co_start(loop_current(), conn_writer_entry, c);

    while (!c->shut && conn_is_alive(c)) {
        if (!(conn_direction(c) & LIBNBD_AIO_DIRECTION_READ)) {
            co_queue_co_wait(&c->reader_queue);
            continue;
        }
        int got = channel_co_poll_fd(channel_fd(c->channel), POLLIN, 0);
        if (got < 0 && got != -EINTR) {
            break;
        }
        if (!c->shut && conn_is_alive(c) && got > 0 &&
            (conn_direction(c) & LIBNBD_AIO_DIRECTION_READ)) {
            if (nbd_aio_notify_read(c->h) < 0) {
                conn_note_error(c);
            }
            conn_update(c);
        }
    }
    conn_wake_all(c);
    co_latch_co_wait(&c->writer);
    return c->why    ? c->why
           : c->shut ? "shut down"
                     : "the server closed the connection";
}

void nbd_conn_shutdown(struct nbd_conn *c)
{
    if (c->shut) {
        return;
    }
    c->shut = true;
    if (c->h && nbd_aio_is_ready(c->h) == 1 && c->flights->len == 0) {
        nbd_aio_disconnect(c->h, 0);
    }
    conn_wake_all(c);
}

/* --- requests --- */

/* A request in flight; on the stack of who waits for it. */
struct flight {
    struct nbd_conn *conn;
    struct co *waiter;
    GArray *entries;
    const struct nbd_request *request;
    struct nbd_cover cover; /* of a read */
    int ret;
    bool waiting, done;
};

static void flight_end(struct flight *f, int ret)
{
    f->ret = ret;
    f->done = true;
    g_ptr_array_remove_fast(f->conn->flights, f);
    if (f->waiting) {
        co_wake(f->waiter);
    }
}

/* libnbd's callbacks run inside its calls: they may only take notes. */
static int flight_completed(void *arg, int *error)
{
    struct flight *f = arg;
    const struct nbd_request *r = f->request;
    int ret = *error > 0 ? -*error : 0;

    if (ret == 0 && r->op == NBD_OP_READ &&
        !nbd_cover_is(&f->cover, r->off, r->off + r->len)) {
        ret = -EPROTO;
    }
    flight_end(f, ret);
    return 1; /* retire it */
}

static int flight_got_chunk(void *arg, const void *data, size_t len,
                            uint64_t off, unsigned status, int *error)
{
    struct flight *f = arg;

    if (status != LIBNBD_READ_ERROR &&
        !nbd_cover_add(&f->cover, off, off + len)) {
        *error = EPROTO;
        return -1;
    }
    return 0;
}

static int flight_got_extents(void *arg, const char *context, uint64_t off,
                              uint32_t *entries, size_t n, int *error)
{
    struct flight *f = arg;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
        f->entries->len == 0) {
        g_array_append_vals(f->entries, entries,
                            (guint)MIN(n, (size_t)ENTRIES_MAX));
    }
    return 0;
}

static uint32_t wire_flags(unsigned flags)
{
    return (flags & NBD_REQUEST_FUA ? LIBNBD_CMD_FLAG_FUA : 0) |
           (flags & NBD_REQUEST_NO_HOLE ? LIBNBD_CMD_FLAG_NO_HOLE : 0) |
           (flags & NBD_REQUEST_FAST_ZERO ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
}

static int64_t conn_issue(struct nbd_conn *c, struct nbd_request *r,
                          struct flight *f)
{
    nbd_completion_callback cb = {
        .callback = flight_completed,
        .user_data = f,
    };
    struct nbd_handle *h = c->h;
    uint32_t flags = wire_flags(r->flags);

    switch (r->op) {
    case NBD_OP_READ:
        return nbd_aio_pread_structured(h, r->buf, (size_t)r->len, r->off,
                                        (nbd_chunk_callback) {
                                            .callback = flight_got_chunk,
                                            .user_data = f,
                                        },
                                        cb, flags);
    case NBD_OP_WRITE:
        return nbd_aio_pwrite(h, r->buf, (size_t)r->len, r->off, cb, flags);
    case NBD_OP_FLUSH: return nbd_aio_flush(h, cb, flags);
    case NBD_OP_TRIM: return nbd_aio_trim(h, r->len, r->off, cb, flags);
    case NBD_OP_ZERO: return nbd_aio_zero(h, r->len, r->off, cb, flags);
    case NBD_OP_CACHE: return nbd_aio_cache(h, r->len, r->off, cb, flags);
    case NBD_OP_STATUS:
        return nbd_aio_block_status(h, r->len, r->off,
                                    (nbd_extent_callback) {
                                        .callback = flight_got_extents,
                                        .user_data = f,
                                    },
                                    cb, flags);
    }
    g_assert_not_reached();
}

int nbd_conn_co_request(struct nbd_conn *c, struct nbd_request *r)
{
    struct flight f = {
        .conn = c,
        .waiter = co_self(),
        .entries = r->entries,
        .request = r,
    };

    if (!nbd_conn_is_usable(c)) {
        return -ENOTCONN;
    }
    g_ptr_array_add(c->flights, &f);
    if (conn_issue(c, r, &f) < 0 && !f.done) {
        int errnum = nbd_get_errno();
        flight_end(&f, errnum > 0 && conn_is_alive(c) ? -errnum : -ENOTCONN);
    }
    conn_update(c);
    f.waiting = true;
    while (!f.done) {
        co_yield ();
    }
    return f.ret;
}

void nbd_conn_co_free(struct nbd_conn *c)
{
    if (!c) {
        return;
    }
    conn_wake_all(c);
    co_latch_co_wait(&c->writer);
    /* A dead handle has failed its requests; closing a live one drops them
     * without a word. */
    while (c->flights->len > 0) {
        flight_end(g_ptr_array_index(c->flights, 0), -ENOTCONN);
    }
    nbd_close(c->h);
    channel_free(c->channel);
    nbd_tunnel_co_free(c->tunnel);
    g_ptr_array_unref(c->flights);
    g_free(c->why);
    g_free(c);
}
