/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD client against servers that fail, vanish, come back late or changed, and
 * lie. */
#include "nbd-server.h"

/* --- failures --- */

/* An error of the server is that request's alone. */
static CO_FN void test_server_errors_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    g_autofree char *trigger = g_strdup(scratch("trigger"));

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    unlink(trigger);
    server_start(&s, "errors",
                 "--filter=error memory 16M "
                 "error-pread=EIO error-pread-rate=100%% "
                 "error-pwrite=ENOSPC error-pwrite-rate=100%% "
                 "error-file=%s",
                 trigger);
    struct node *n = test_co_open(g, NODE_RDWR, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    uint8_t buf[512];
    struct iovec v;
    g_assert_cmpint(test_co_write(u, 1, 0, 4 * MIB), ==, 0);
    test_make_file(trigger, 0);
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==,
                    -EIO);
    g_assert_cmpint(test_co_write(u, 2, 0, 512), ==, -ENOSPC);
    g_assert_cmpint(test_co_write(u, 2, 0, 4 * MIB), ==, -ENOSPC);
    unlink(trigger);
    test_co_expect(u, 1, MIB, MIB);
    end_co(g, u, n);
    server_kill(&s);
}

struct one_read {
    struct backend *u;
    struct co_latch *latch;
    int ret;
};

static CO_FN void one_read_entry(void *arg)
{
    struct one_read *r = arg;
    g_autofree uint8_t *buf = g_malloc(2 * MIB);
    struct iovec v;
    r->ret = backend_co_preadv(r->u, 0, iov_one(&v, buf, 2 * MIB), 0);
    co_latch_done(r->latch);
}

/* The server dies with requests in flight: each fails, none hangs. */
static CO_FN void test_killed_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    struct one_read reads[32];
    struct co_latch latch = {};

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "killed", "--filter=delay memory 16M rdelay=10");
    struct node *n = test_co_open(
        g, 0, "{" NBD_UNIX ", \"reconnect-delay\": 0}", s.socket);
    struct backend *u = test_co_backend(n);
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        reads[i] = (struct one_read) { u, &latch, 1 };
        co_latch_add(&latch);
        co_start(loop_current(), one_read_entry, &reads[i]);
    }
    co_sleep(UINT64_C(100000000));
    server_kill(&s);
    co_latch_co_wait(&latch);
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_assert_cmpint(reads[i].ret, ==, -EIO);
    }
    end_co(g, u, n);
}

/* With a delay, requests wait for the server and go on. */
static CO_FN void test_reconnect_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    struct one_read r;
    struct co_latch latch = {};
    g_autofree char *path = g_strdup(scratch("back.img"));

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    test_make_file(path, 4 * MIB);
    test_pattern_file(path, 7, 0, 4 * MIB);
    server_start(&s, "back", "file %s", path);
    struct node *n = test_co_open(
        g, NODE_RDWR, "{" NBD_UNIX ", \"reconnect-delay\": 300}", s.socket);
    struct backend *u = test_co_backend(n);
    test_co_expect(u, 7, 0, MIB);
    g_assert_cmpint(test_co_write(u, 8, 0, MIB), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    server_kill(&s);
    r = (struct one_read) { u, &latch, 1 };
    co_latch_add(&latch);
    co_start(loop_current(), one_read_entry, &r);
    co_sleep(UINT64_C(200000000));
    g_assert_cmpint(r.ret, ==, 1);
    server_start(&s, "back", "file %s", path);
    co_latch_co_wait(&latch);
    g_assert_cmpint(r.ret, ==, 0);
    test_co_expect(u, 8, 0, MIB);
    g_assert_cmpint(backend_co_flush(u), ==, 0);

    /* Lost with a write that was not flushed: flushes fail from now on. */
    g_assert_cmpint(test_co_write(u, 9, 0, MIB), ==, 0);
    server_kill(&s);
    server_start(&s, "back", "file %s", path);
    test_co_expect(u, 7, MIB, MIB);
    g_assert_cmpint(test_co_write(u, 9, 0, 512), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, -EIO);
    g_assert_cmpint(backend_co_flush(u), ==, -EIO);
    end_co(g, u, n);
    server_kill(&s);
}

/* Long after the loss, with long pauses between attempts, a request has one made
 * at once. */
static CO_FN void test_back_late_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    uint8_t buf[512];
    struct iovec v;

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "late", "memory 1M");
    struct node *n = test_co_open(
        g, 0, "{" NBD_UNIX ", \"reconnect-delay\": 0}", s.socket);
    struct backend *u = test_co_backend(n);
    server_kill(&s);
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==,
                    -EIO);
    /* 50 ms, doubled each time: nobody is about to try. */
    co_sleep(UINT64_C(2000000000));
    server_start(&s, "late", "memory 1M");
    test_co_expect_zero(u, 0, 512);
    end_co(g, u, n);
    server_kill(&s);
}

/* A server that does not answer: what waits is ended, and made again. */
static CO_FN void test_let_go_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    struct one_read r;
    struct co_latch latch = {};

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "hangs", "memory 16M");
    struct node *n = test_co_open(g, 0, "{" NBD_UNIX "}", s.socket);
    struct backend *u = test_co_backend(n);
    kill(s.pid, SIGSTOP);
    r = (struct one_read) { u, &latch, 1 };
    co_latch_add(&latch);
    co_start(loop_current(), one_read_entry, &r);
    /* The drain is over although the read is not. */
    node_co_drain_begin(n);
    g_assert_cmpint(r.ret, ==, 1);
    g_assert_cmpuint(backend_get_stats(u)->in_flight, ==, 0);
    node_drain_end(n);
    kill(s.pid, SIGCONT);
    co_latch_co_wait(&latch);
    g_assert_cmpint(r.ret, ==, 0);
    g_assert_cmpuint(backend_get_stats(u)->failed[ACCT_READ], ==, 0);
    g_assert_cmpuint(backend_get_stats(u)->ops[ACCT_READ], ==, 1);

    /* Given up for good. */
    kill(s.pid, SIGSTOP);
    co_latch_add(&latch);
    co_start(loop_current(), one_read_entry, &r);
    co_relax();
    n->drv->yank(n);
    co_latch_co_wait(&latch);
    g_assert_cmpint(r.ret, ==, -ECONNABORTED);
    end_co(g, u, n);
    server_kill(&s);
}

/* Another size after the reconnect is another disk. */
static CO_FN void test_changed_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    GError *err = NULL;
    uint8_t buf[512];
    struct iovec v;

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "changed", "memory 4M");
    struct node *n = test_co_open(
        g, 0, "{" NBD_UNIX ", \"reconnect-delay\": 300}", s.socket);
    struct backend *u = test_co_backend(n);
    test_co_expect_zero(u, 0, MIB);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, 0);
    server_kill(&s);
    server_start(&s, "changed", "memory 5M");
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==,
                    -EIO);
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==,
                    -EIO);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, -ESTALE);
    g_assert_nonnull(strstr(err->message, "size of the export changed"));
    g_error_free(err);
    end_co(g, u, n);
    server_kill(&s);
}

/* Other content under the same size, of an export that is read-only, is another
 * disk, whatever is read first; the same content is not. */
static CO_FN void test_content_entry(void *arg)
{
    struct server s;
    struct graph *g = test_graph();
    GError *err = NULL;
    uint8_t buf[4096];
    struct iovec v;

    if (!have_nbdkit()) {
        graph_co_free(g);
        return;
    }
    server_start(&s, "content", "-r pattern 4M");
    struct node *n = test_co_open(
        g, 0, "{" NBD_UNIX ", \"reconnect-delay\": 300}", s.socket);
    struct backend *u = test_co_backend(n);
    g_assert_cmpint(backend_co_preadv(u, MIB, iov_one(&v, buf, 4096), 0), ==,
                    0);
    server_kill(&s);
    server_start(&s, "content", "-r pattern 4M");
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 4096), 0), ==, 0);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, 0);
    server_kill(&s);
    server_start(&s, "content", "-r memory 4M");
    /* Of the new version nobody gets a byte, elsewhere neither. */
    memset(buf, 0xa5, sizeof(buf));
    g_assert_cmpint(backend_co_preadv(u, 2 * MIB, iov_one(&v, buf, 4096), 0),
                    ==, -EIO);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, -ESTALE);
    g_assert_nonnull(strstr(err->message, "content of the export changed"));
    g_error_free(err);
    end_co(g, u, n);
    server_kill(&s);
}

/* The server closes every connection after so many bytes, from the first byte
 * of the handshake on. */
static CO_FN void test_cut_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("cut"));
    unsigned opened = 0, refused = 0;

    /* What a server says up to the reply of a read: taken apart from a real
     * one by a proxy that lets @cut bytes through. */
    if (!have_nbdkit()) {
        return;
    }
    struct server s;
    server_start(&s, "whole", "memory 1M");
    for (unsigned cut = 0; cut < 700; cut += 1 + cut / 8) {
        struct graph *g = test_graph();
        GError *err = NULL;
        struct node *n;
        int status;

        unlink(path);
        g_autofree char *script = g_strdup_printf(
            "import socket,sys,threading\n"
            "l=socket.socket(socket.AF_UNIX); l.bind('%s'); l.listen(1)\n"
            "sys.stdout.write('x'); sys.stdout.flush()\n"
            "c,_=l.accept(); l.close()\n"
            "u=socket.socket(socket.AF_UNIX); u.connect('%s')\n"
            "def up():\n"
            "  while True:\n"
            "    d=c.recv(65536)\n"
            "    if not d: break\n"
            "    try: u.sendall(d)\n"
            "    except OSError: break\n"
            "threading.Thread(target=up,daemon=True).start()\n"
            "left=%u\n"
            "while left>0:\n"
            "  d=u.recv(left)\n"
            "  if not d: break\n"
            "  c.sendall(d); left-=len(d)\n",
            path, s.socket, cut);
        char *argv[] = { (char *)"/usr/bin/python3", (char *)"-c", script,
                         NULL };
        GPid pid;
        int out;
        char c;
        g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                                 die_with_parent, NULL, &pid, NULL, &out, NULL,
                                 &err);
        g_assert_no_error(err);
        g_assert_cmpint(read(out, &c, 1), ==, 1);
        close(out);
        json_t *o = json_pack("{s:s, s:{s:s, s:s}, s:i, s:i}", "driver", "nbd",
                              "server", "type", "unix", "path", path,
                              "connections", 1, "reconnect-delay", 0);
        int ret = node_co_open(g, o, 0, &n, &err);
        json_decref(o);
        if (ret < 0) {
            refused++;
            g_assert_nonnull(err);
            g_error_free(err);
        } else {
            uint8_t buf[4096];
            struct iovec v;
            struct backend *u = test_co_backend(n);
            opened++;
            ret = backend_co_preadv(u, 0, iov_one(&v, buf, 4096), 0);
            g_assert_cmpint(ret, ==, -EIO);
            backend_co_free(u);
            node_co_unref(n);
        }
        graph_co_free(g);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    g_test_message("%u refused, %u opened", refused, opened);
    g_assert_cmpuint(refused, >, 5);
    g_assert_cmpuint(opened, >, 2);
    server_kill(&s);
}

/* --- servers that lie --- */

enum expect { OPEN_FAILS, READ_FAILS, STATUS_SAFE };
static const struct {
    const char *name;
    enum expect expect;
} lies[] = {
    { "size-2^63", OPEN_FAILS },
    { "size-max", OPEN_FAILS },
    { "data-after", READ_FAILS },
    { "data-double", READ_FAILS },
    { "hole-outside", READ_FAILS },
    { "wrong-cookie", READ_FAILS },
    { "error-text", READ_FAILS },
    { "bad-magic", READ_FAILS },
    { "status-zero-length", STATUS_SAFE },
    { "status-hole-past-end", STATUS_SAFE },
    { "status-hole-sum", STATUS_SAFE },
    { "status-none", STATUS_SAFE }, /* dropped, and connected to again */
    { "status-hole-later-zero", STATUS_SAFE },
};

static CO_FN void check_co_lie(struct graph *g, const char *path,
                               enum expect expect)
{
    struct iovec v;

    if (expect == OPEN_FAILS) {
        GError *err = test_co_open_fails(g, 0, "{" NBD_UNIX "}", path);
        g_assert_nonnull(strstr(err->message, "Could not open"));
        g_error_free(err);
        return;
    }
    struct node *n = test_co_open(
        g, 0, "{" NBD_UNIX ", \"reconnect-delay\": 0}", path);
    struct backend *u = test_co_backend(n);
    /* Guards around what is read into. */
    g_autofree uint8_t *buf = g_malloc0(3 * 8192);
    int ret = 0;
    if (expect == READ_FAILS) {
        ret = backend_co_preadv(u, 4096, iov_one(&v, buf + 8192, 8192), 0);
        g_assert_cmpint(ret, <, 0);
    } else {
        for (uint64_t off = 0; off < n->size;) {
            struct extent e;
            g_assert_cmpint(backend_co_status(u, off, n->size - off, &e), ==,
                            0);
            g_assert_cmpuint(e.len, >, 0);
            g_assert_cmpuint(e.len, <=, n->size - off);
            off += e.len;
        }
        ret = backend_co_preadv(u, 4096, iov_one(&v, buf + 8192, 8192), 0);
        g_assert_cmpint(ret, ==, 0);
    }
    for (unsigned i = 0; i < 8192; i++) {
        g_assert_cmpuint(buf[i], ==, 0);
        g_assert_cmpuint(buf[2 * 8192 + i], ==, 0);
    }
    backend_co_free(u);
    node_co_unref(n);
}

static CO_FN void test_lies_entry(void *arg)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(lies); i++) {
        g_autofree char *path = g_strdup(scratch("hostile"));
        struct graph *g = test_graph();
        GError *err = NULL;
        GPid pid;
        char *argv[] = { (char *)"/usr/bin/python3", (char *)NBD_LIAR, path,
                         (char *)lies[i].name, NULL };

        unlink(path);
        g_test_message("%s", lies[i].name);
        g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                      die_with_parent, NULL, &pid, &err);
        g_assert_no_error(err);
        for (unsigned k = 0; !server_answers(path); k++) {
            g_assert_cmpuint(k, <, 30000);
            g_usleep(10000);
        }
        check_co_lie(g, path, lies[i].expect);
        graph_co_free(g);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    static const struct engine_test tests[] = {
        { "server-errors", test_server_errors_entry },
        { "killed", test_killed_entry },
        { "reconnect", test_reconnect_entry },
        { "content", test_content_entry },
        { "back-late", test_back_late_entry },
        { "let-go", test_let_go_entry },
        { "changed", test_changed_entry },
        { "lies", test_lies_entry },
        { "cut", test_cut_entry },
    };

    add_tests_for_real_engines("/storage/nbd", tests, G_N_ELEMENTS(tests));
    return g_test_run();
}
