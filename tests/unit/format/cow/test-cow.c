/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The external overlay on real files: its header and hostile ones, a random
 * model over a base with reopening, that it ends as the raw file, names, and
 * disks of many terabytes.
 */
#include "model.h"
#include "util.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>
#include "base/crc32c.h"
#include "base/endian.h"
#include "base/iov.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "format/format.h"
#include "graph/image.h"

enum { DISK = 3 << 20 };

static CO_FN int try_make(struct graph *g, const char *path, json_t *options,
                          GError **err)
{
    int ret = image_co_create(g, &cow_driver, path, options, err);

    json_decref(options);
    return ret;
}

static CO_FN void make(struct graph *g, const char *path, json_t *options)
{
    g_autoptr(GError) err = NULL;

    try_make(g, path, options, &err);
    g_assert_no_error(err);
}

static CO_FN int try_open(struct graph *g, const char *path, unsigned flags,
                          struct node **ret_n, GError **err)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", "cow", "file",
                          "driver", "file", "filename", path);
    int ret = node_co_open(g, o, flags, ret_n, err);

    json_decref(o);
    return ret;
}

static CO_FN struct node *open_cow(struct graph *g, const char *path,
                                   unsigned flags)
{
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    try_open(g, path, flags, &n, &err);
    g_assert_no_error(err);
    return n;
}

static CO_FN void assert_refused(struct graph *g, const char *path,
                                 unsigned flags, const char *why)
{
    g_autoptr(GError) err = NULL;
    struct node *n;

    g_assert_cmpint(try_open(g, path, flags, &n, &err), <, 0);
    if (!strstr(err->message, why)) {
        g_error("'%s' does not say '%s'", err->message, why);
    }
}

static void remove_all(const char *const *names)
{
    for (; *names; names++) {
        g_autofree char *path = scratch_path(*names);

        g_unlink(path);
    }
}

static bool exists(const char *name)
{
    g_autofree char *path = scratch_path(name);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void write_file(const char *name, const void *buf, size_t len)
{
    g_autofree char *path = scratch_path(name);

    g_assert_true(g_file_set_contents(path, buf, (gssize)len, NULL));
}

/* --- the header --- */

static void test_crc(void)
{
    g_assert_cmphex(crc32c("123456789", 9), ==, 0xe3069283);
    g_assert_cmphex(crc32c("", 0), ==, 0);
    g_assert_cmphex(crc32c_more(crc32c("1234", 4), "56789", 5), ==, 0xe3069283);
}

static struct cow_header some_header(void)
{
    struct cow_header h = {
        .generation = 7,
        .uuid = { 1, 2, 3 },
        .size = 5 << 20,
        .cluster_bits = 16,
        .known = COW_KNOWS_BASE,
        .base_size = 4096,
        .base_time = -5,
        .data_name = "disk.img",
        .data_format = "raw",
        .backing = "base.raw",
        .backing_format = "raw",
    };

    return h;
}

static void seal(uint8_t *slot)
{
    put_le32(slot + 12, 0);
    put_le32(slot + 12, crc32c(slot, COW_SLOT_BYTES));
}

static void test_header(void)
{
    struct cow_header h = some_header(), got;
    uint8_t slots[2 * COW_SLOT_BYTES] = { 0 };
    g_autoptr(GError) err = NULL;
    unsigned slot;
    bool torn;

    cow_header_encode(&h, slots);
    cow_header_decode(slots, &got, &err);
    g_assert_no_error(err);
    g_assert_cmpmem(&h, sizeof(h), &got, sizeof(got));
    g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, &err), ==, 0);
    g_assert_true(slot == 0 && !torn);
    h.generation++;
    cow_header_encode(&h, slots + COW_SLOT_BYTES);
    g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, &err), ==, 0);
    g_assert_true(slot == 1 && !torn && got.generation == 8);
    /* Any byte that is not what was written: the other slot counts. */
    for (unsigned i = 0; i < COW_SLOT_BYTES; i += 13) {
        slots[COW_SLOT_BYTES + i] ^= 0x40;
        g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, NULL), ==,
                        0);
        g_assert_true(slot == 0 && torn && got.generation == 7);
        slots[COW_SLOT_BYTES + i] ^= 0x40;
    }
    /* The same generation twice, or two images. */
    h.generation = 7;
    h.size += 512;
    cow_header_encode(&h, slots + COW_SLOT_BYTES);
    g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, NULL), ==,
                    -EINVAL);
    h.generation = 9;
    h.uuid[0] ^= 1;
    cow_header_encode(&h, slots + COW_SLOT_BYTES);
    g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, NULL), ==,
                    -EINVAL);
    memset(slots, 0, sizeof(slots));
    g_assert_cmpint(cow_header_choose(slots, &got, &slot, &torn, &err), ==,
                    -EINVAL);
}

/* Fields that cannot be, sealed with a checksum that fits (VA14). */
static const struct {
    unsigned at, bytes;
    uint64_t value;
    int result;
} hostile[] = {
    { 8, 4, 2, -ENOTSUP },  /* version */
    { 16, 8, 0, -EINVAL },  /* generation */
    { 40, 8, 1, -ENOTSUP }, /* features */
    { 40, 8, UINT64_C(1) << 63, -ENOTSUP },
    { 56, 8, UINT64_MAX, -EINVAL }, /* size */
    { 56, 8, UINT64_MAX - 511, -EINVAL },
    { 56, 8, INT64_MAX, -EINVAL },
    { 56, 8, (UINT64_C(1) << 53) + 512, -EINVAL },
    { 56, 8, 513, -EINVAL },
    { 64, 4, 0, -EINVAL }, /* cluster_bits */
    { 64, 4, 11, -EINVAL },
    { 64, 4, 22, -EINVAL },
    { 64, 4, UINT32_MAX, -EINVAL },
    { 68, 4, 2, -EINVAL },  /* state */
    { 68, 4, 1, -EINVAL },  /* complete over a backing file */
    { 104, 2, 0, -EINVAL }, /* lengths */
    { 104, 2, 247, -EINVAL },
    { 104, 2, UINT16_MAX, -EINVAL },
    { 106, 2, 0, -EINVAL },
    { 106, 2, UINT16_MAX, -EINVAL },
    { 108, 2, 3073, -EINVAL },
    { 108, 2, UINT16_MAX, -EINVAL },
    { 110, 2, UINT16_MAX, -EINVAL },
    { 128, 1, '/', -EINVAL }, /* the data file's name */
    { 129, 1, 0, -EINVAL },
    { 129, 1, 0x0a, -EINVAL },
    { 129, 1, 0xff, -EINVAL },
};

static void test_hostile_header(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(hostile); i++) {
        struct cow_header h = some_header(), got;
        uint8_t slot[COW_SLOT_BYTES];
        g_autoptr(GError) err = NULL;

        cow_header_encode(&h, slot);
        for (unsigned b = 0; b < hostile[i].bytes; b++) {
            slot[hostile[i].at + b] = (uint8_t)(hostile[i].value >> 8 * b);
        }
        seal(slot);
        g_assert_cmpint(cow_header_decode(slot, &got, &err), ==,
                        hostile[i].result);
        g_assert_nonnull(err);
    }
}

static void test_names(void)
{
    static const char *const bad[] = {
        "", ".", "..", "a/b", "/etc/passwd", "../x", "x/", "a\nb", "\xff", NULL
    };

    for (unsigned i = 0; bad[i]; i++) {
        g_assert_cmpint(cow_data_name_validate(bad[i], NULL), ==, -EINVAL);
    }
    g_assert_cmpint(cow_data_name_validate("disk 1: it's...", NULL), ==, 0);
}

/* --- the random model --- */

struct model {
    uint64_t cluster;
    const char *data_format;
    unsigned base; /* bytes; 0: none */
};
static const struct model *model;

static CO_FN void assert_clean(struct node *n)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;

    n->drv->co_check(n, 0, &res, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(res.corruptions + res.leaks + res.check_errors, ==, 0);
}

static const char *const model_files[] = { "model.img", "model.img.partial",
                                           "model.img.cow", "base.raw", NULL };

static CO_FN void model_run(struct graph *g)
{
    g_autofree char *path = scratch_path("model.img.cow");
    g_autofree char *base = scratch_path("base.raw"),
                    *final = scratch_path("model.img");
    g_autofree uint8_t *shadow = g_malloc0(DISK), *buf = g_malloc(DISK + 4096);
    uint32_t seed = g_test_rand_int() & 0x7fffffff;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    json_t *o = json_pack("{s:i,s:I,s:s}", "size", DISK, "cluster_size",
                          (json_int_t)model->cluster, "data_format",
                          model->data_format);
    g_autoptr(GError) err = NULL;
    struct node *n;

    g_test_message("seed %u", seed);
    remove_all(model_files);
    if (model->base) {
        model_fill(shadow, MIN(model->base, DISK), 3);
        model_fill(buf, model->base, 3);
        write_file("base.raw", buf, model->base);
        json_object_set_new(o, "backing_file", json_string(base));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    make(g, path, o);
    for (unsigned round = 0; round < 4; round++) {
        n = open_cow(g, path, NODE_RDWR);
        for (unsigned i = 0; i < 60; i++) {
            model_co_step(n, shadow, DISK, rand, buf);
        }
        model_co_compare(n, shadow, DISK, buf);
        assert_clean(n);
        node_co_unref(n);
        n = open_cow(g, path, 0);
        model_co_compare(n, shadow, DISK, buf);
        node_co_unref(n);
    }
    /* What is left of the base comes over, as a stream would bring it. */
    n = open_cow(g, path, NODE_RDWR);
    for (uint64_t off = 0; off < MIN(model->base, DISK); off += 512) {
        uint64_t len = min_u64(MIN(model->base, DISK) - off, 512);

        g_assert_cmpint(do_write(n, off, shadow + off, len, 0), ==, 0);
    }
    node_co_change_backing(n, NULL, NULL, &err);
    g_assert_no_error(err);
    g_assert_true(exists("model.img"));
    g_assert_false(exists("model.img.partial"));
    g_assert_false(exists("model.img.cow"));
    g_assert_cmpstr(n->filename, ==, final);
    remove_all((const char *const[]) { "base.raw", NULL });
    for (unsigned i = 0; i < 60; i++) {
        model_co_step(n, shadow, DISK, rand, buf);
    }
    model_co_compare(n, shadow, DISK, buf);
    node_co_unref(n);
    if (g_str_equal(model->data_format, "raw")) {
        g_autofree char *bytes = NULL;
        size_t len;

        g_assert_true(g_file_get_contents(final, &bytes, &len, NULL));
        g_assert_cmpmem(bytes, len, shadow, DISK);
    }
}

static void test_model(gconstpointer data)
{
    model = data;
    run_graph(model_run);
}

/* --- names and files that do not fit --- */

static const char *const pair_files[] = { "p",     "p.partial", "p.cow",
                                          "b.raw", "other",     "copy",
                                          NULL };

/* An overlay "p.cow" over "b.raw", of one megabyte. */
static CO_FN char *make_pair(struct graph *g)
{
    g_autofree uint8_t *data = g_malloc(1 << 20);
    g_autofree char *base = scratch_path("b.raw");
    char *path = scratch_path("p.cow");

    remove_all(pair_files);
    model_fill(data, 1 << 20, 1);
    write_file("b.raw", data, 1 << 20);
    make(g, path,
         json_pack("{s:i,s:s,s:s}", "size", 1 << 20, "backing_file", base,
                   "backing_fmt", "raw"));
    return path;
}

static CO_FN void bound_run(struct graph *g)
{
    g_autofree char *path = make_pair(g), *data = scratch_path("p.partial");
    g_autofree char *base = scratch_path("b.raw"),
                    *other = scratch_path("other");
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    struct node *n = open_cow(g, path, NODE_RDWR); /* learns the base */

    node_co_unref(n);
    /* Another data file: refused, until a repair takes it. */
    g_free(must_run("cp '%s' '%s' && mv '%s' '%s'", data, other, other, data));
    assert_refused(g, path, 0, "is not the file that");
    assert_refused(g, path, NODE_RDWR, "is not the file that");
    n = open_cow(g, path, NODE_RDWR | NODE_CHECK);
    node_co_check(n, CHECK_FIX_ERRORS, &res, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(res.corruptions_fixed, ==, 1);
    node_co_unref(n);
    node_co_unref(open_cow(g, path, NODE_RDWR));
    /* Another base, by time and by size. */
    g_free(must_run("touch -d '1999-01-01' '%s'", base));
    assert_refused(g, path, 0, "was changed since");
    n = open_cow(g, path, NODE_RDWR | NODE_CHECK);
    node_co_change_backing(n, base, "raw", &err);
    g_assert_no_error(err);
    node_co_unref(n);
    node_co_unref(open_cow(g, path, NODE_RDWR));
    g_assert_cmpint(truncate(base, 1 << 21), ==, 0);
    assert_refused(g, path, NODE_RDWR, "bytes, had");
    g_assert_cmpint(truncate(base, 1 << 20), ==, 0);
    g_free(must_run("touch -d '1999-01-01' '%s'", base));
    /* A data file that is too short; one that is not there; a link. */
    g_assert_cmpint(truncate(data, 4096), ==, 0);
    assert_refused(g, path, NODE_RDWR, "the disk has");
    g_assert_cmpint(truncate(data, 1 << 20), ==, 0);
    node_co_unref(open_cow(g, path, NODE_RDWR));
    g_free(
        must_run("mv '%s' '%s' && ln -s '%s' '%s'", data, other, other, data));
    assert_refused(g, path, NODE_RDWR, "it is a link");
    g_free(must_run("rm '%s'", data));
    assert_refused(g, path, 0, "No such file");
    remove_all(pair_files);
}

static void test_bound(void)
{
    run_graph(bound_run);
}

static CO_FN void create_run(struct graph *g)
{
    g_autofree char *path = make_pair(g), *name = scratch_path("p");
    g_autoptr(GError) err = NULL;
    struct node *n;

    /* Over itself, as other images. */
    make(g, path, json_pack("{s:i}", "size", 1 << 21));
    n = open_cow(g, path, 0);
    g_assert_cmpuint(n->size, ==, 1 << 21);
    node_co_unref(n);
    /* Nobody's files are overwritten, nor written through a link (VA15). */
    remove_all((const char *const[]) { "p.cow", NULL });
    g_assert_cmpint(
        try_make(g, path, json_pack("{s:i}", "size", 1 << 20), &err), ==,
        -EEXIST);
    g_clear_error(&err);
    g_assert_false(exists("p.cow"));
    g_free(
        must_run("rm '%s.partial' && ln -s nowhere '%s.partial'", name, name));
    g_assert_cmpint(
        try_make(g, path, json_pack("{s:i}", "size", 1 << 20), &err), <, 0);
    g_clear_error(&err);
    g_assert_false(exists("nowhere"));
    g_free(must_run("rm '%s.partial'", name));
    write_file("p", "mine", 4);
    g_assert_cmpint(
        try_make(g, path, json_pack("{s:i}", "size", 1 << 20), &err), ==,
        -EEXIST);
    g_clear_error(&err);
    remove_all(pair_files);
    g_assert_cmpint(
        try_make(g, path,
                 json_pack("{s:i,s:s}", "size", 1 << 20, "data_file", "../p"),
                 &err),
        ==, -EINVAL);
    g_clear_error(&err);
    g_assert_cmpint(
        try_make(g, path,
                 json_pack("{s:i,s:s}", "size", 1 << 20, "data_format", "cow"),
                 &err),
        ==, -EINVAL);
    g_clear_error(&err);
    /* The name is taken while it is filled: the overlay stays as it is. */
    make(g, path, json_pack("{s:i}", "size", 1 << 20));
    n = open_cow(g, path, NODE_RDWR);
    write_file("p", "mine", 4);
    g_assert_cmpint(node_co_change_backing(n, NULL, NULL, &err), ==, -EEXIST);
    g_clear_error(&err);
    g_assert_false(cow_of(n)->complete);
    node_co_unref(n);
    remove_all((const char *const[]) { "p", NULL });
    n = open_cow(g, path, NODE_RDWR);
    node_co_change_backing(n, NULL, NULL, &err);
    g_assert_no_error(err);
    node_co_unref(n);
    g_assert_true(exists("p"));
    remove_all(pair_files);
}

static void test_create(void)
{
    run_graph(create_run);
}

/* COMPLETE, and the names at each step: the next writable open goes on. */
static CO_FN void finish_run(struct graph *g)
{
    for (unsigned step = 0; step < 2; step++) {
        g_autofree char *path = make_pair(g), *final = scratch_path("p");
        g_autofree char *partial = scratch_path("p.partial");
        uint8_t slot[COW_SLOT_BYTES], got[512];
        g_autofree char *bytes = NULL;
        struct cow_header h;
        struct node *n = open_cow(g, path, NODE_RDWR);
        size_t len;

        h = cow_of(n)->hdr;
        node_co_unref(n);
        h.state = COW_COMPLETE;
        h.generation++;
        h.backing[0] = h.backing_format[0] = '\0';
        cow_header_encode(&h, slot);
        g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
        memcpy(bytes + (h.generation % 2 ? 0 : COW_SLOT_BYTES), slot,
               sizeof(slot));
        write_file("p.cow", bytes, len);
        if (step == 1) {
            g_assert_cmpint(g_rename(partial, final), ==, 0);
        }
        n = open_cow(g, path, 0); /* looks, and leaves it alone */
        g_assert_cmpint(do_read(n, 4096, got, 512), ==, 0);
        g_assert_true(buf_is_zero(got, 512));
        node_co_unref(n);
        g_assert_true(exists("p.cow"));
        n = open_cow(g, path, NODE_RDWR);
        g_assert_false(exists("p.cow"));
        g_assert_false(exists("p.partial"));
        g_assert_cmpint(do_write(n, 0, "guest", 5, 0), ==, 0);
        node_co_unref(n);
        g_clear_pointer(&bytes, g_free);
        g_assert_true(g_file_get_contents(final, &bytes, &len, NULL));
        g_assert_cmpmem(bytes, 5, "guest", 5);
        g_assert_cmpuint(len, ==, 1 << 20);
    }
    remove_all(pair_files);
}

static void test_finish(void)
{
    run_graph(finish_run);
}

/* --- sizes --- */

static const char *const big_files[] = { "big", "big.partial", "big.cow",
                                         NULL };

static CO_FN void big_run(struct graph *g)
{
    g_autofree char *path = scratch_path("big.cow");
    g_autoptr(GError) err = NULL;
    uint64_t size = UINT64_C(15) << 40, off = 0;
    unsigned answers;
    uint8_t buf[512] = { 1 }, got[512];
    struct extent ext;
    struct node *n;

    remove_all(big_files);
    if (try_make(g, path,
                 json_pack("{s:I,s:s,s:s}", "size", (json_int_t)size,
                           "backing_file", "x", "backing_fmt", "raw"),
                 &err) < 0) {
        g_test_skip(err->message); /* the file system has a smaller limit */
        remove_all(big_files);
        return;
    }
    n = open_cow(g, path, NODE_RDWR | NODE_NO_BACKING);
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmpint(do_write(n, size / 16 * i, buf, 512, 0), ==, 0);
    }
    for (unsigned pass = 0; pass < 2; pass++) {
        answers = 0;
        for (off = 0; off < size; off += ext.len) {
            g_assert_cmpint(node_co_status(n, off, size - off, &ext), ==, 0);
            answers++;
        }
        g_assert_cmpuint(answers, <=, 64);
        g_assert_cmpint(node_co_flush(n), ==, 0);
    }
    /* Zeroes over all of it are a few kilobytes of summary. */
    g_assert_cmpint(node_co_zero(n, size / 2, size / 2, IO_MAY_UNMAP), ==, 0);
    g_assert_cmpint(node_co_flush(n), ==, 0);
    g_assert_cmpint(do_write(n, size - 512, buf, 512, IO_FUA), ==, 0);
    g_assert_cmpint(node_co_truncate(n, size, &err), ==, 0);
    g_assert_cmpint(node_co_truncate(n, size - 512, NULL), ==, -ENOTSUP);
    node_co_unref(n);
    n = open_cow(g, path, NODE_NO_BACKING);
    g_assert_cmpint(do_read(n, size / 16 * 3, got, 512), ==, 0);
    g_assert_cmpmem(got, 512, buf, 512);
    g_assert_cmpint(node_co_status(n, size / 2, size / 2, &ext), ==, 0);
    g_assert_true(ext.flags & STATUS_ALLOCATED);
    node_co_unref(n);
    remove_all(big_files);
}

static void test_big(void)
{
    run_graph(big_run);
}

/* Growing over a base that is longer than the disk was. */
static CO_FN void grow_run(struct graph *g)
{
    g_autofree char *path = scratch_path("p.cow"),
                    *base = scratch_path("b.raw");
    g_autofree uint8_t *data = g_malloc(1 << 20), *got = g_malloc(1 << 20);
    const uint64_t old = 300 * 1024 + 512, size = 900 * 1024;
    g_autoptr(GError) err = NULL;
    struct node *n;

    remove_all(pair_files);
    model_fill(data, 1 << 20, 1);
    write_file("b.raw", data, 1 << 20);
    make(g, path,
         json_pack("{s:I,s:s,s:s}", "size", (json_int_t)old, "backing_file",
                   base, "backing_fmt", "raw"));
    n = open_cow(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 8192, data, 100, 0), ==, 0);
    node_co_truncate(n, size, &err);
    g_assert_no_error(err);
    memcpy(data + 8192, data, 100);
    memset(data + old, 0, size - old);
    for (unsigned pass = 0; pass < 2; pass++) {
        g_assert_cmpuint(n->size, ==, size);
        g_assert_cmpint(do_read(n, 0, got, size), ==, 0);
        g_assert_true(memcmp(got, data, size) == 0);
        assert_clean(n);
        node_co_unref(n);
        n = open_cow(g, path, 0);
    }
    node_co_unref(n);
    remove_all(pair_files);
}

static void test_grow(void)
{
    run_graph(grow_run);
}

int main(int argc, char **argv)
{
    static const struct model small = { 4096, "raw", DISK - 100000 };
    static const struct model large = { 65536, "raw", DISK - 100000 };
    static const struct model huge = { 2 << 20, "raw", DISK + 4096 };
    static const struct model alone = { 4096, "raw", 0 };
    static const struct model over_qcow2 = { 8192, "qcow2", DISK - 100000 };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cow/crc", test_crc);
    g_test_add_func("/cow/header", test_header);
    g_test_add_func("/cow/hostile-header", test_hostile_header);
    g_test_add_func("/cow/names", test_names);
    g_test_add_data_func("/cow/model/4k", &small, test_model);
    g_test_add_data_func("/cow/model/64k", &large, test_model);
    g_test_add_data_func("/cow/model/2m", &huge, test_model);
    g_test_add_data_func("/cow/model/no-base", &alone, test_model);
    g_test_add_data_func("/cow/model/qcow2-data", &over_qcow2, test_model);
    g_test_add_func("/cow/bound", test_bound);
    g_test_add_func("/cow/create", test_create);
    g_test_add_func("/cow/finish", test_finish);
    g_test_add_func("/cow/big", test_big);
    g_test_add_func("/cow/grow", test_grow);
    return g_test_run();
}
