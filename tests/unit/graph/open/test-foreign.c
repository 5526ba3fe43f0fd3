/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The magics of formats without drivers: each is found, alone and at the ends of
 * what was read, and bytes that only begin like one are not. */
#include <glib.h>
#include <string.h>
#include "base/endian.h"
#include "graph/foreign.h"

enum { HEAD = 4096, TRAILER = 512 };

/* Only as many bytes as are there may be looked at: a copy of that length lets
 * sanitizers see it. */
static const char *find(const uint8_t *file, size_t size, uint64_t *ret_disk)
{
    size_t head = MIN(size, HEAD), tail = MIN(size, FOREIGN_TAIL);
    g_autofree uint8_t *h = g_memdup2(file, head);
    g_autofree uint8_t *t = g_memdup2(file + size - tail, tail);
    struct foreign f = { 0 };
    bool found = foreign_find(h, head, t, tail, size, &f);

    if (ret_disk) {
        *ret_disk = f.disk_size;
    }
    return found ? f.driver : NULL;
}

static void test_heads(void)
{
    static const struct {
        const char *driver, *bytes;
        size_t len, at;
    } heads[] = {
        { "vmdk", "KDMV", 4, 0 },
        { "vmdk", "COWD", 4, 0 },
        { "vmdk", "\xbe\xba\xfe\xca\0\0\0\0", 8, 0 },
        { "vmdk", "# Disk DescriptorFile", 21, 0 },
        { "vmdk", "version=1", 9, 0 },
        { "vmdk", "#\n \r\nversion=3", 14, 0 },
        { "vdi", "\x7f\x10\xda\xbe", 4, 64 },
        { "vpc", "conectix", 8, 0 },
        { "vhdx", "vhdxfile", 8, 0 },
        { "qcow", "QFI\xfb", 4, 0 },
        { "parallels", "WithoutFreeSpace", 16, 0 },
        { "parallels", "WithouFreSpacExt", 16, 0 },
        { "luks", "LUKS\xba\xbe", 6, 0 },
        { "bochs", "Bochs Virtual HD Image", 22, 0 },
        { "cloop", "#!/bin/sh\n#V2.0 Format\n", 23, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(heads); i++) {
        uint8_t file[HEAD + FOREIGN_TAIL] = { 0 };
        size_t end = heads[i].at + heads[i].len;

        memcpy(file + heads[i].at, heads[i].bytes, heads[i].len);
        g_assert_cmpstr(find(file, sizeof(file), NULL), ==, heads[i].driver);
        g_assert_cmpstr(find(file, end, NULL), ==, heads[i].driver);
        g_assert_null(find(file, end - 1, NULL));
    }
}

static void footer_sum(uint8_t *footer, uint32_t type, uint64_t size)
{
    uint32_t sum = 0;

    memset(footer, 0, TRAILER);
    memcpy(footer, "conectix", 8);
    put_be64(footer + 48, size);
    put_be32(footer + 60, type);
    for (unsigned i = 0; i < TRAILER; i++) {
        sum += footer[i];
    }
    put_be32(footer + 64, ~sum);
}

static void test_vhd_footer(void)
{
    static uint8_t file[3 * HEAD];
    const size_t at = sizeof(file) - TRAILER;
    uint64_t disk;

    footer_sum(file + at, 2, at);
    g_assert_cmpstr(find(file, sizeof(file), &disk), ==, "vpc");
    g_assert_cmpuint(disk, ==, at);
    g_assert_cmpstr(find(file, sizeof(file) - 1, &disk), ==, "vpc");
    g_assert_cmpuint(disk, ==, at);
    g_assert_null(find(file, sizeof(file) - 2, NULL));
    g_assert_cmpstr(find(file + at, TRAILER, &disk), ==, "vpc");
    g_assert_cmpuint(disk, ==, 0); /* says more than there is */
    /* Every bit of it counts. */
    for (unsigned i = 0; i < TRAILER; i++) {
        file[at + i] ^= 1;
        g_assert_null(find(file, sizeof(file), NULL));
        file[at + i] ^= 1;
    }
    footer_sum(file + at, 3, at);
    g_assert_cmpstr(find(file, sizeof(file), &disk), ==, "vpc");
    g_assert_cmpuint(disk, ==, 0);
}

static void test_udif_trailer(void)
{
    static uint8_t file[3 * HEAD];
    const size_t at = HEAD;
    uint8_t *t = file + at;

    memcpy(t, "koly", 4);
    put_be32(t + 4, 4);
    put_be32(t + 8, TRAILER);
    /* At the end, and up to a sector before it. */
    for (size_t size = at + TRAILER; size < at + 2 * TRAILER; size++) {
        g_assert_cmpstr(find(file, size, NULL), ==, "dmg");
    }
    g_assert_null(find(file, at + 2 * TRAILER, NULL));
    put_be32(t + 4, 5);
    g_assert_null(find(file, at + TRAILER, NULL));
}

static void test_nothing(void)
{
    static uint8_t file[3 * HEAD];
    g_autofree char *comments = g_strnfill(3 * HEAD, '#');

    for (size_t size = 0; size < 2 * FOREIGN_TAIL; size++) {
        g_assert_null(find(file, size, NULL));
    }
    g_assert_null(find((uint8_t *)comments, 3 * HEAD, NULL));
    memset(comments, '\n', 3 * HEAD);
    g_assert_null(find((uint8_t *)comments, 3 * HEAD, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/foreign/heads", test_heads);
    g_test_add_func("/foreign/vhd-footer", test_vhd_footer);
    g_test_add_func("/foreign/udif-trailer", test_udif_trailer);
    g_test_add_func("/foreign/nothing", test_nothing);
    return g_test_run();
}
