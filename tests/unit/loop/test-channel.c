/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Channels: every byte arrives in order through sockets and memory pipes;
 * time-outs and shutdown wake whoever is inside; listeners protect, replace
 * and remove their socket files as they promise.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/err.h"
#include "loop/channel.h"
#include "run.h"
#include "scratch.h"

#define MS 1000000ull
#define STREAM_LEN (3u << 20)

/* Sockets that an engine waits for, and those where it may not; the former also
 * with sends that it makes. */
enum { MEMORY, NONBLOCKING, BLOCKING, ENGINE_SENDS, KINDS };

static bool may_not_linger(void *arg)
{
    return false;
}

static void make_ends(int kind, size_t capacity, struct channel *ends[2])
{
    int type = SOCK_STREAM | (kind == NONBLOCKING ? SOCK_NONBLOCK : 0);
    int fds[2];

    if (kind == MEMORY) {
        channel_new_pair(loop_current(), capacity, ends);
        return;
    }
    g_assert_cmpint(socketpair(AF_UNIX, type, 0, fds), ==, 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = channel_new_fd(loop_current(), fds[i]);
        if (kind == ENGINE_SENDS) {
            channel_let_linger(ends[i], may_not_linger, NULL);
        }
    }
}

/* --- a stream in pieces of odd sizes --- */

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 8));
}

struct sender {
    struct channel *c;
    bool done;
};

static CO_FN void send_entry(void *arg)
{
    struct sender *s = arg;
    uint8_t *all = g_malloc(STREAM_LEN);
    struct iovec v[7];
    size_t off = 0;

    for (size_t i = 0; i < STREAM_LEN; i++) {
        all[i] = byte_at(i);
    }
    while (off < STREAM_LEN) {
        struct iov iov = { .v = v };
        while (iov.n < G_N_ELEMENTS(v) && off < STREAM_LEN) {
            size_t len = MIN(1 + (off * 7919) % 70000, STREAM_LEN - off);
            v[iov.n++] = (struct iovec) { all + off, len };
            iov.len += len;
            off += len;
        }
        g_assert_cmpint(channel_co_write(s->c, iov, 0), ==, 0);
    }
    channel_free(s->c);
    g_free(all);
    s->done = true;
}

static CO_FN void stream_co_check(int kind)
{
    struct channel *ends[2];
    struct sender s = { 0 };
    uint8_t buf[5000];
    size_t got = 0;

    make_ends(kind, 4099, ends);
    s.c = ends[1];
    co_start(loop_current(), send_entry, &s);
    while (got < STREAM_LEN) {
        size_t want = MIN(1 + got % sizeof(buf), STREAM_LEN - got);
        g_assert_cmpint(channel_co_read_full(ends[0], buf, want, 0), ==, 0);
        for (size_t i = 0; i < want; i++) {
            g_assert_cmpuint(buf[i], ==, byte_at(got + i));
        }
        got += want;
    }
    g_assert_cmpint(channel_co_read(ends[0], buf, 1, 0), ==, 0);
    g_assert_cmpint(channel_co_read_full(ends[0], buf, 1, 0), ==, -EPIPE);
    g_assert_true(s.done);
    channel_free(ends[0]);
}

static CO_FN void stream_entry(void *arg)
{
    for (int kind = 0; kind < KINDS; kind++) {
        stream_co_check(kind);
    }
}

/* --- ends of streams --- */

static CO_FN void ends_entry(void *arg)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct channel *ends[2];
        struct iovec v;
        char abc[] = "abc", buf[8];

        make_ends(kind, 64, ends);
        g_assert_cmpint(channel_co_write(ends[1], iov_one(&v, abc, 3), 0), ==,
                        0);
        channel_free(ends[1]);
        /* What was sent arrives; then the end, in the middle of a read. */
        g_assert_cmpint(channel_co_read_full(ends[0], buf, 8, 0), ==,
                        -ECONNRESET);
        g_assert_cmpint(channel_co_write(ends[0], iov_one(&v, abc, 1), 0), ==,
                        -EPIPE);
        channel_free(ends[0]);
    }
}

static CO_FN void timeout_entry(void *arg)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct channel *ends[2];
        uint64_t start = loop_clock_ns(loop_current());
        struct iovec v;
        char *big = g_malloc0(8 << 20);
        char buf[8];

        make_ends(kind, 64, ends);
        g_assert_cmpint(channel_co_read(ends[0], buf, 8, 30 * MS), ==,
                        -ETIMEDOUT);
        g_assert_cmpint(
            channel_co_write(ends[0], iov_one(&v, big, 8 << 20), 30 * MS), ==,
            -ETIMEDOUT);
        g_assert_cmpuint(loop_clock_ns(loop_current()) - start, >=, 60 * MS);
        channel_free(ends[0]);
        channel_free(ends[1]);
        g_free(big);
    }
}

/* --- sends whose completion may linger --- */

#define SMALL ((size_t)48 << 10)

struct lingering {
    struct channel *c;
    bool may;
    bool done;
    int ret;
};

static bool may_linger(void *arg)
{
    return ((struct lingering *)arg)->may;
}

static CO_FN void linger_writer_entry(void *arg)
{
    struct lingering *s = arg;
    char *buf = g_malloc0(SMALL);
    struct iovec v;

    s->ret = channel_co_write(s->c, iov_one(&v, buf, SMALL), 0);
    g_free(buf);
    s->done = true;
}

/* The bytes go at once, whenever their writer is told; one that may not wait is
 * told before the loop sleeps. */
static CO_FN void linger_entry(void *arg)
{
    for (int may = 0; may < 2; may++) {
        struct channel *ends[2];
        struct lingering s = { .may = may };
        char *buf = g_malloc(SMALL);

        make_ends(BLOCKING, 0, ends);
        s.c = ends[0];
        channel_let_linger(ends[0], may_linger, &s);
        co_start(loop_current(), linger_writer_entry, &s);
        g_assert_cmpint(channel_co_read_full(ends[1], buf, SMALL, 0), ==, 0);
        while (!s.done) {
            co_relax();
        }
        g_assert_cmpint(s.ret, ==, 0);
        channel_free(ends[0]);
        channel_free(ends[1]);
        g_free(buf);
    }
}

/* A socket takes a part of a send, or nothing: the rest follows, all of it once
 * and in order, while the reader is slow. */
static CO_FN void full_socket_entry(void *arg)
{
    struct channel *ends[2];
    struct sender s = { 0 };
    int fds[2], small = 8192;
    uint8_t buf[3000];
    size_t got = 0;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(
        setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), ==,
        0);
    for (int i = 0; i < 2; i++) {
        ends[i] = channel_new_fd(loop_current(), fds[i]);
    }
    channel_let_linger(ends[1], may_not_linger, NULL);
    s.c = ends[1];
    co_start(loop_current(), send_entry, &s);
    while (got < STREAM_LEN) {
        ssize_t n = channel_co_read(ends[0], buf, sizeof(buf), 0);

        g_assert_cmpint(n, >, 0);
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(buf[i], ==, byte_at(got + (size_t)i));
        }
        got += (size_t)n;
        co_relax();
    }
    g_assert_cmpint(channel_co_read(ends[0], buf, 1, 0), ==, 0);
    channel_free(ends[0]);
}

/* --- shutdown wakes both sides --- */

struct stuck {
    struct channel *c;
    int read_ret, write_ret;
    unsigned ended;
};

static CO_FN void stuck_reader_entry(void *arg)
{
    struct stuck *s = arg;
    char b;

    s->read_ret = (int)channel_co_read(s->c, &b, 1, 0);
    s->ended++;
}

static CO_FN void stuck_writer_entry(void *arg)
{
    struct stuck *s = arg;
    char *big = g_malloc0(8 << 20);
    struct iovec v;

    s->write_ret = channel_co_write(s->c, iov_one(&v, big, 8 << 20), 0);
    g_free(big);
    s->ended++;
}

static CO_FN void shutdown_entry(void *arg)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct channel *ends[2];
        struct stuck s = { 0 };
        char buf[64];

        make_ends(kind, 64, ends);
        s.c = ends[0];
        co_start(loop_current(), stuck_reader_entry, &s);
        co_start(loop_current(), stuck_writer_entry, &s);
        co_sleep(20 * MS);
        g_assert_cmpuint(s.ended, ==, 0);
        channel_shutdown(ends[0]);
        for (int i = 0; i < 60000 && s.ended < 2; i++) {
            co_sleep(MS);
        }
        g_assert_cmpuint(s.ended, ==, 2);
        g_assert_cmpint(s.read_ret, ==, -ESHUTDOWN);
        g_assert_cmpint(s.write_ret, ==, -ESHUTDOWN);
        /* The peer reads what was on its way, then the end. */
        while (channel_co_read(ends[1], buf, sizeof(buf), 1000 * MS) > 0) {
            continue;
        }
        g_assert_cmpint(channel_co_read(ends[1], buf, 1, 1000 * MS), ==, 0);
        channel_free(ends[0]);
        channel_free(ends[1]);
    }
}

/* --- listeners --- */

static void count_accept(struct channel *c, void *arg)
{
    unsigned *n = arg;

    (*n)++;
    g_assert_cmpstr(channel_describe(c), !=, "");
    channel_free(c);
}

static CO_FN void connect_co_check(const struct sock_addr *addr, unsigned *n)
{
    struct channel *c;
    GError *err = NULL;
    unsigned before = *n;
    char b;

    g_assert_cmpint(channel_co_connect(addr, &c, &err), ==, 0);
    g_assert_cmpint(channel_co_read(c, &b, 1, 5000 * MS), ==, 0);
    /* Somebody who asks whether the socket is alive counts too. */
    g_assert_cmpuint(*n, >, before);
    channel_free(c);
}

static CO_FN void unix_entry(void *arg)
{
    struct sock_addr addr = { .path = scratch("listen.sock") };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct listener *ls, *second;
    struct loop *l = loop_current();
    GError *err = NULL;
    struct stat st;
    unsigned n = 0;
    int fd;

    /* A socket file that nobody answers: left by a server that was killed. */
    g_strlcpy(un.sun_path, addr.path, sizeof(un.sun_path));
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(addr.path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    close(fd);
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==, 0);
    g_assert_cmpint(lstat(addr.path, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 07777, ==, 0600);
    connect_co_check(&addr, &n);

    /* One that answers stays. */
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &second, &err), ==,
                    -EADDRINUSE);
    g_clear_error(&err);
    connect_co_check(&addr, &n);

    listener_free(ls);
    g_assert_cmpint(lstat(addr.path, &st), <, 0);

    /* What is no socket is never removed. */
    g_assert_true(g_file_set_contents(addr.path, "precious", -1, NULL));
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==,
                    -EADDRINUSE);
    g_clear_error(&err);
    g_assert_cmpint(lstat(addr.path, &st), ==, 0);
    unlink(addr.path);
}

static CO_FN void replaced_entry(void *arg)
{
    struct sock_addr addr = { .path = scratch("replaced.sock") };
    struct listener *first, *second;
    struct loop *l = loop_current();
    struct stat st;
    unsigned n = 0;

    /* Freeing a listener does not remove the file of its successor. */
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &first, NULL), ==,
                    0);
    unlink(addr.path);
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &second, NULL), ==,
                    0);
    listener_free(first);
    g_assert_cmpint(lstat(addr.path, &st), ==, 0);
    connect_co_check(&addr, &n);
    listener_free(second);
    g_assert_cmpint(lstat(addr.path, &st), <, 0);
}

static CO_FN void tcp_entry(void *arg)
{
    static const char *const refused[] = {
        "0.0.0.0", "::", "192.0.2.1", "8.8.8.8", "128.0.0.1", "::2",
    };
    static const char *const unknown[] = { "example.org", "127.1", "" };
    struct sock_addr addr = { .host = "localhost", .port = "0" };
    struct listener *ls;
    struct loop *l = loop_current();
    GError *err = NULL;
    unsigned n = 0;
    char port[16];

    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==, 0);
    g_assert_cmpuint(listener_port(ls), !=, 0);
    g_snprintf(port, sizeof(port), "%u", listener_port(ls));
    addr.port = port;
    addr.host = "127.0.0.1";
    connect_co_check(&addr, &n);
    listener_free(ls);

    addr.port = "0";
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        addr.host = refused[i];
        g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==,
                        -EPERM);
        g_clear_error(&err);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(unknown); i++) {
        addr.host = unknown[i];
        g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==,
                        -EINVAL);
        g_clear_error(&err);
    }
    addr.host = "127.0.0.1";
    addr.port = "65536";
    g_assert_cmpint(listener_new(l, &addr, count_accept, &n, &ls, &err), ==,
                    -EINVAL);
    g_clear_error(&err);
}

static CO_FN void refused_entry(void *arg)
{
    struct sock_addr addr = { .path = scratch("nobody.sock") };
    struct channel *c;
    GError *err = NULL;

    g_assert_cmpint(channel_co_connect(&addr, &c, &err), ==, -ENOENT);
    g_assert_nonnull(strstr(err->message, addr.path));
    g_clear_error(&err);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_real_engines("/loop/channel/stream", stream_entry);
    add_for_real_engines("/loop/channel/ends", ends_entry);
    add_for_real_engines("/loop/channel/timeout", timeout_entry);
    add_for_real_engines("/loop/channel/shutdown", shutdown_entry);
    add_for_real_engines("/loop/channel/linger", linger_entry);
    add_for_real_engines("/loop/channel/full-socket", full_socket_entry);
    add_for_real_engines("/loop/channel/listen-unix", unix_entry);
    add_for_real_engines("/loop/channel/listen-replaced", replaced_entry);
    add_for_real_engines("/loop/channel/listen-tcp", tcp_entry);
    add_for_real_engines("/loop/channel/connect-refused", refused_entry);
    return g_test_run();
}
