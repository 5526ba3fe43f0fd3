/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening and connecting.
 *
 * A Unix socket is made with mode 0600 from its first instant (the mode is set
 * on the descriptor, which bind() hands to the file; the process umask, which
 * all threads share, is left alone).  Another mode, owner and group are set
 * between bind() and listen(), where nobody can connect yet.  A socket file is replaced only when
 * nobody answers behind it, and unlinked at the end only if it is still ours.
 *
 * Addresses to listen on are numeric or "localhost", so that no name service
 * is asked on a loop thread; connecting looks names up in the thread pool.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/err.h"
#include "loop/channel-int.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"

#define BACKLOG 128
/* Pause of accepting after it failed for want of descriptors or memory. */
#define ACCEPT_RETRY_NS (100 * 1000 * 1000ull)
#define CONNECT_RETRY_NS (10 * 1000 * 1000ull)
#define CONNECT_TIMEOUT_NS (10 * 1000 * 1000 * 1000ull)

struct listener {
    struct loop *loop;
    int fd;
    char *path; /* Unix only */
    dev_t dev;  /* of the socket file we made */
    ino_t ino;
    unsigned port; /* TCP only */
    bool closing;
    void (*on_accept)(struct channel *c, void *arg);
    void *arg;
};

/* --- addresses --- */

int sock_addr_unix(const char *path, struct sockaddr_storage *ret_ss,
                   socklen_t *ret_len, GError **err)
{
    struct sockaddr_un *un = (struct sockaddr_un *)ret_ss;
    size_t len = strlen(path);

    memset(ret_ss, 0, sizeof(*ret_ss));
    if (len == 0 || len >= sizeof(un->sun_path)) {
        return err_set(err, ENAMETOOLONG,
                       "Unix socket path '%s' must have 1"
                       " to %zu bytes",
                       path, sizeof(un->sun_path) - 1);
    }
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, len + 1);
    *ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return 0;
}

static int port_parse(const char *text, uint16_t *ret_port, GError **err)
{
    guint64 port;

    if (!text || !g_ascii_string_to_unsigned(text, 10, 0, 65535, &port, NULL)) {
        return err_set(err, EINVAL,
                       "Invalid port '%s', expected a number from"
                       " 0 to 65535",
                       text ? text : "");
    }
    *ret_port = (uint16_t)port;
    return 0;
}

int sock_addr_numeric(const struct sock_addr *addr,
                      struct sockaddr_storage *ret_ss, socklen_t *ret_len,
                      GError **err)
{
    struct sockaddr_in *in = (struct sockaddr_in *)ret_ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_ss;
    const char *host = addr->host;
    uint16_t port;

    memset(ret_ss, 0, sizeof(*ret_ss));
    if (port_parse(addr->port, &port, err) < 0) {
        return -EINVAL;
    }
    if (g_ascii_strcasecmp(host, "localhost") == 0) {
        host = "127.0.0.1";
    }
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        *ret_len = sizeof(*in);
        return 0;
    }
    memset(ret_ss, 0, sizeof(*ret_ss));
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        *ret_len = sizeof(*in6);
        return 0;
    }
    return err_set(err, EINVAL,
                   "Address '%s' is neither numeric nor"
                   " 'localhost'",
                   addr->host);
}

bool sock_addr_is_loopback(const struct sockaddr_storage *ss)
{
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    }
    return false;
}

/* --- listening --- */

/* True when the socket file at @ss has no process behind it. */
static bool unix_is_dead(const struct sockaddr_storage *ss, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool dead;

    if (fd < 0) {
        return false;
    }
    dead = connect(fd, (const struct sockaddr *)ss, len) < 0 &&
           errno == ECONNREFUSED;
    close(fd);
    return dead;
}

/* Give the socket file its mode, owner and group, and remember which file it
 * is. A descriptor of the file, not its path, is what is changed: the name may
 * have been given to another file meanwhile. The mode comes first, for it may
 * be set only while the file is ours. */
static int listener_set_access(struct listener *ls,
                               const struct sock_access *access, GError **err)
{
    int fd = open(ls->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;
    int ret = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        ret = err_set_errno(err, errno, "Failed to look at socket %s",
                            ls->path);
    } else {
        ls->dev = st.st_dev;
        ls->ino = st.st_ino;
    }
    if (ret == 0 && access && chmod(name, access->mode) < 0) {
        ret = err_set_errno(err, errno, "Failed to set the mode of socket %s",
                            ls->path);
    }
    if (ret == 0 && access &&
        fchownat(fd, "", access->owner, access->group, AT_EMPTY_PATH) < 0) {
        ret = err_set_errno(
            err, errno, "Failed to set owner and group of socket %s", ls->path);
        err_hint(err, "Root may set any; others a group that they are in.");
    }
    if (fd >= 0) {
        close(fd);
    }
    return ret;
}

static int listener_bind_unix(struct listener *ls,
                              const struct sock_access *access, GError **err)
{
    struct sockaddr_storage ss;
    socklen_t len;
    struct stat st;
    int ret = sock_addr_unix(ls->path, &ss, &len, err);

    if (ret < 0) {
        return ret;
    }
    if (fchmod(ls->fd, 0600) < 0) {
        return err_set_errno(err, errno, "Failed to protect socket %s",
                             ls->path);
    }
    ret = bind(ls->fd, (struct sockaddr *)&ss, len);
    if (ret < 0 && errno == EADDRINUSE && lstat(ls->path, &st) == 0 &&
        S_ISSOCK(st.st_mode) && unix_is_dead(&ss, len)) {
        unlink(ls->path);
        ret = bind(ls->fd, (struct sockaddr *)&ss, len);
    }
    if (ret < 0) {
        return err_set_errno(err, errno, "Failed to bind socket to %s",
                             ls->path);
    }
    return listener_set_access(ls, access, err);
}

static int listener_bind_tcp(struct listener *ls, const struct sock_addr *addr,
                             const struct sockaddr_storage *ss, socklen_t len,
                             GError **err)
{
    struct sockaddr_storage bound;
    socklen_t bound_len = sizeof(bound);
    struct sockaddr_in in;
    int one = 1;

    setsockopt(ls->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(ls->fd, (const struct sockaddr *)ss, len) < 0 ||
        getsockname(ls->fd, (struct sockaddr *)&bound, &bound_len) < 0) {
        return err_set_errno(err, errno, "Failed to bind socket to %s:%s",
                             addr->host, addr->port);
    }
    /* The port stands at the same place in both families. */
    memcpy(&in, &bound, sizeof(in));
    ls->port = ntohs(in.sin_port);
    return 0;
}

static int listener_bind(struct listener *ls, const struct sock_addr *addr,
                         GError **err)
{
    struct sockaddr_storage ss;
    socklen_t len;
    int ret;

    if (addr->path) {
        ls->path = g_strdup(addr->path);
        ss.ss_family = AF_UNIX;
    } else {
        ret = sock_addr_numeric(addr, &ss, &len, err);
        if (ret < 0) {
            return ret;
        }
        if (!addr->any_network && !sock_addr_is_loopback(&ss)) {
            ret = err_set(err, EPERM,
                          "Refusing to listen on '%s': without TLS"
                          " only loopback addresses are served",
                          addr->host);
            err_hint(err, "Use 127.0.0.1, ::1 or a Unix socket.");
            return ret;
        }
    }
    ls->fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    0);
    if (ls->fd < 0) {
        return err_set_errno(err, errno, "Failed to create a socket");
    }
    return addr->path ? listener_bind_unix(ls, addr->access, err)
                      : listener_bind_tcp(ls, addr, &ss, len, err);
}

static void listener_unlink(struct listener *ls)
{
    struct stat st;

    if (ls->path && ls->ino && lstat(ls->path, &st) == 0 &&
        st.st_dev == ls->dev && st.st_ino == ls->ino) {
        unlink(ls->path);
    }
}

static void listener_destroy(struct listener *ls)
{
    if (ls->fd >= 0) {
        close(ls->fd);
    }
    g_free(ls->path);
    g_free(ls);
}

static bool accept_is_transient(int errnum)
{
    return errnum == EAGAIN || errnum == EINTR || errnum == ECONNABORTED;
}

static CO_FN void listener_accept_entry(void *arg)
{
    struct listener *ls = arg;

    while (!ls->closing) {
        int fd = accept4(ls->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            ls->on_accept(channel_new_fd(ls->loop, fd), ls->arg);
        } else if (errno == EAGAIN) {
            channel_co_poll_fd(ls->fd, POLLIN, 0);
        } else if (!accept_is_transient(errno)) {
            co_sleep(ACCEPT_RETRY_NS);
        }
    }
    listener_destroy(ls);
}

int listener_new(struct loop *l, const struct sock_addr *addr,
                 void (*on_accept)(struct channel *c, void *arg), void *arg,
                 struct listener **ret_listener, GError **err)
{
    struct listener *ls = g_new0(struct listener, 1);
    int ret;

    g_assert(!addr->path == (addr->host != NULL));
    ls->loop = l;
    ls->fd = -1;
    ls->on_accept = on_accept;
    ls->arg = arg;
    ret = listener_bind(ls, addr, err);
    if (ret == 0 && listen(ls->fd, BACKLOG) < 0) {
        ret = err_set_errno(err, errno, "Failed to listen");
    }
    if (ret < 0) {
        listener_unlink(ls);
        listener_destroy(ls);
        return ret;
    }
    co_start(l, listener_accept_entry, ls);
    *ret_listener = ls;
    return 0;
}

/* The accepting coroutine wakes from the shutdown of its socket, sees
 * ->closing and frees the rest in a coming turn. */
void listener_free(struct listener *ls)
{
    if (!ls) {
        return;
    }
    listener_unlink(ls);
    ls->closing = true;
    shutdown(ls->fd, SHUT_RDWR);
}

unsigned listener_port(const struct listener *ls)
{
    return ls->port;
}

/* --- connecting --- */

struct lookup {
    const struct sock_addr *addr;
    struct addrinfo *list;
    int ret; /* of getaddrinfo() */
};

static void address_lookup_in_pool(void *arg)
{
    struct lookup *lk = arg;
    struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_ADDRCONFIG,
    };

    lk->ret = getaddrinfo(lk->addr->host, lk->addr->port, &hints, &lk->list);
}

/* Returns a connected descriptor or -errno. */
static CO_FN int connect_co_one(const struct sockaddr *sa, socklen_t len)
{
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    0);
    socklen_t err_len = sizeof(int);
    uint64_t waited_ns = 0;
    int ret = 0, errnum = 0;

    if (fd < 0) {
        return -errno;
    }
    while (connect(fd, sa, len) < 0) {
        ret = -errno;
        if (ret != -EAGAIN || waited_ns >= CONNECT_TIMEOUT_NS) {
            break;
        }
        /* A Unix server whose backlog is full. */
        co_sleep(CONNECT_RETRY_NS);
        waited_ns += CONNECT_RETRY_NS;
        ret = 0;
    }
    if (ret == -EINPROGRESS) {
        ret = channel_co_poll_fd(fd, POLLOUT, CONNECT_TIMEOUT_NS);
        if (ret >= 0 &&
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &err_len) == 0) {
            ret = -errnum;
        }
    }
    if (ret < 0) {
        close(fd);
        return ret;
    }
    return fd;
}

static CO_FN int connect_co_tcp(const struct sock_addr *addr, GError **err)
{
    struct lookup lk = { .addr = addr };
    int ret = -EADDRNOTAVAIL;

    co_in_pool(address_lookup_in_pool, &lk);
    if (lk.ret != 0) {
        return err_set(err, EHOSTUNREACH,
                       "address resolution failed for %s:%s: %s", addr->host,
                       addr->port, gai_strerror(lk.ret));
    }
    for (struct addrinfo *ai = lk.list; ai && ret < 0; ai = ai->ai_next) {
        ret = connect_co_one(ai->ai_addr, ai->ai_addrlen);
    }
    freeaddrinfo(lk.list);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Failed to connect to '%s:%s'",
                             addr->host, addr->port);
    }
    return ret;
}

static CO_FN int connect_co_unix(const char *path, GError **err)
{
    struct sockaddr_storage ss;
    socklen_t len;
    int ret = sock_addr_unix(path, &ss, &len, err);

    if (ret < 0) {
        return ret;
    }
    ret = connect_co_one((struct sockaddr *)&ss, len);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Failed to connect to '%s'", path);
    }
    return ret;
}

int channel_co_connect(const struct sock_addr *addr, struct channel **ret_c,
                       GError **err)
{
    int fd = addr->path ? connect_co_unix(addr->path, err)
                        : connect_co_tcp(addr, err);

    if (fd < 0) {
        return fd;
    }
    *ret_c = channel_new_fd(loop_current(), fd);
    return 0;
}
