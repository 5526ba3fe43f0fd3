/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file driver and raw, through the graph, on real files: content, growth,
 * holes, direct I/O, refusals, image locks against QEMU's tools.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph/driver.h"
#include "util.h"

#define QEMU_IO_WRITES "qemu-io -f raw -c 'write 512 512'"

#define KIB 1024u
#define MIB (1024u * 1024)

static CO_FN void end_co_graph(struct graph *g, struct backend *u,
                               struct node *n)
{
    backend_co_free(u);
    if (n) {
        node_co_unref(n);
    }
    graph_co_free(g);
}

static CO_FN void check_co_content(bool direct)
{
    g_autofree char *path = g_strdup(scratch("content"));
    struct graph *g = test_graph();

    test_make_file(path, MIB + 100);
    struct node *n = test_co_open(
        g, NODE_RDWR,
        "{\"driver\": \"raw\", \"file\": {\"driver\": \"file\", "
        "\"filename\": \"%s\", \"cache\": {\"direct\": %s}}}",
        path, direct ? "true" : "false");
    struct backend *u = test_co_backend(n);
    g_assert_cmpuint(n->size, ==, MIB + 100);
    g_assert_cmpint(test_co_write(u, 1, 0, 64 * KIB), ==, 0);
    g_assert_cmpint(test_co_write(u, 1, 511, 3), ==, 0);
    g_assert_cmpint(test_co_write(u, 2, 100001, 12345), ==, 0);
    g_assert_cmpint(test_co_write(u, 3, MIB - 5, 105), ==, 0);
    test_co_expect(u, 1, 0, 64 * KIB);
    test_co_expect_zero(u, 64 * KIB, 100001 - 64 * KIB);
    test_co_expect(u, 2, 100001, 12345);
    test_co_expect(u, 3, MIB - 5, 105);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    end_co_graph(g, u, n);
}

static CO_FN void test_content_entry(void *arg)
{
    check_co_content(false);
}

static CO_FN void test_direct_entry(void *arg)
{
    int fd = open(scratch("probe"), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC,
                  0600);
    if (fd < 0) {
        g_test_skip("no O_DIRECT in the scratch directory");
        return;
    }
    close(fd);
    check_co_content(true);
}

static CO_FN void test_grow_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("grow"));
    struct graph *g = test_graph();
    GError *err = NULL;
    struct stat st;

    test_make_file(path, 0);
    struct node *n = test_co_open(
        g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    struct backend *u = test_co_backend(n);
    g_assert_cmpuint(n->size, ==, 0);

    /* Drivers may write past the end. */
    uint8_t buf[1000];
    struct iovec v;
    test_fill(buf, 4, 5000, sizeof(buf));
    g_assert_cmpint(node_co_pwritev(n, 5000, iov_one(&v, buf, sizeof(buf)), 0),
                    ==, 0);
    g_assert_cmpuint(n->size, ==, 6000);
    test_co_expect_zero(u, 0, 5000);
    test_co_expect(u, 4, 5000, 1000);

    /* Zeroes past the end make it grow, too, and nothing shrinks it. */
    g_assert_cmpint(node_co_zero(n, 5500, 10000, IO_MAY_UNMAP), ==, 0);
    g_assert_cmpuint(n->size, ==, 15500);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 15500);
    test_co_expect(u, 4, 5000, 500);
    test_co_expect_zero(u, 5500, 10000);

    g_assert_cmpint(node_co_truncate(n, 5100, &err), ==, 0);
    g_assert_cmpint(node_co_truncate(n, 20000, &err), ==, 0);
    test_co_expect(u, 4, 5000, 100);
    test_co_expect_zero(u, 5100, 14900);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 20000);
    end_co_graph(g, u, n);
}

/* --- holes --- */

/* All of [@off, @end) is @flag, and what follows is not. */
static CO_FN void expect_co_status(struct backend *u, uint64_t off,
                                   unsigned flag, uint64_t end)
{
    const uint64_t size = backend_node(u)->size;
    struct extent e = { .flags = flag };
    while (off < size) {
        g_assert_cmpint(backend_co_status(u, off, size - off, &e), ==, 0);
        if (!(e.flags & flag)) {
            break;
        }
        g_assert_cmpuint(e.flags & (STATUS_DATA | STATUS_ZERO), ==, flag);
        off += e.len;
    }
    g_assert_cmpuint(off, ==, end);
}

static CO_FN void test_holes_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("holes"));
    struct graph *g = test_graph();

    test_make_file(path, 8 * MIB);
    test_pattern_file(path, 5, 2 * MIB, MIB);
    struct node *n = test_co_open(
        g, NODE_RDWR,
        "{\"driver\": \"file\", \"filename\": \"%s\", \"discard\": \"unmap\"}",
        path);
    struct backend *u = test_co_backend(n);
    struct extent e;
    g_assert_cmpint(backend_co_status(u, 0, 8 * MIB, &e), ==, 0);
    if (e.len == 8 * MIB) {
        g_test_skip("the scratch directory's file system has no holes");
        end_co_graph(g, u, n);
        return;
    }
    expect_co_status(u, 0, STATUS_ZERO, 2 * MIB);
    expect_co_status(u, 2 * MIB, STATUS_DATA, 3 * MIB);
    expect_co_status(u, 3 * MIB, STATUS_ZERO, 8 * MIB);
    expect_co_status(u, 4 * MIB, STATUS_ZERO, 8 * MIB);

    /* A write turns a known hole into data. */
    g_assert_cmpint(test_co_write(u, 6, 5 * MIB, MIB), ==, 0);
    expect_co_status(u, 3 * MIB, STATUS_ZERO, 5 * MIB);
    expect_co_status(u, 5 * MIB, STATUS_DATA, 6 * MIB);

    /* Discard and zero turn known data into a hole. */
    expect_co_status(u, 2 * MIB, STATUS_DATA, 3 * MIB);
    g_assert_cmpint(backend_co_discard(u, 2 * MIB, MIB), ==, 0);
    expect_co_status(u, 0, STATUS_ZERO, 5 * MIB);
    test_co_expect_zero(u, 2 * MIB, MIB);
    g_assert_cmpint(backend_co_zero(u, 5 * MIB, MIB, IO_MAY_UNMAP), ==, 0);
    expect_co_status(u, 0, STATUS_ZERO, 8 * MIB);

    /* Without unmap it reads as zeroes, whatever the map says. */
    g_assert_cmpint(test_co_write(u, 7, MIB, MIB), ==, 0);
    g_assert_cmpint(backend_co_zero(u, MIB + 100, 1000, 0), ==, 0);
    test_co_expect(u, 7, MIB, 100);
    test_co_expect_zero(u, MIB + 100, 1000);
    test_co_expect(u, 7, MIB + 1100, MIB - 1100);
    end_co_graph(g, u, n);
}

static CO_FN void test_no_discard_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("ignore"));
    struct graph *g = test_graph();

    test_make_file(path, MIB);
    struct node *n = test_co_open(
        g, NODE_RDWR,
        "{\"driver\": \"file\", \"filename\": \"%s\", \"discard\": "
        "\"ignore\"}",
        path);
    struct backend *u = test_co_backend(n);
    g_assert_cmpint(test_co_write(u, 8, 0, MIB), ==, 0);
    g_assert_cmpint(backend_co_discard(u, 0, MIB), ==, 0);
    test_co_expect(u, 8, 0, MIB);
    end_co_graph(g, u, n);
}

/* --- refusals --- */

static CO_FN void test_refusals_entry(void *arg)
{
    struct graph *g = test_graph();
    g_autofree char *fifo = g_strdup(scratch("fifo"));
    GError *err;

    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"%s\"}",
                             scratch("missing"));
    g_autofree char *want = g_strdup_printf("Could not open '%s': No such file "
                                            "or directory",
                                            scratch("missing"));
    g_assert_cmpstr(err->message, ==, want);
    g_error_free(err);

    unlink(fifo);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"%s\"}",
                             fifo);
    g_assert_nonnull(strstr(err->message, "it is a FIFO"));
    g_error_free(err);
    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"/dev/null\"}");
    g_assert_nonnull(strstr(err->message, "a character device"));
    g_error_free(err);
    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"/\"}");
    g_assert_nonnull(strstr(err->message, "a directory"));
    g_error_free(err);
    test_make_file(scratch("plain"), 10);
    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"host_device\", "
                             "\"filename\": \"%s\"}",
                             scratch("plain"));
    g_assert_nonnull(strstr(err->message, "only block devices"));
    g_error_free(err);
    err = test_co_open_fails(g, 0, "{\"driver\": \"file\"}");
    g_assert_cmpstr(err->message, ==, "Parameter 'filename' is missing");
    g_error_free(err);
    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"%s\", \"locking\": \"maybe\"}",
                             scratch("plain"));
    g_autofree char *message = err_dup_message(err);
    g_assert_cmpstr(message, ==,
                    "Parameter 'locking' does not accept value 'maybe'");
    g_error_free(err);
    graph_co_free(g);
}

/* --- raw --- */

static CO_FN void test_window_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("window"));
    struct graph *g = test_graph();
    GError *err;

    test_make_file(path, 0);
    test_pattern_file(path, 9, 0, 64 * KIB);
    struct node *n = test_co_open(
        g, NODE_RDWR,
        "{\"driver\": \"raw\", \"offset\": 1000, \"size\": 5000, \"file\": "
        "{\"driver\": \"file\", \"filename\": \"%s\"}}",
        path);
    struct backend *u = test_co_backend(n);
    g_assert_cmpuint(n->size, ==, 5000);
    uint8_t buf[5000], want[5000];
    struct iovec v;
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 5000), 0), ==, 0);
    test_fill(want, 9, 1000, 5000);
    g_assert_cmpmem(buf, 5000, want, 5000);
    g_assert_cmpint(backend_co_preadv(u, 1, iov_one(&v, buf, 5000), 0), <, 0);
    g_assert_cmpint(test_co_write(u, 10, 4990, 10), ==, 0);
    g_assert_cmpint(test_co_write(u, 10, 4990, 11), <, 0);
    g_assert_cmpint(backend_co_zero(u, 0, 100, 0), ==, 0);
    struct extent e;
    g_assert_cmpint(backend_co_status(u, 200, 100, &e), ==, 0);
    g_assert_cmpuint(e.map_offset, ==, 1200);
    g_assert_cmpuint(e.len, ==, 100);
    end_co_graph(g, u, n);

    g_autofree char *data = NULL;
    gsize len;
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    g_assert_cmpuint(len, ==, 64 * KIB);
    for (unsigned i = 0; i < len; i++) {
        uint8_t b = i >= 1000 && i < 1100   ? 0
                    : i >= 5990 && i < 6000 ? test_byte(10, i - 1000)
                                            : test_byte(9, i);
        g_assert_cmpuint((uint8_t)data[i], ==, b);
    }

    g = test_graph();
    err = test_co_open_fails(
        g, 0,
        "{\"driver\": \"raw\", \"offset\": 65537, "
        "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}",
        path);
    g_assert_cmpstr(err->message, ==,
                    "Offset (65537) cannot be greater than "
                    "size of the containing file (65536)");
    g_error_free(err);
    err = test_co_open_fails(
        g, 0,
        "{\"driver\": \"raw\", \"offset\": 512, "
        "\"size\": 65536, \"file\": {\"driver\": \"file\", \"filename\": "
        "\"%s\"}}",
        path);
    g_assert_nonnull(strstr(err->message,
                            "The sum of offset (512) and size "
                            "(65536) has to be smaller or equal"));
    g_error_free(err);
    graph_co_free(g);
}

static CO_FN void test_create_entry(void *arg)
{
    static const char *const how[] = { "off", "falloc", "full" };

    for (unsigned i = 0; i < G_N_ELEMENTS(how); i++) {
        g_autofree char *path = g_strdup(scratch(how[i]));
        struct graph *g = test_graph();
        GError *err = NULL;
        struct stat st;

        test_make_file(path, 0);
        struct node *n = test_co_open(
            g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
        const struct node_driver *raw = graph_find_driver(g, "raw");
        json_t *j = json_pack("{s:i, s:s}", "size", 3 * MIB + 512,
                              "preallocation", how[i]);
        struct opts *o = opts_new(j);
        struct backend *u = test_co_backend(n);
        raw->co_create(n, o, &err);
        g_assert_no_error(err);
        g_assert_cmpint(opts_finish(o, &err), ==, 0);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, 3 * MIB + 512);
        if (i > 0) {
            g_assert_cmpint((int64_t)st.st_blocks * 512, >=, 3 * MIB);
        }
        opts_free(o);
        json_decref(j);
        end_co_graph(g, u, n);
    }
}

/* --- identity, reopen, locks --- */

static CO_FN void test_identity_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("identity"));
    struct graph *g = test_graph();
    GError *err = NULL;

    test_make_file(path, MIB);
    struct node *n = test_co_open(
        g, 0, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    struct backend *u = test_co_backend(n);
    test_co_expect_zero(u, 0, MIB);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, 0);
    g_usleep(20000); /* time stamps have the granularity of a tick */
    test_pattern_file(path, 1, 0, 512);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, -ESTALE);
    g_assert_nonnull(strstr(err->message, "changed while it was in use"));
    g_clear_error(&err);
    test_pattern_file(path, 1, MIB, 512);
    g_assert_cmpint(n->drv->co_check_identity(n, &err), ==, -ESTALE);
    g_assert_nonnull(strstr(err->message, "The size of"));
    g_clear_error(&err);
    end_co_graph(g, u, n);
}

/* Two nodes of one process conflict like two processes do. */
static CO_FN void test_two_writers_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("writers"));
    struct graph *g = test_graph();
    GError *err = NULL;
    struct backend *second;

    test_make_file(path, MIB);
    struct node *n = test_co_open(
        g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    struct backend *u = test_co_backend(n);
    struct node *m = test_co_open(
        g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    int ret = backend_co_new(m, "second", PERM_WRITE, PERM_ALL, NULL, NULL,
                             &second, &err);
    g_assert_cmpint(ret, ==, -EAGAIN);
    g_autofree char *message = err_dup_message(err);
    g_assert_cmpstr(message, ==, "Failed to get \"write\" lock");
    g_autofree char *hint = g_strdup_printf("Is another process using the "
                                            "image [%s]?",
                                            path);
    g_assert_cmpstr(err_get_hint(err), ==, hint);
    g_clear_error(&err);

    /* Readers who let others write are let in; who does not, is not. */
    ret = backend_co_new(m, "second", PERM_CONSISTENT_READ, PERM_ALL, NULL,
                         NULL, &second, &err);
    g_assert_no_error(err);
    backend_co_free(second);
    ret = backend_co_new(m, "second", PERM_CONSISTENT_READ,
                         PERM_ALL & ~(unsigned)PERM_WRITE, NULL, NULL, &second,
                         &err);
    g_assert_cmpint(ret, ==, -EAGAIN);
    g_assert_true(
        g_str_has_prefix(err->message, "Failed to get shared \"write\" lock"));
    g_clear_error(&err);

    /* When the first is gone, the second may. */
    backend_co_free(u);
    backend_co_new(m, "second", PERM_WRITE, PERM_CONSISTENT_READ, NULL, NULL,
                   &second, &err);
    g_assert_no_error(err);
    node_co_unref(n);
    end_co_graph(g, second, m);
}

static CO_FN void test_reopen_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("reopen"));
    struct graph *g = test_graph();
    GError *err = NULL;
    int status;

    test_make_file(path, MIB);
    struct node *n = test_co_open(
        g, 0, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    struct backend *u;
    backend_co_new(n, "reader", PERM_CONSISTENT_READ,
                   PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, NULL, NULL, &u,
                   &err);
    g_assert_no_error(err);
    node_co_set_read_only(n, false, &err);
    g_assert_no_error(err);
    g_assert_cmpint(backend_co_set_perms(u, PERM_WRITE | PERM_CONSISTENT_READ,
                                         PERM_CONSISTENT_READ, &err),
                    ==, 0);
    g_assert_cmpint(test_co_write(u, 11, 0, 4096), ==, 0);
    test_co_expect(u, 11, 0, 4096);
    if (test_have("qemu-io")) {
        /* The locks went along. */
        g_free(test_shell(&status, QEMU_IO_WRITES " %s", path));
        g_assert_cmpint(status, !=, 0);
    }
    end_co_graph(g, u, n);
}

/* Our locks, seen by QEMU's tools. */
static CO_FN void test_locks_ours_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("ours.qcow2"));
    struct graph *g = test_graph();
    int status;

    if (!test_have("qemu-img") || !test_have("qemu-io")) {
        g_test_skip("no qemu-img or no qemu-io");
        graph_co_free(g);
        return;
    }
    /* QEMU's readers of a format with metadata bear no writer. */
    g_free(test_shell(&status, "qemu-img create -f qcow2 %s 1M", path));
    g_assert_cmpint(status, ==, 0);
    struct node *n = test_co_open(
        g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    struct backend *u = test_co_backend(n);
    g_autofree char *out = test_shell(&status, "qemu-img info %s", path);
    g_assert_cmpint(status, !=, 0);
    g_assert_nonnull(strstr(out, "Failed to get shared \"write\" lock"));
    g_free(test_shell(&status, "qemu-img info -U %s", path));
    g_assert_cmpint(status, ==, 0);
    g_autofree char *io = test_shell(&status, QEMU_IO_WRITES " %s", path);
    g_assert_nonnull(strstr(io, "Failed to get \"write\" lock"));
    backend_co_free(u);

    /* A node that nobody uses holds nothing. */
    g_free(test_shell(&status, "qemu-img info %s", path));
    g_assert_cmpint(status, ==, 0);

    /* We read: others may read, not write. */
    struct node *r = test_co_open(
        g, 0, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    u = test_co_backend(r);
    g_free(test_shell(&status, "qemu-img info %s", path));
    g_assert_cmpint(status, ==, 0);
    g_autofree char *io2 = test_shell(&status, QEMU_IO_WRITES " %s", path);
    g_assert_nonnull(strstr(io2, "Failed to get \"write\" lock"));
    node_co_unref(n);
    end_co_graph(g, u, r);
}

/* A qemu-io that has the image open until its input ends. */
static GPid start_holder(const char *path, int *ret_in, int *ret_out)
{
    GError *err = NULL;
    GPid pid;
    char c, last = 0;
    char *argv[] = { (char *)"qemu-io", (char *)"-f", (char *)"qcow2",
                     (char *)path, NULL };
    g_spawn_async_with_pipes(NULL, argv, NULL,
                             G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                             NULL, NULL, &pid, ret_in, ret_out, NULL, &err);
    g_assert_no_error(err);
    /* Its prompt, "qemu-io> ", comes when the image is open. */
    while (read(*ret_out, &c, 1) == 1 && !(last == '>' && c == ' ')) {
        last = c;
    }
    return pid;
}

static CO_FN void test_locks_theirs_entry(void *arg)
{
    g_autofree char *path = g_strdup(scratch("theirs"));
    struct graph *g = test_graph();
    GError *err = NULL;
    struct backend *u;
    int in, out, status;

    if (!test_have("qemu-io") || !test_have("qemu-img")) {
        g_test_skip("no qemu-io or no qemu-img");
        graph_co_free(g);
        return;
    }
    g_free(test_shell(&status, "qemu-img create -f qcow2 %s 1M", path));
    GPid pid = start_holder(path, &in, &out);
    struct node *n = test_co_open(
        g, NODE_RDWR, "{\"driver\": \"file\", \"filename\": \"%s\"}", path);
    int ret = backend_co_new(n, "u", PERM_WRITE | PERM_CONSISTENT_READ,
                             PERM_CONSISTENT_READ, NULL, NULL, &u, &err);
    g_assert_cmpint(ret, ==, -EAGAIN);
    g_assert_true(
        g_str_has_prefix(err->message, "Failed to get \"write\" lock"));
    g_clear_error(&err);
    /* Whoever shares writing may read. */
    struct node *m = test_co_open(
        g, 0,
        "{\"driver\": \"file\", \"filename\": \"%s\", \"force-share\": true}",
        path);
    backend_co_new(m, "u", PERM_CONSISTENT_READ, PERM_ALL, NULL, NULL, &u,
                   &err);
    g_assert_no_error(err);
    backend_co_free(u);

    close(in);
    close(out);
    waitpid(pid, NULL, 0);
    backend_co_new(n, "u", PERM_WRITE | PERM_CONSISTENT_READ,
                   PERM_CONSISTENT_READ, NULL, NULL, &u, &err);
    g_assert_no_error(err);
    node_co_unref(m);
    end_co_graph(g, u, n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    static const struct engine_test tests[] = {
        { "content", test_content_entry },
        { "direct", test_direct_entry },
        { "grow", test_grow_entry },
        { "holes", test_holes_entry },
        { "discard-ignored", test_no_discard_entry },
        { "refusals", test_refusals_entry },
        { "raw-window", test_window_entry },
        { "raw-create", test_create_entry },
        { "identity", test_identity_entry },
        { "reopen", test_reopen_entry },
        { "two-writers", test_two_writers_entry },
        { "locks-ours", test_locks_ours_entry },
        { "locks-theirs", test_locks_theirs_entry },
    };

    add_tests_for_real_engines("/storage/file", tests, G_N_ELEMENTS(tests));
    return g_test_run();
}
