/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Channels: the part that sockets and memory pipes share, and sockets.
 *
 * A socket is tried first and waited for only when it has nothing, with one
 * exception: after a read that did not fill its buffer the socket is known to
 * be drained, so the next read waits at once and saves a system call that
 * would only say EAGAIN.  Readiness is level triggered, so nothing is missed.
 *
 * channel_shutdown() sets ->shut and shuts the socket down; the kernel then
 * reports it ready, and both sides find ->shut before they look at the data.
 *
 * Where the engine can receive and send by itself (IO_OP_RECV, IO_OP_SEND), that
 * is done in the system call in which the loop waits anyway.  A socket whose owner
 * made it non-blocking answers EAGAIN instead of waiting, and goes the other way.
 * Sends do so where their completion may linger (channel_let_linger()), if they are
 * short: much memory is not to be held until the loop has something else to do.
 */
#include "loop/channel.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>
#include "loop/channel-int.h"
#include "loop/loop-priv.h"

#define SEND_VECTORS 128
/* Longest send that is left to the engine, bytes. */
#define ENGINE_SEND_MAX ((size_t)64 << 10)

/* Descriptors that wait to be taken, at most. */
#define FDS_MAX 16

struct channel_sock {
    struct channel c;
    int fd;
    bool drained; /* the last read found less than it had room for */
    bool accepts_fds;
    bool by_engine;                /* the engine receives and sends */
    bool (*may_linger)(void *arg); /* NULL: it does not send */
    void *linger_arg;
    unsigned n_fds;
    int fds[FDS_MAX]; /* that came, oldest first */
};

void channel_init(struct channel *c, const struct channel_ops *ops,
                  struct loop *l, char *description)
{
    c->ops = ops;
    c->loop = l;
    c->description = description;
}

void channel_free(struct channel *c)
{
    if (!c) {
        return;
    }
    g_assert(!c->reading && !c->writing);
    g_free(c->description);
    c->ops->free(c);
}

void channel_move(struct channel *c, struct loop *l)
{
    g_assert(!c->reading && !c->writing);
    c->loop = l;
    if (c->ops->moved) {
        c->ops->moved(c);
    }
}

ssize_t channel_co_read(struct channel *c, void *buf, size_t len,
                        uint64_t timeout_ns)
{
    ssize_t n;

    g_assert(!c->reading && len > 0);
    if (c->shut) {
        return -ESHUTDOWN;
    }
    c->reading = true;
    n = c->ops->co_recv(c, buf, len, timeout_ns);
    c->reading = false;
    return c->shut ? -ESHUTDOWN : n;
}

int channel_co_read_full(struct channel *c, void *buf, size_t len,
                         uint64_t timeout_ns)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = channel_co_read(c, (char *)buf + done, len - done,
                                    timeout_ns);
        if (n < 0) {
            return (int)n;
        }
        if (n == 0) {
            return done ? -ECONNRESET : -EPIPE;
        }
        done += (size_t)n;
    }
    return 0;
}

int channel_co_write(struct channel *c, struct iov iov, uint64_t stall_ns)
{
    int ret = 0;

    g_assert(!c->writing);
    c->writing = true;
    while (iov.len > 0) {
        ssize_t n = -ESHUTDOWN;
        if (!c->shut) {
            n = c->ops->co_send(c, iov, stall_ns);
        }
        if (n < 0) {
            ret = c->shut ? -ESHUTDOWN : (int)n;
            break;
        }
        iov = iov_slice(iov, (size_t)n, iov.len - (size_t)n);
    }
    c->writing = false;
    return ret;
}

void channel_shutdown(struct channel *c)
{
    if (!c->shut) {
        c->shut = true;
        c->ops->shutdown(c);
    }
}

void channel_shutdown_write(struct channel *c)
{
    g_assert(!c->writing);
    c->ops->shutdown_write(c);
}

void channel_co_finish(struct channel *c, uint64_t timeout_ns)
{
    g_assert(!c->writing);
    if (c->ops->co_finish && !c->shut) {
        c->ops->co_finish(c, timeout_ns);
    }
}

bool channel_peer_has_ended(const struct channel *c)
{
    return c->shut || c->ops->peer_has_ended(c);
}

const char *channel_describe(const struct channel *c)
{
    return c->description;
}

/* --- sockets --- */

/* Those beyond the last place are closed. */
static void sock_keep_fds(struct channel_sock *s, struct msghdr *msg)
{
    for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR(msg, m)) {
        size_t n = m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS
                       ? (m->cmsg_len - CMSG_LEN(0)) / sizeof(int)
                       : 0;

        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
            if (s->n_fds < FDS_MAX) {
                s->fds[s->n_fds++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static ssize_t sock_recv(struct channel_sock *s, void *buf, size_t len)
{
    union {
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec v = { buf, len };
    struct msghdr msg = {
        .msg_iov = &v,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    ssize_t n;

    if (!s->accepts_fds) {
        return recv(s->fd, buf, len, MSG_DONTWAIT);
    }
    n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n >= 0) {
        sock_keep_fds(s, &msg);
    }
    return n;
}

static CO_FN ssize_t sock_co_recv_by_engine(struct channel_sock *s, void *buf,
                                            size_t len, uint64_t timeout_ns)
{
    struct iovec v = { buf, len };
    struct io_req r = {
        .op = IO_OP_RECV,
        .fd = s->fd,
        .iov = &v,
        .n_iov = 1,
        .len = len,
        .flags = s->drained,
    };

    return (ssize_t)io_req_co_run_for(&r, timeout_ns);
}

static CO_FN ssize_t sock_co_recv(struct channel *c, void *buf, size_t len,
                                  uint64_t timeout_ns)
{
    struct channel_sock *s = (struct channel_sock *)c;
    bool wait = s->drained;
    ssize_t n;

    if (s->by_engine && !s->accepts_fds) {
        n = sock_co_recv_by_engine(s, buf, len, timeout_ns);
        if (n != -EAGAIN && n != -EINTR) {
            s->drained = n >= 0 && (size_t)n < len;
            return n;
        }
        s->by_engine = n != -EAGAIN;
    }
    while (!c->shut) {
        if (wait) {
            int ret = channel_co_poll_fd(s->fd, POLLIN, timeout_ns);
            if (ret < 0 && ret != -EINTR) {
                return ret;
            }
        }
        n = sock_recv(s, buf, len);
        if (n >= 0) {
            s->drained = (size_t)n < len;
            return n;
        }
        if (errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
        wait = errno == EAGAIN;
    }
    return -ESHUTDOWN;
}

static CO_FN ssize_t sock_co_send_by_engine(struct channel_sock *s,
                                            const struct iovec *v, unsigned n,
                                            size_t len)
{
    struct io_req r = {
        .op = IO_OP_SEND,
        .fd = s->fd,
        .iov = v,
        .n_iov = n,
        .len = len,
        .may_linger = s->may_linger,
        .arg = s->linger_arg,
    };

    return (ssize_t)io_req_co_run(&r);
}

static CO_FN ssize_t sock_co_send(struct channel *c, struct iov iov,
                                  uint64_t timeout_ns)
{
    struct channel_sock *s = (struct channel_sock *)c;
    struct iovec v[SEND_VECTORS];
    size_t len;
    struct msghdr msg = {
        .msg_iov = v,
        .msg_iovlen = iov_export(iov, v, SEND_VECTORS, &len),
    };
    ssize_t n;

    if (s->by_engine && s->may_linger && len <= ENGINE_SEND_MAX) {
        n = sock_co_send_by_engine(s, v, (unsigned)msg.msg_iovlen, len);
        if (n != -EAGAIN && n != -EINTR) {
            return n;
        }
    }
    while (!c->shut) {
        int ret;

        n = sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            return n;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return -errno;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        ret = channel_co_poll_fd(s->fd, POLLOUT, timeout_ns);
        if (ret < 0 && ret != -EINTR) {
            return ret;
        }
    }
    return -ESHUTDOWN;
}

static void sock_shutdown(struct channel *c)
{
    shutdown(((struct channel_sock *)c)->fd, SHUT_RDWR);
}

static void sock_shutdown_write(struct channel *c)
{
    shutdown(((struct channel_sock *)c)->fd, SHUT_WR);
}

static bool sock_peer_has_ended(const struct channel *c)
{
    struct pollfd p = { .fd = ((const struct channel_sock *)c)->fd,
                        .events = POLLRDHUP };

    return poll(&p, 1, 0) > 0;
}

static void sock_free(struct channel *c)
{
    struct channel_sock *s = (struct channel_sock *)c;

    for (unsigned i = 0; i < s->n_fds; i++) {
        close(s->fds[i]);
    }
    close(s->fd);
    g_free(s);
}

static const struct channel_ops sock_ops = {
    .co_recv = sock_co_recv,
    .co_send = sock_co_send,
    .shutdown = sock_shutdown,
    .shutdown_write = sock_shutdown_write,
    .peer_has_ended = sock_peer_has_ended,
    .free = sock_free,
};

int channel_fd(const struct channel *c)
{
    return c->ops == &sock_ops ? ((const struct channel_sock *)c)->fd : -1;
}

void channel_let_linger(struct channel *c, bool (*may_linger)(void *arg),
                        void *arg)
{
    struct channel_sock *s = (struct channel_sock *)c;

    if (c->ops == &sock_ops) {
        s->may_linger = may_linger;
        s->linger_arg = arg;
    }
}

bool channel_is_reading(const struct channel *c)
{
    return c->reading;
}

void channel_accept_fds(struct channel *c)
{
    if (c->ops == &sock_ops) {
        ((struct channel_sock *)c)->accepts_fds = true;
    }
}

int channel_take_fd(struct channel *c)
{
    struct channel_sock *s = (struct channel_sock *)c;
    int fd;

    if (c->ops != &sock_ops || s->n_fds == 0) {
        return -1;
    }
    fd = s->fds[0];
    s->n_fds--;
    memmove(s->fds, s->fds + 1, s->n_fds * sizeof(int));
    return fd;
}

/* Who is at the other end, for messages: "unix uid 0 pid 42" or
 * "127.0.0.1:4242". */
static char *sock_describe(int fd)
{
    struct sockaddr_storage ss = { .ss_family = AF_UNSPEC };
    socklen_t len = sizeof(ss);
    struct ucred cred;
    socklen_t cred_len = sizeof(cred);

    if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0) {
        return g_strdup("unconnected socket");
    }
    if (ss.ss_family == AF_UNIX) {
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_len) < 0) {
            return g_strdup("unix socket");
        }
        return g_strdup_printf("unix uid %d pid %d", (int)cred.uid,
                               (int)cred.pid);
    }
    if (ss.ss_family == AF_INET || ss.ss_family == AF_INET6) {
        char host[INET6_ADDRSTRLEN] = "?";
        bool v6 = ss.ss_family == AF_INET6;
        const void *addr = v6 ? (void *)&((struct sockaddr_in6 *)&ss)->sin6_addr
                              : (void *)&((struct sockaddr_in *)&ss)->sin_addr;
        unsigned port = ntohs(v6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                 : ((struct sockaddr_in *)&ss)->sin_port);
        inet_ntop(ss.ss_family, addr, host, sizeof(host));
        return g_strdup_printf(v6 ? "[%s]:%u" : "%s:%u", host, port);
    }
    return g_strdup("socket");
}

struct channel *channel_new_fd(struct loop *l, int fd)
{
    struct channel_sock *s = g_new0(struct channel_sock, 1);
    int one = 1;

    channel_init(&s->c, &sock_ops, l, sock_describe(fd));
    s->fd = fd;
    s->by_engine = l->engine->has_sockets && l->engine->has_sockets(l);
    /* Fails on a Unix socket, which has no such delay. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return &s->c;
}
