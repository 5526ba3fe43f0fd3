/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Channels with TLS over memory pipes: every byte arrives in order in both
 * directions at once, whatever the size of the pipe; a signed end is told from
 * one that was cut off; time-outs and shutdown work as on any channel; a peer
 * that is no TLS, or the wrong one, is an error.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include "coro.h"
#include "graph/node.h"
#include "loop/channel.h"
#include "loop/loop.h"
#include "tls/tls-channel.h"
#include "tls/tls-creds.h"

#define MS 1000000ull
#define STREAM_LEN (1u << 20)
#define LIMIT_NS (600000 * MS)

static const struct node_driver *const no_drivers[] = { NULL };

struct end {
    struct channel *c;
    int ret; /* of the handshake */
    bool done;
};

static CO_FN struct tls_creds *creds_co_make(struct graph *g, const char *id,
                                             const char *endpoint)
{
    json_t *props = json_pack("{s:s}", "endpoint", endpoint);
    struct tls_creds *tc;
    GError *err = NULL;

    tls_creds_co_add_anon(g, id, props, &err);
    g_assert_no_error(err);
    json_decref(props);
    tls_creds_get(g, id, strcmp(endpoint, "server") == 0, &tc, &err);
    g_assert_no_error(err);
    return tc;
}

static CO_FN void shake_entry(void *arg)
{
    struct end *e = arg;
    g_autoptr(GError) err = NULL;

    e->ret = tls_channel_co_handshake(e->c, &err);
    g_assert_true((e->ret < 0) == (err != NULL));
    e->done = true;
}

static CO_FN void co_wait_for(const bool *flag)
{
    while (!*flag) {
        co_sleep(MS);
    }
}

/* Two ends of a session over a pipe of @capacity. */
static CO_FN void co_make_session(size_t capacity, struct end ends[2])
{
    struct graph *g = graph_new(loop_current(), no_drivers);
    struct tls_creds *creds[2] = { creds_co_make(g, "s", "server"),
                                   creds_co_make(g, "c", "client") };
    struct channel *pipe[2];
    GError *err = NULL;

    channel_new_pair(loop_current(), capacity, pipe);
    for (int i = 0; i < 2; i++) {
        ends[i] = (struct end) { 0 };
        tls_channel_new(pipe[i], creds[i], NULL, &ends[i].c, &err);
        g_assert_no_error(err);
        tls_creds_unref(creds[i]);
        co_start(loop_current(), shake_entry, &ends[i]);
    }
    graph_co_free(g); /* sessions keep their credentials */
    for (int i = 0; i < 2; i++) {
        co_wait_for(&ends[i].done);
        g_assert_cmpint(ends[i].ret, ==, 0);
        g_assert_null(tls_channel_identity(ends[i].c));
    }
    g_assert_true(g_str_has_prefix(tls_channel_version(ends[0].c), "TLS1.2 "));
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 8));
}

static CO_FN void send_entry(void *arg)
{
    struct end *e = arg;
    g_autofree uint8_t *all = g_malloc(STREAM_LEN);
    size_t off = 0;

    for (size_t i = 0; i < STREAM_LEN; i++) {
        all[i] = byte_at(i);
    }
    while (off < STREAM_LEN) {
        struct iovec v[3];
        struct iov iov = { .v = v };

        while (iov.n < G_N_ELEMENTS(v) && off < STREAM_LEN) {
            size_t len = MIN(1 + (off * 7919) % 70000, STREAM_LEN - off);

            v[iov.n++] = (struct iovec) { all + off, len };
            iov.len += len;
            off += len;
        }
        g_assert_cmpint(channel_co_write(e->c, iov, 0), ==, 0);
    }
    e->done = true;
}

static CO_FN void co_check_stream(struct channel *c)
{
    g_autofree uint8_t *buf = g_malloc(50000);
    size_t got = 0;

    while (got < STREAM_LEN) {
        ssize_t n = channel_co_read(c, buf, MIN(50000u, STREAM_LEN - got), 0);

        g_assert_cmpint(n, >, 0);
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(buf[i], ==, byte_at(got + (size_t)i));
        }
        got += (size_t)n;
    }
}

static CO_FN void receive_entry(void *arg)
{
    struct end *e = arg;

    co_check_stream(e->c);
    e->done = true;
}

/* Both send at once, and both read. */
static CO_FN void stream_entry(void *arg)
{
    struct end ends[2], readers[2];

    co_make_session(*(const size_t *)arg, ends);
    for (int i = 0; i < 2; i++) {
        ends[i].done = false;
        readers[i] = (struct end) { .c = ends[i].c };
        co_start(loop_current(), send_entry, &ends[i]);
        co_start(loop_current(), receive_entry, &readers[i]);
    }
    for (int i = 0; i < 2; i++) {
        co_wait_for(&ends[i].done);
        co_wait_for(&readers[i].done);
    }
    channel_free(ends[0].c);
    channel_free(ends[1].c);
}

static void test_stream(void)
{
    static size_t sizes[] = { 4099, 65536, 1 << 20 };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        coro_run(stream_entry, &sizes[i]);
    }
}

static CO_FN void end_entry(void *arg)
{
    struct end ends[2];
    struct iovec v;
    uint8_t buf[16];

    co_make_session(65536, ends);
    g_assert_cmpint(
        channel_co_write(ends[0].c, iov_one(&v, (char[]) { "last" }, 4), 0), ==,
        0);
    channel_co_finish(ends[0].c, LIMIT_NS);
    g_assert_cmpint(channel_co_read(ends[1].c, buf, sizeof(buf), 0), ==, 4);
    g_assert_cmpint(channel_co_read(ends[1].c, buf, sizeof(buf), 0), ==, 0);
    g_assert_cmpint(channel_co_read(ends[1].c, buf, sizeof(buf), 0), ==, 0);
    g_assert_true(channel_peer_has_ended(ends[1].c));
    channel_free(ends[0].c);
    channel_free(ends[1].c);
    /* The end of the stream below alone may be somebody else's doing. */
    co_make_session(65536, ends);
    channel_free(ends[0].c);
    g_assert_cmpint(channel_co_read(ends[1].c, buf, sizeof(buf), 0), ==,
                    -ECONNRESET);
    channel_free(ends[1].c);
}

static void test_end(void)
{
    coro_run(end_entry, NULL);
}

static CO_FN void shutdown_entry(void *arg)
{
    struct end *e = arg;

    channel_shutdown(e->c);
}

static CO_FN void wait_entry(void *arg)
{
    struct end ends[2];
    static uint8_t buf[1 << 20];
    struct iovec v;

    co_make_session(4096, ends);
    g_assert_cmpint(channel_co_read(ends[0].c, buf, 1, 5 * MS), ==, -ETIMEDOUT);
    /* Still good: nothing of it was lost. */
    g_assert_cmpint(
        channel_co_write(ends[1].c, iov_one(&v, (char[]) { "x" }, 1), 0), ==,
        0);
    g_assert_cmpint(channel_co_read(ends[0].c, buf, 1, 0), ==, 1);
    /* Nobody reads. */
    g_assert_cmpint(
        channel_co_write(ends[0].c, iov_one(&v, buf, sizeof(buf)), 5 * MS), ==,
        -ETIMEDOUT);
    co_start(loop_current(), shutdown_entry, &ends[1]);
    while (channel_co_read(ends[1].c, buf, sizeof(buf), 0) > 0) {
    }
    g_assert_cmpint(channel_co_read(ends[1].c, buf, 1, 0), ==, -ESHUTDOWN);
    channel_free(ends[0].c);
    channel_free(ends[1].c);
}

static void test_wait(void)
{
    coro_run(wait_entry, NULL);
}

/* What is no TLS at all. */
static CO_FN void garbage_entry(void *arg)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        { "GET / HTTP/1.0\r\n\r\n", 18 },
        { "\x16\x03\x01\xff\xff", 5 },
        { "\x16\x03\x01\x40\x01\x01", 6 },
        { "\x15\x03\x01\x00\x02\x02\x28", 7 },
        { "\x17\x03\x03\x00\x01x", 6 },
        { "", 0 },
        { "\x16\x03\x01\x00\x04\x01\xff\xff\xff", 9 },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct graph *g = graph_new(loop_current(), no_drivers);
        struct tls_creds *tc = creds_co_make(g, "s", "server");
        struct channel *pipe[2];
        struct iovec v;
        g_autoptr(GError) err = NULL;
        struct channel *c;

        channel_new_pair(loop_current(), 65536, pipe);
        g_assert_cmpint(tls_channel_new(pipe[0], tc, NULL, &c, &err), ==, 0);
        g_assert_cmpint(
            channel_co_write(pipe[1],
                             iov_one(&v, (void *)bad[i].bytes, bad[i].len), 0),
            ==, 0);
        channel_shutdown_write(pipe[1]);
        g_assert_cmpint(tls_channel_co_handshake(c, &err), <, 0);
        g_assert_true(g_str_has_prefix(err->message, "TLS handshake failed"));
        channel_free(c);
        channel_free(pipe[1]);
        tls_creds_unref(tc);
        graph_co_free(g);
    }
}

static void test_garbage(void)
{
    coro_run(garbage_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tls/stream", test_stream);
    g_test_add_func("/tls/end", test_end);
    g_test_add_func("/tls/wait", test_wait);
    g_test_add_func("/tls/garbage", test_garbage);
    return g_test_run();
}
