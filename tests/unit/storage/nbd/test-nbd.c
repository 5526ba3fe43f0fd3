/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD client against servers that do as they should: content, many requests at
 * once, options. */
#include "nbd-server.h"

/* --- content --- */

static CO_FN void test_content_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "memory", "memory 64M");
    struct node *n = test_co_open(g, NODE_RDWR, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    g_autofree char *name = g_strdup_printf("nbd+unix://?socket=%s", s.socket);
    g_assert_cmpstr(n->filename, ==, name);
    g_assert_cmpuint(n->size, ==, 64 * MIB);
    g_assert_cmpint(test_co_write(u, 1, 0, 9 * MIB + 1), ==, 0);
    g_assert_cmpint(test_co_write(u, 2, 30 * MIB + 3, 5), ==, 0);
    test_co_expect(u, 1, 0, 9 * MIB + 1);
    test_co_expect(u, 2, 30 * MIB + 3, 5);
    test_co_expect_zero(u, 9 * MIB + 1, MIB);
    g_assert_cmpint(backend_co_zero(u, MIB, MIB, IO_MAY_UNMAP), ==, 0);
    test_co_expect_zero(u, MIB, MIB);
    test_co_expect(u, 1, 2 * MIB, MIB);
    g_assert_cmpint(backend_co_discard(u, 3 * MIB, MIB), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, 0);

    /* Scattered memory. */
    uint8_t a[1000], b[3000], want[4000];
    struct iovec v[2] = { { a, sizeof(a) }, { b, sizeof(b) } };
    struct iov iov = { .v = v, .n = 2, .len = 4000 };
    g_assert_cmpint(backend_co_preadv(u, 5000, iov, 0), ==, 0);
    test_fill(want, 1, 5000, 4000);
    g_assert_cmpmem(a, 1000, want, 1000);
    g_assert_cmpmem(b, 3000, want + 1000, 3000);
    g_assert_cmpint(backend_co_pwritev(u, 40 * MIB, iov, IO_FUA), ==, 0);
    end_co(g, u, n);
    server_kill(&s);
}

static CO_FN void test_qemu_server_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    g_autofree char *path = g_strdup(scratch("disk"));

    if (!test_have("qemu-nbd")) {
        g_test_skip("no qemu-nbd");
        graph_co_free(g);
        return;
    }
    test_make_file(path, 32 * MIB);
    test_pattern_file(path, 3, 8 * MIB, MIB);
    server_start(&s, "qemu", "qemu-nbd -t -f raw -e 4 -x disk %s", path);
    struct node *n = test_co_open(g, NODE_RDWR,
                                  "{" NBD_UNIX ", \"export\": "
                                  "\"disk\"}",
                                  s.socket);
    struct backend *u = test_co_backend(n);
    test_co_expect(u, 3, 8 * MIB, MIB);
    test_co_expect_zero(u, 0, MIB);
    struct extent e;
    g_assert_cmpint(backend_co_status(u, 0, 32 * MIB, &e), ==, 0);
    g_assert_cmpuint(e.len, ==, 8 * MIB);
    g_assert_true(e.flags & STATUS_ZERO);
    g_assert_cmpint(test_co_write(u, 4, MIB, MIB), ==, 0);
    g_assert_cmpint(backend_co_status(u, MIB, MIB, &e), ==, 0);
    g_assert_true(e.flags & STATUS_DATA);
    test_co_expect(u, 4, MIB, MIB);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    GError *err = test_co_open_fails(g, 0,
                                     "{" NBD_UNIX ", \"export\": "
                                     "\"other\"}",
                                     s.socket);
    g_assert_nonnull(strstr(err->message, "Could not open 'nbd+unix:///other"));
    g_error_free(err);
    end_co(g, u, n);
    server_kill(&s);
}

/* A server whose map ends inside blocks that it does not read in part: they
 * count as data. */
static CO_FN void test_map_inside_blocks_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    struct extent e;

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "map",
                 "eval get_size='echo 4096' block_size='echo 512 512 64k' "
                 "can_extents='exit 0' pread='head -c $3 /dev/zero' "
                 "extents='echo 0 1000; echo 1000 1000 hole,zero; "
                 "echo 2000 100; echo 2100 1996 hole,zero'");
    struct node *n = test_co_open(g, 0, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    g_assert_cmpint(backend_co_status(u, 0, 4096, &e), ==, 0);
    g_assert_cmpuint(e.len, ==, 1024);
    g_assert_true(e.flags & STATUS_DATA);
    g_assert_cmpint(backend_co_status(u, 1024, 3072, &e), ==, 0);
    g_assert_cmpuint(e.len, ==, 512);
    g_assert_true(e.flags & STATUS_ZERO);
    g_assert_cmpint(backend_co_status(u, 1536, 2560, &e), ==, 0);
    g_assert_cmpuint(e.len, ==, 1024);
    g_assert_true(e.flags & STATUS_DATA);
    g_assert_cmpint(backend_co_status(u, 2560, 1536, &e), ==, 0);
    g_assert_cmpuint(e.len, ==, 1536);
    g_assert_true(e.flags & STATUS_ZERO);
    end_co(g, u, n);
    server_kill(&s);
}

/* --- parallelism --- */

struct reader {
    struct backend *u;
    uint64_t *next, end;
    struct co_latch *latch;
    unsigned seed;
};

static CO_FN void reader_entry(void *arg)
{
    struct reader *r = arg;
    while (*r->next < r->end) {
        uint64_t off = *r->next;
        *r->next += 64 * KIB;
        test_co_expect(r->u, r->seed, off, 64 * KIB);
    }
    co_latch_done(r->latch);
}

/* Read [0, @end) by @n coroutines; returns the time, ns. */
static CO_FN uint64_t time_co_readers(struct backend *u, unsigned seed,
                                      unsigned n, uint64_t end)
{
    struct loop *l = loop_current();
    struct co_latch latch = {};
    uint64_t next = 0, start = loop_clock_ns(l);
    struct reader r = {
        .u = u,
        .next = &next,
        .end = end,
        .latch = &latch,
        .seed = seed,
    };
    for (unsigned i = 0; i < n; i++) {
        co_latch_add(&latch);
        co_start(l, reader_entry, &r);
    }
    co_latch_co_wait(&latch);
    return loop_clock_ns(l) - start;
}

/* How long the server waits before each read.  One after the other they would
 * take at least so much each on any machine; that is what the times are compared
 * with, and long, so that a slow machine is not taken for that. */
#define FAR_MS 250
#define FAR_NS (FAR_MS * UINT64_C(1000000))

/* 64 in flight take a few round trips, not 128. */
static CO_FN void test_slow_link_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    g_autofree char *path = g_strdup(scratch("slow.img"));

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    test_make_file(path, 8 * MIB);
    test_pattern_file(path, 5, 0, 8 * MIB);
    server_start(&s, "slow",
                 "-t 64 --filter=delay file %s rdelay=%dms "
                 "delay-open=50ms",
                 path, FAR_MS);
    struct node *n = test_co_open(g, 0, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    uint64_t ns = time_co_readers(u, 5, 64, 8 * MIB);
    g_test_message("8 MiB in 64 KiB reads, %d ms each: %.0f ms", FAR_MS,
                   (double)ns / 1e6);
    g_assert_cmpuint(ns, <, 128 * FAR_NS / 4);

    /* One large read is cut up and runs side by side, too. */
    struct loop *l = loop_current();
    uint64_t start = loop_clock_ns(l);
    test_co_expect(u, 5, 0, 8 * MIB);
    ns = loop_clock_ns(l) - start;
    g_test_message("8 MiB in one: %.0f ms", (double)ns / 1e6);
    g_assert_cmpuint(ns, <, 8 * FAR_NS);
    end_co(g, u, n);
    server_kill(&s);
}

/* Walking 16 TiB with a little data far away takes few round trips. */
static CO_FN void test_map_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    g_autofree char *path = g_strdup(scratch("sparse.img"));

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    test_make_file(path, 64 * GIB);
    test_pattern_file(path, 6, 10 * GIB, MIB);
    test_pattern_file(path, 6, 40 * GIB, MIB);
    server_start(&s, "sparse", "--filter=delay file %s delay-extents=20ms",
                 path);
    struct node *n = test_co_open(g, 0, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    struct loop *l = loop_current();
    uint64_t start = loop_clock_ns(l), data = 0;
    unsigned calls = 0;
    for (uint64_t off = 0; off < n->size; calls++) {
        struct extent e;
        g_assert_cmpint(
            backend_co_status(u, off, MIN(n->size - off, 512 * MIB), &e), ==,
            0);
        data += e.flags & STATUS_DATA ? e.len : 0;
        off += e.len;
    }
    g_test_message("%u calls, %.0f ms", calls,
                   (double)(loop_clock_ns(l) - start) / 1e6);
    g_assert_cmpuint(data, ==, 2 * MIB);
    g_assert_cmpuint(calls, >, 100);
    /* 64 GiB are 17 questions of 4 GiB; a call each would take 2.5 s. */
    g_assert_cmpuint(loop_clock_ns(l) - start, <, 1500 * UINT64_C(1000000));
    end_co(g, u, n);
    server_kill(&s);
}

/* --- options --- */

static CO_FN void expect_co_refused(struct graph *g, unsigned flags,
                                    const char *json, const char *text)
{
    GError *err = test_co_open_fails(g, flags, "%s", json);
    if (!strstr(err->message, text)) {
        g_error("\"%s\" does not say \"%s\"", err->message, text);
    }
    g_error_free(err);
}

static CO_FN void test_options_entry(void *arg)
{
    struct graph *g = test_graph();

    expect_co_refused(g, 0, "{\"driver\": \"nbd\"}", "'server' is missing");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"path\": "
                      "\"/x\"}}",
                      "'server.type' is missing");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"type\": "
                      "\"vsock\", \"path\": \"/x\"}}",
                      "does not accept value 'vsock'");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"type\": "
                      "\"unix\", \"path\": \"/x\", \"more\": 1}}",
                      "'more' is unexpected");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"type\": "
                      "\"unix\", \"path\": \"/x\"}, \"tls-creds\": \"t\"}",
                      "No TLS credentials with id 't'");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"type\": "
                      "\"unix\", \"path\": \"/x\"}, \"connections\": 17}",
                      "expects 1 to 16");
    expect_co_refused(g, 0,
                      "{\"driver\": \"nbd\", \"server\": {\"type\": "
                      "\"unix\", \"path\": \"/nonexistent/s\"}}",
                      "No such file or directory");
    graph_co_free(g);
}

static CO_FN void test_abilities_entry(void *arg)
{
    struct graph *g = test_graph();
    struct server s;
    g_autofree char *json = NULL, *quick = NULL, *ro = NULL;

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    /* Without flush: volatile, unless the caller says that is fine. */
    server_start(&s, "plain",
                 "--filter=fua --filter=nozero eval "
                 "get_size='echo 1048576' pread='dd if=/dev/zero bs=$3 "
                 "count=1 2>/dev/null' pwrite='cat >/dev/null' "
                 "can_write='exit 0' can_flush='exit 3' zeromode=none");
    json = g_strdup_printf("{" NBD_UNIX "}", s.socket);
    expect_co_refused(g, NODE_RDWR, json, "cannot flush");
    struct node *n = test_co_open(g, NODE_RDWR,
                                  "{" NBD_UNIX ", \"cache\": "
                                  "{\"no-flush\": true}}",
                                  s.socket);
    struct backend *u = test_co_backend(n);
    g_assert_cmpint(test_co_write(u, 1, 0, 4096), ==, 0);
    g_assert_cmpint(backend_co_zero(u, 0, 8192, IO_MAY_UNMAP), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    backend_co_free(u);
    node_co_unref(n);
    server_kill(&s);

    server_start(&s, "readonly", "-r memory 1M");
    ro = g_strdup_printf("{" NBD_UNIX "}", s.socket);
    expect_co_refused(g, NODE_RDWR, ro, "is read-only");
    n = test_co_open(g, 0, "{" NBD_UNIX "}", s.socket);
    node_co_unref(n);
    server_kill(&s);

    server_start(&s, "empty", "memory 0");
    quick = g_strdup_printf("{" NBD_UNIX "}", s.socket);
    n = test_co_open(g, 0, "%s", quick);
    g_assert_cmpint(n->size, ==, 0);
    node_co_unref(n);
    server_kill(&s);
    graph_co_free(g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    static const struct engine_test tests[] = {
        { "options", test_options_entry },
        { "content", test_content_entry },
        { "qemu-server", test_qemu_server_entry },
        { "slow-link", test_slow_link_entry },
        { "map", test_map_entry },
        { "map-inside-blocks", test_map_inside_blocks_entry },
        { "abilities", test_abilities_entry },
    };

    add_tests_for_real_engines("/storage/nbd", tests, G_N_ELEMENTS(tests));
    return g_test_run();
}
