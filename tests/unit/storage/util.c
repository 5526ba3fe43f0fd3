/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "format/format.h"
#include "graph/driver.h"
#include "storage/storage.h"

struct graph *test_graph(void)
{
    static const struct node_driver *const drivers[] = {
        &file_driver, &host_device_driver, &nbd_driver, &raw_driver, NULL
    };
    return graph_new(loop_current(), drivers);
}

static CO_FN struct node *open_co_text(struct graph *g, unsigned flags,
                                       const char *text, GError **err)
{
    json_t *options = json_loads(text, 0, NULL);
    struct node *n = NULL;

    g_test_message("open %s", text);
    g_assert_nonnull(options);
    if (node_co_open(g, options, flags, &n, err) < 0) {
        n = NULL;
    }
    json_decref(options);
    return n;
}

struct node *test_co_open(struct graph *g, unsigned flags, const char *json,
                          ...)
{
    GError *err = NULL;
    va_list ap;

    va_start(ap, json);
    g_autofree char *text = g_strdup_vprintf(json, ap);
    va_end(ap);
    struct node *n = open_co_text(g, flags, text, &err);
    g_assert_no_error(err);
    return n;
}

GError *test_co_open_fails(struct graph *g, unsigned flags, const char *json,
                           ...)
{
    GError *err = NULL;
    va_list ap;

    va_start(ap, json);
    g_autofree char *text = g_strdup_vprintf(json, ap);
    va_end(ap);
    g_assert_null(open_co_text(g, flags, text, &err));
    g_assert_nonnull(err);
    return err;
}

struct backend *test_co_backend(struct node *n)
{
    unsigned perm = PERM_CONSISTENT_READ;
    struct backend *u;
    GError *err = NULL;

    if (node_is_writable(n)) {
        perm |= PERM_WRITE | PERM_RESIZE;
    }
    backend_co_new(n, "test", perm, PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                   NULL, NULL, &u, &err);
    g_assert_no_error(err);
    return u;
}

uint8_t test_byte(unsigned seed, uint64_t off)
{
    uint64_t x = (off / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) + seed * 77u;
    return (uint8_t)((x >> (off % 8 * 8)) | 1); /* never zero */
}

void test_fill(uint8_t *buf, unsigned seed, uint64_t off, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = test_byte(seed, off + i);
    }
}

int test_co_write(struct backend *u, unsigned seed, uint64_t off, size_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);
    struct iovec v;

    test_fill(buf, seed, off, len);
    return backend_co_pwritev(u, off, iov_one(&v, buf, len), 0);
}

static CO_FN uint8_t *test_co_read(struct backend *u, uint64_t off, size_t len)
{
    uint8_t *buf = g_malloc(len);
    struct iovec v;

    memset(buf, 0xee, len);
    g_assert_cmpint(backend_co_preadv(u, off, iov_one(&v, buf, len), 0), ==, 0);
    return buf;
}

void test_co_expect(struct backend *u, unsigned seed, uint64_t off, size_t len)
{
    g_autofree uint8_t *got = test_co_read(u, off, len);

    for (size_t i = 0; i < len; i++) {
        if (got[i] != test_byte(seed, off + i)) {
            g_error("byte %" G_GUINT64_FORMAT " is %02x, not %02x", off + i,
                    got[i], test_byte(seed, off + i));
        }
    }
}

void test_co_expect_zero(struct backend *u, uint64_t off, size_t len)
{
    g_autofree uint8_t *got = test_co_read(u, off, len);

    for (size_t i = 0; i < len; i++) {
        if (got[i]) {
            g_error("byte %" G_GUINT64_FORMAT " is %02x, not zero", off + i,
                    got[i]);
        }
    }
}

void test_make_file(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    close(fd);
}

void test_pattern_file(const char *path, unsigned seed, uint64_t off,
                       size_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    test_fill(buf, seed, off, len);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, buf, len, (off_t)off), ==, (ssize_t)len);
    close(fd);
}

char *test_shell(int *ret_status, const char *fmt, ...)
{
    va_list ap;
    char *out = NULL;
    GError *err = NULL;

    va_start(ap, fmt);
    g_autofree char *command = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_autofree char *both = g_strconcat(command, " 2>&1", NULL);
    char *argv[] = { (char *)"/bin/sh", (char *)"-c", both, NULL };
    g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, NULL,
                 ret_status, &err);
    g_assert_no_error(err);
    g_test_message("%s: %d: %s", command, *ret_status, out);
    return out;
}

bool test_have(const char *program)
{
    g_autofree char *path = g_find_program_in_path(program);
    return path != NULL;
}
