/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block device (a loop device of the test's own, so only as root): size,
 * content, zeroes, discard, unaligned direct I/O, and no growing.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util.h"

#define MIB (1024u * 1024)
#define SIZE (64u * MIB)

static char *device;

/* False, with the test skipped, where there are no loop devices. */
static bool setup(void)
{
    g_autofree char *image = g_strdup(scratch("device.img"));
    int status;

    if (getuid() != 0 || !test_have("losetup")) {
        g_test_skip("loop devices need root and losetup");
        return false;
    }
    test_make_file(image, SIZE);
    device = test_shell(&status, "losetup -f --show %s", image);
    if (status != 0) {
        g_test_skip("losetup failed");
        g_clear_pointer(&device, g_free);
        return false;
    }
    g_strstrip(device);
    return true;
}

static void teardown(void)
{
    int status;
    g_free(test_shell(&status, "losetup -d %s", device));
    g_clear_pointer(&device, g_free);
}

static CO_FN void check_co_device(const char *cache)
{
    struct graph *g = test_graph();
    GError *err = NULL;

    struct node *n = test_co_open(g, NODE_RDWR,
                                  "{\"driver\": \"host_device\", "
                                  "\"filename\": \"%s\"%s}",
                                  device, cache);
    struct backend *u = test_co_backend(n);
    g_assert_cmpuint(node_size(n), ==, SIZE);
    g_assert_cmpint(test_co_write(u, 1, 0, 4 * MIB), ==, 0);
    g_assert_cmpint(test_co_write(u, 2, 5 * MIB + 7, 1001), ==, 0);
    g_assert_cmpint(test_co_write(u, 3, SIZE - 512, 512), ==, 0);
    test_co_expect(u, 1, 0, 4 * MIB);
    test_co_expect(u, 2, 5 * MIB + 7, 1001);
    test_co_expect(u, 3, SIZE - 512, 512);
    g_assert_cmpint(backend_co_zero(u, MIB, MIB, 0), ==, 0);
    g_assert_cmpint(backend_co_zero(u, 2 * MIB, MIB, IO_MAY_UNMAP), ==, 0);
    test_co_expect_zero(u, MIB, 2 * MIB);
    test_co_expect(u, 1, 3 * MIB, MIB);
    g_assert_cmpint(backend_co_discard(u, 3 * MIB, MIB), ==, 0);
    test_co_expect(u, 1, 0, MIB);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    struct extent e;
    g_assert_cmpint(backend_co_status(u, 0, SIZE, &e), ==, 0);
    g_assert_true(e.flags & STATUS_DATA);
    g_assert_cmpint(node_co_truncate(n, SIZE + 512, &err), <, 0);
    g_assert_cmpstr(err->message, ==, "Cannot grow device files");
    g_clear_error(&err);
    g_assert_cmpuint(node_size(n), ==, SIZE);
    backend_co_free(u);
    node_co_unref(n);

    err = test_co_open_fails(g, 0,
                             "{\"driver\": \"file\", \"filename\": "
                             "\"%s\"}",
                             device);
    g_assert_nonnull(strstr(err->message, "it is a block device"));
    g_assert_nonnull(strstr(err_get_hint(err), "host_device"));
    g_error_free(err);
    graph_co_free(g);
}

static CO_FN void test_cached_entry(void *arg)
{
    if (setup()) {
        check_co_device("");
        teardown();
    }
}

static CO_FN void test_direct_entry(void *arg)
{
    if (setup()) {
        check_co_device(", \"cache\": {\"direct\": true}");
        teardown();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_real_engines("/storage/host-device/cached", test_cached_entry);
    add_for_real_engines("/storage/host-device/direct", test_direct_entry);
    return g_test_run();
}
