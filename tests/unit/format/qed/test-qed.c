/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QED driver on real files: a random model with reopening, checks by the
 * QEMU's tools, concurrent allocation, images that were never closed.
 */
#include "model.h"
#include "util.h"
#include <glib/gstdio.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qed/qed.h"

/* --- QEMU agrees --- */

static void qemu_check(const char *path)
{
    if (have_tool("qemu-img")) {
        g_free(must_run("qemu-img check -f qed '%s'", path));
    }
}

/* The disk of @path as QEMU reads it is @want. */
static void qemu_compare(const char *path, const uint8_t *want, size_t len)
{
    g_autofree char *raw = scratch_path("want.raw");

    if (!have_tool("qemu-img")) {
        return;
    }
    g_assert_true(
        g_file_set_contents(raw, (const char *)want, (gssize)len, NULL));
    g_free(must_run("qemu-img compare -f qed -F raw '%s' '%s'", path, raw));
}

static CO_FN struct check_result own_check(struct node *n, unsigned fix)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;

    n->drv->co_check(n, fix, &res, &err);
    g_assert_no_error(err);
    return res;
}

/* --- basics --- */

static CO_FN void basic_run(struct graph *g)
{
    g_autofree char *path = scratch_path("basic.qed");
    uint8_t buf[4096], got[4096];
    struct node *n;

    make_image(g, path, json_pack("{s:i}", "size", 10 << 20));
    qemu_check(path);
    n = open_image(g, path, NODE_RDWR);
    g_assert_cmpuint(n->size, ==, 10 << 20);
    g_assert_cmpint(do_read(n, 5000, got, sizeof(got)), ==, 0);
    g_assert_true(buf_is_zero(got, sizeof(got)));
    model_fill(buf, sizeof(buf), 7);
    g_assert_cmpint(do_write(n, 100000, buf, sizeof(buf), 0), ==, 0);
    g_assert_cmpint(do_read(n, 100000, got, sizeof(got)), ==, 0);
    g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
    g_assert_cmpint(node_co_flush(n), ==, 0);
    g_assert_cmpint(do_read(n, 100000, got, sizeof(got)), ==, 0);
    g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
    g_assert_cmpuint(own_check(n, 0).allocated_clusters, ==, 1);
    node_co_unref(n);
    qemu_check(path);
    n = open_image(g, path, 0);
    g_assert_cmpint(do_read(n, 100000, got, sizeof(got)), ==, 0);
    g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
    g_assert_cmpint(do_read(n, 100000 + 4096, got, sizeof(got)), ==, 0);
    g_assert_true(buf_is_zero(got, sizeof(got)));
    node_co_unref(n);
}

static void test_basic(void)
{
    run_graph(basic_run);
}

/* --- the random model --- */

struct model {
    uint32_t cluster_size, table_size;
    bool backing;
    unsigned steps;
};
static const struct model *model;

enum { DISK = 3 << 20 };

static CO_FN void model_run(struct graph *g)
{
    g_autofree char *path = scratch_path("model.qed"),
                    *base = scratch_path("base.raw");
    uint8_t *shadow = g_malloc0(DISK), *buf = g_malloc(DISK);
    uint32_t seed = g_test_rand_int() & 0x7fffffff;
    GRand *rand = g_rand_new_with_seed(seed);
    json_t *o = json_pack("{s:i,s:i,s:i}", "size", DISK, "cluster_size",
                          model->cluster_size, "table_size", model->table_size);
    struct node *n;

    g_test_message("seed %u", seed);
    if (model->backing) {
        model_fill(shadow, DISK - 100000, 3); /* shorter than the disk */
        g_assert_true(
            g_file_set_contents(base, (char *)shadow, DISK - 100000, NULL));
        json_object_set_new(o, "backing_file", json_string(base));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    make_image(g, path, o);
    for (unsigned round = 0; round < 4; round++) {
        n = open_image(g, path, NODE_RDWR);
        for (unsigned i = 0; i < model->steps; i++) {
            model_co_step(n, shadow, DISK, rand, buf);
        }
        model_co_compare(n, shadow, DISK, buf);
        g_assert_cmpint(node_co_flush(n), ==, 0);
        g_assert_cmpuint(own_check(n, 0).corruptions, ==, 0);
        g_assert_cmpuint(own_check(n, 0).leaks, ==, 0);
        node_co_unref(n);
        if (model->table_size > 1) { /* QEMU cannot open those */
            qemu_check(path);
            qemu_compare(path, shadow, DISK);
        }
        n = open_image(g, path, 0);
        model_co_compare(n, shadow, DISK, buf);
        node_co_unref(n);
    }
    g_rand_free(rand);
    g_free(shadow);
    g_free(buf);
}

static void test_model(gconstpointer data)
{
    model = data;
    run_graph(model_run);
}

/* --- many allocations at once, over many new tables --- */

enum { WRITERS = 64, PER_WRITER = 16 };
struct writer {
    struct node *n;
    unsigned idx;
    struct co_latch *latch;
};

static uint64_t spot(unsigned writer, unsigned i)
{
    /* 4 KiB clusters, 1-cluster tables: 2 MiB a table. */
    return ((uint64_t)(i * WRITERS + writer) * 3571 % 16384) * 16384;
}

static CO_FN void writer_entry(void *arg)
{
    struct writer *w = arg;
    uint8_t buf[512];

    for (unsigned i = 0; i < PER_WRITER; i++) {
        model_fill(buf, sizeof(buf), w->idx * 100 + i);
        g_assert_cmpint(do_write(w->n, spot(w->idx, i), buf, sizeof(buf), 0),
                        ==, 0);
        if (i % 5 == w->idx % 5) {
            g_assert_cmpint(node_co_flush(w->n), ==, 0);
        }
    }
    co_latch_done(w->latch);
}

static CO_FN void parallel_run(struct graph *g)
{
    g_autofree char *path = scratch_path("parallel.qed");
    struct writer w[WRITERS];
    struct co_latch latch = { 0 };
    uint8_t buf[512], got[512];
    struct node *n;

    make_image(g, path,
               json_pack("{s:i,s:i,s:i}", "size", 256 << 20, "cluster_size",
                         4096, "table_size", 2));
    n = open_image(g, path, NODE_RDWR);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer) { n, i, &latch };
        co_latch_add(&latch);
        co_start(graph_loop(g), writer_entry, &w[i]);
    }
    co_latch_co_wait(&latch);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < WRITERS * PER_WRITER; i++) {
            unsigned writer = i % WRITERS, k = i / WRITERS;

            model_fill(buf, sizeof(buf), writer * 100 + k);
            g_assert_cmpint(do_read(n, spot(writer, k), got, 512), ==, 0);
            g_assert_cmpmem(got, 512, buf, 512);
        }
        node_co_unref(n);
        n = open_image(g, path, 0);
    }
    g_assert_cmpuint(own_check(n, 0).corruptions, ==, 0);
    g_assert_cmpuint(own_check(n, 0).allocated_clusters, ==,
                     WRITERS * PER_WRITER);
    node_co_unref(n);
    qemu_check(path);
}

static void test_parallel(void)
{
    run_graph(parallel_run);
}

/* --- images that were never closed --- */

static void copy_file(const char *from, const char *to)
{
    g_free(must_run("cp --sparse=always '%s' '%s'", from, to));
}

static uint64_t features_of(const char *path)
{
    g_autofree char *bytes = NULL;
    size_t len;

    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    return get_le64(bytes + 16);
}

static CO_FN void unclosed_run(struct graph *g)
{
    g_autofree char *path = scratch_path("live.qed"),
                    *copy = scratch_path("copy.qed");
    uint8_t buf[3000], got[3000];
    struct node *n, *c;

    make_image(g, path, json_pack("{s:i}", "size", 64 << 20));
    n = open_image(g, path, NODE_RDWR);
    model_fill(buf, sizeof(buf), 9);
    g_assert_cmpint(do_write(n, 70000, buf, sizeof(buf), 0), ==, 0);
    g_assert_cmpint(node_co_flush(n), ==, 0);
    copy_file(path, copy);
    /* No backing file: dirty until it is closed (M6). */
    g_assert_cmpuint(features_of(copy), ==, QED_F_NEED_CHECK);
    qemu_check(copy);
    c = open_image(g, copy, 0);
    g_assert_cmpint(do_read(c, 70000, got, sizeof(got)), ==, 0);
    g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
    node_co_unref(c);
    g_assert_cmpuint(features_of(copy), ==, QED_F_NEED_CHECK);
    c = open_image(g, copy, NODE_RDWR); /* repairs */
    g_assert_cmpuint(features_of(copy), ==, 0);
    g_assert_cmpint(do_read(c, 70000, got, sizeof(got)), ==, 0);
    g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
    node_co_unref(c);
    /* What was not flushed reaches the file by itself (M9). */
    g_assert_cmpint(do_write(n, 8 << 20, buf, sizeof(buf), 0), ==, 0);
    do {
        co_sleep(UINT64_C(200000000));
        copy_file(path, copy);
        c = open_image(g, copy, 0);
        g_assert_cmpint(do_read(c, 8 << 20, got, sizeof(got)), ==, 0);
        node_co_unref(c);
    } while (memcmp(got, buf, sizeof(buf)));
    node_co_unref(n);
    g_assert_cmpuint(features_of(path), ==, 0);
}

static void test_unclosed(void)
{
    run_graph(unclosed_run);
}

/* --- backing reference --- */

static CO_FN void backing_run(struct graph *g)
{
    g_autofree char *path = scratch_path("top.qed"),
                    *base = scratch_path("b1.raw");
    g_autofree char *base2 = scratch_path("b2.raw");
    g_autofree uint8_t *data = g_malloc(1 << 20);
    g_autoptr(GError) err = NULL;
    g_autofree char *long_name = g_strnfill(1024, 'x');
    uint8_t got[512];
    const char *fmt;
    struct node *n;

    model_fill(data, 1 << 20, 1);
    g_assert_true(g_file_set_contents(base, (char *)data, 1 << 20, NULL));
    g_assert_true(g_file_set_contents(base2, (char *)data, 1 << 20, NULL));
    make_image(g, path,
               json_pack("{s:i,s:s,s:s}", "size", 1 << 20, "backing_file", base,
                         "backing_fmt", "raw"));
    for (unsigned i = 0; i < 5; i++) {
        const char *want = i % 2 ? base : base2;

        n = open_image(g, path, NODE_RDWR);
        g_assert_cmpint(do_read(n, 4096, got, 512), ==, 0);
        g_assert_cmpmem(got, 512, data + 4096, 512);
        g_assert_cmpint(n->drv->co_change_backing(n, want, "raw", &err), ==, 0);
        g_assert_cmpstr(n->drv->header_backing(n, &fmt), ==, want);
        g_assert_cmpstr(fmt, ==, "raw");
        node_co_unref(n);
        g_assert_cmpuint(features_of(path), ==,
                         QED_F_BACKING_FILE | QED_F_NO_PROBE);
        qemu_check(path);
    }
    n = open_image(g, path, NODE_RDWR);
    g_assert_cmpint(n->drv->co_change_backing(n, long_name, NULL, &err), ==,
                    -ENOSPC);
    g_clear_error(&err);
    /* A discard must not show the base again (G8). */
    g_assert_cmpint(node_co_discard(n, 65536, 65536), ==, 0);
    g_assert_cmpint(do_read(n, 65536, got, 512), ==, 0);
    g_assert_true(buf_is_zero(got, 512));
    g_assert_cmpint(do_write(n, 0, data, 65536, IO_FUA), ==, 0);
    g_assert_cmpuint(features_of(path) & QED_F_NEED_CHECK, ==, 0);
    /* Without the base the rule changes at once (M5, M6). */
    g_assert_cmpint(n->drv->co_change_backing(n, NULL, NULL, &err), ==, 0);
    g_assert_cmpuint(features_of(path), ==, 0);
    g_assert_null(n->drv->header_backing(n, &fmt));
    g_assert_cmpint(do_write(n, 512 << 10, data, 65536, IO_FUA), ==, 0);
    g_assert_cmpuint(features_of(path), ==, QED_F_NEED_CHECK);
    node_co_unref(n);
    g_assert_cmpuint(features_of(path), ==, 0);
    qemu_check(path);
}

static void test_backing(void)
{
    run_graph(backing_run);
}

/* --- status, resize --- */

static CO_FN void status_run(struct graph *g)
{
    g_autofree char *path = scratch_path("big.qed");
    g_autoptr(GError) err = NULL;
    uint64_t size = UINT64_C(16) << 40, off = 0;
    unsigned answers = 0;
    uint8_t buf[512] = { 1 };
    struct extent ext;
    struct node *n;

    make_image(g, path, json_pack("{s:I}", "size", (json_int_t)size));
    n = open_image(g, path, NODE_RDWR);
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
    g_assert_cmpint(node_co_truncate(n, size + (1 << 20), &err), ==, 0);
    g_assert_cmpint(node_co_truncate(n, size, NULL), ==, -ENOTSUP);
    g_assert_cmpint(node_co_truncate(n, UINT64_C(1) << 62, NULL), <, 0);
    node_co_unref(n);
    qemu_check(path);
    n = open_image(g, path, 0);
    g_assert_cmpuint(n->size, ==, size + (1 << 20));
    node_co_unref(n);
}

static void test_status(void)
{
    run_graph(status_run);
}

/* --- damage --- */

struct damage {
    const char *name;
    uint64_t at; /* offset in the file */
    uint64_t value;
    bool opens; /* read-only */
    unsigned corruptions;
};
static const struct damage damages[] = {
    /* header, 4 KiB clusters, tables of 2: L1 at 4096, L2 at 12288 or behind */
    { "cluster_size", 4, 5000 | UINT64_C(2) << 32, false, 0 },
    { "cluster_size-0", 4, UINT64_C(2) << 32, false, 0 },
    { "table_size", 4, 4096 | UINT64_C(3) << 32, false, 0 },
    { "table-bomb", 4, (64 << 20) | UINT64_C(16) << 32, false, 0 },
    { "header_size", 12, 0, false, 0 },
    { "features", 16, 0x100, false, 0 },
    { "l1-offset", 40, 4097, false, 0 },
    { "l1-past-end", 40, UINT64_C(1) << 40, false, 0 },
    { "l1-wraps", 40, UINT64_MAX - 4095, false, 0 },
    { "size-odd", 48, 1000, false, 0 },
    { "size-huge", 48, UINT64_MAX - 511, false, 0 },
    { "l1-entry-odd", 4096, 4097, true, 1 },
    { "l1-entry-header", 4096, 0, true, 0 },
    { "l1-entry-far", 4096, UINT64_C(1) << 50, true, 1 },
    { "l1-entry-l1", 4096 + 8, 4096, true, 1 },
};

static CO_FN void damage_one(struct graph *g, const struct damage *d)
{
    g_autofree char *path = scratch_path("damaged.qed");
    g_autofree char *bytes = NULL;
    g_autoptr(GError) err = NULL;
    struct check_result res;
    uint8_t buf[512] = { 1 };
    struct node *n = NULL;
    size_t len;

    make_image(g, path,
               json_pack("{s:i,s:i,s:i}", "size", 8 << 20, "cluster_size", 4096,
                         "table_size", 2));
    n = open_image(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, 512, 0), ==, 0);
    node_co_unref(n);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    put_le64(bytes + d->at, d->value);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
    g_test_message("%s", d->name);
    if (try_open_image(g, path, 0, &n, &err) < 0) {
        g_test_message("%s", err->message);
        g_assert_false(d->opens);
        return;
    }
    g_assert_true(d->opens);
    res = own_check(n, 0);
    g_assert_cmpuint(res.corruptions, ==, d->corruptions);
    node_co_unref(n);
    n = open_image(g, path, NODE_RDWR | NODE_CHECK);
    res = own_check(n, CHECK_FIX_ERRORS);
    g_assert_cmpuint(res.corruptions_fixed, ==, d->corruptions);
    res = own_check(n, CHECK_FIX_LEAKS);
    g_assert_cmpuint(res.corruptions, ==, 0);
    res = own_check(n, 0);
    g_assert_cmpuint(res.leaks + res.corruptions, ==, 0);
    g_assert_cmpint(do_write(n, 0, buf, 512, IO_FUA), ==, 0);
    node_co_unref(n);
    qemu_check(path);
}

static CO_FN void damage_run(struct graph *g)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        damage_one(g, &damages[i]);
    }
}

static void test_damage(void)
{
    run_graph(damage_run);
}

/* Two pointers to one cluster, and one past the end of the file. */
static CO_FN void duplicate_run(struct graph *g)
{
    g_autofree char *path = scratch_path("duplicate.qed");
    g_autofree char *bytes = NULL;
    uint8_t buf[8192] = { 1 }, got[512];
    struct check_result res;
    struct node *n;
    uint64_t table;
    size_t len;

    make_image(g, path,
               json_pack("{s:i,s:i,s:i}", "size", 8 << 20, "cluster_size", 4096,
                         "table_size", 2));
    n = open_image(g, path, NODE_RDWR);
    model_fill(buf, sizeof(buf), 5);
    g_assert_cmpint(do_write(n, 0, buf, 8192, 0), ==, 0);
    node_co_unref(n);
    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    table = get_le64(bytes + 4096);
    put_le64(bytes + table + 8, get_le64(bytes + table));
    put_le64(bytes + table + 16, len + 4096);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
    n = open_image(g, path, NODE_RDWR | NODE_CHECK);
    /* The stray pointer reads as an error, and what is allocated now does not
     * become its cluster (M7). */
    g_assert_cmpint(do_read(n, 8192, got, 512), ==, -EINVAL);
    for (unsigned i = 8; i < 16; i++) {
        g_assert_cmpint(do_write(n, i * 4096, buf, 4096, 0), ==, 0);
    }
    g_assert_cmpint(node_co_flush(n), ==, 0);
    g_assert_cmpint(do_read(n, 8192, got, 512), ==, -EINVAL);
    res = own_check(n, 0);
    g_assert_cmpuint(res.corruptions, >=, 1);
    res = own_check(n, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS);
    g_assert_cmpuint(res.corruptions_fixed, >=, 1);
    g_assert_cmpint(do_read(n, 0, got, 512), ==, 0);
    g_assert_cmpmem(got, 512, buf, 512);
    node_co_unref(n);
    n = open_image(g, path, 0);
    g_assert_cmpuint(own_check(n, 0).corruptions, ==, 0);
    node_co_unref(n);
}

static void test_duplicate(void)
{
    run_graph(duplicate_run);
}

/* --- limits --- */

/* Tiny on disk, huge tables: memory stays bounded, in bytes. */
static CO_FN void bomb_run(struct graph *g)
{
    g_autofree char *path = scratch_path("bomb.qed");
    uint64_t table = 16 << 20, base = 64 << 20, size = base + 200 * table;
    struct qed_header h = {
        .cluster_size = 1 << 20,
        .table_size = 16,
        .header_size = 1,
        .l1_table_offset = 1 << 20,
        .image_size = UINT64_C(1) << 60,
    };
    g_autofree uint8_t *bytes = g_malloc0((1 << 20) + 200 * 8);
    struct qed_image *img;
    uint8_t buf[512];
    struct node *n;

    qed_header_encode(&h, bytes);
    for (unsigned i = 0; i < 200; i++) {
        put_le64(bytes + (1 << 20) + i * 8, base + i * table);
    }
    g_assert_true(
        g_file_set_contents(path, (char *)bytes, (1 << 20) + 200 * 8, NULL));
    g_free(must_run("truncate -s %" PRIu64 " '%s'", size, path));
    n = open_image(g, path, 0);
    img = n->state;
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t span = (table / 8) << 20;

        g_assert_cmpint(do_read(n, i * span, buf, 512), ==, 0);
        g_assert_true(buf_is_zero(buf, 512));
        g_assert_cmpuint(img->l2.bytes, <=, QED_CACHE_BYTES);
    }
    g_assert_cmpuint(own_check(n, 0).corruptions, ==, 0);
    node_co_unref(n);
}

static void test_bomb(void)
{
    run_graph(bomb_run);
}

/* --- read-only and back, drained --- */

static CO_FN void reopen_run(struct graph *g)
{
    g_autofree char *path = scratch_path("reopen.qed");
    g_autoptr(GError) err = NULL;
    uint8_t buf[700], got[700];
    struct node *n;

    make_image(g, path, json_pack("{s:i}", "size", 8 << 20));
    n = open_image(g, path, NODE_RDWR);
    for (unsigned i = 0; i < 3; i++) {
        model_fill(buf, sizeof(buf), i);
        g_assert_cmpint(do_write(n, i * 1000000, buf, sizeof(buf), 0), ==, 0);
        node_co_drain_begin(n); /* everything is in the file, and clean */
        g_assert_cmpuint(features_of(path), ==, 0);
        node_drain_end(n);
        g_assert_cmpint(
            do_write(n, i * 1000000 + 500000, buf, sizeof(buf), IO_FUA), ==, 0);
        g_assert_cmpuint(features_of(path), ==, QED_F_NEED_CHECK);
        node_co_set_read_only(n, true, &err);
        g_assert_no_error(err);
        g_assert_cmpuint(features_of(path), ==, 0);
        qemu_check(path);
        g_assert_cmpint(do_write(n, 0, buf, sizeof(buf), 0), <, 0);
        g_assert_cmpint(do_read(n, i * 1000000, got, sizeof(got)), ==, 0);
        g_assert_cmpmem(got, sizeof(got), buf, sizeof(buf));
        node_co_set_read_only(n, false, &err);
        g_assert_no_error(err);
    }
    node_co_unref(n);
    qemu_check(path);
}

static void test_reopen(void)
{
    run_graph(reopen_run);
}

/* --- growing over a base that is longer --- */

/* What the file holds now, as one who finds it after a crash. */
static CO_FN void grown_co_check_copy(struct graph *g, const char *path,
                                      const uint8_t *data, uint32_t old)
{
    g_autofree char *copy = scratch_path("grown.qed"), *bytes = NULL;
    g_autofree uint8_t *got = g_malloc(1 << 20);
    struct node *n;
    gsize len;

    g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
    g_assert_true(g_file_set_contents(copy, bytes, (gssize)len, NULL));
    n = open_image(g, copy, NODE_RDWR);
    g_assert_cmpuint(n->size, ==, 1 << 20);
    g_assert_cmpint(do_read(n, 0, got, 1 << 20), ==, 0);
    g_assert_true(memcmp(got, data, old - 512) == 0);
    g_assert_true(buf_is_zero(got + old, (1 << 20) - old));
    node_co_unref(n);
}

static CO_FN void grow_run(struct graph *g)
{
    g_autofree char *path = scratch_path("grow.qed"),
                    *base = scratch_path("long.raw");
    g_autofree uint8_t *data = g_malloc(1 << 20), *got = g_malloc(1 << 20);
    g_autoptr(GError) err = NULL;
    uint32_t old = 300 * 512;
    struct node *n;

    model_fill(data, 1 << 20, 1);
    for (unsigned written = 0; written < 2; written++) {
        g_assert_true(g_file_set_contents(base, (char *)data, 1 << 20, NULL));
        make_image(g, path,
                   json_pack("{s:i,s:s,s:s}", "size", old, "backing_file", base,
                             "backing_fmt", "raw"));
        n = open_image(g, path, NODE_RDWR);
        if (written) {
            g_assert_cmpint(do_write(n, old - 512, data + old - 512, 512, 0),
                            ==, 0);
        }
        node_co_truncate(n, 1 << 20, &err);
        g_assert_no_error(err);
        grown_co_check_copy(g, path, data, old);
        for (unsigned pass = 0; pass < 2; pass++) {
            g_assert_cmpint(do_read(n, 0, got, 1 << 20), ==, 0);
            g_assert_true(memcmp(got, data, old) == 0);
            g_assert_true(buf_is_zero(got + old, (1 << 20) - old));
            node_co_unref(n);
            n = open_image(g, path, NODE_RDWR);
        }
        node_co_unref(n);
        qemu_check(path);
        memset(got, 0, 1 << 20);
        memcpy(got, data, old);
        qemu_compare(path, got, 1 << 20);
    }
}

static void test_grow(void)
{
    run_graph(grow_run);
}

/* --- images of QEMU --- */

static const struct {
    unsigned cluster_k, table;
} qemu_programs[] = { { 4, 2 }, { 4, 16 }, { 64, 4 }, { 1024, 2 }, { 64, 16 } };

static CO_FN void qemu_run(struct graph *g)
{
    g_autofree char *path = scratch_path("peer.qed"),
                    *raw = scratch_path("peer.raw");
    g_autofree char *base = scratch_path("peerbase.qed");

    for (unsigned i = 0; i < G_N_ELEMENTS(qemu_programs); i++) {
        g_autofree char *want = NULL;
        g_autofree uint8_t *got = g_malloc(9 << 20);
        struct node *n;
        size_t len;

        g_free(must_run("qemu-img create -q -f qed '%s' 9M", base));
        g_free(must_run("qemu-io -f qed -c 'write -P 3 0 9M' '%s'", base));
        g_free(must_run("qemu-img create -q -f qed -b '%s' -F qed -o "
                        "cluster_size=%uk,table_size=%u '%s' 9M",
                        base, qemu_programs[i].cluster_k,
                        qemu_programs[i].table, path));
        g_free(must_run("qemu-io -f qed -c 'write -P 5 12345 70000' -c "
                        "'write -z 1M 1M' -c 'write -P 6 7000k 100k' '%s'",
                        path));
        g_free(must_run("qemu-img convert -f qed -O raw '%s' '%s'", path, raw));
        g_assert_true(g_file_get_contents(raw, &want, &len, NULL));
        n = open_image(g, path, NODE_RDWR);
        g_assert_cmpint(do_read(n, 0, got, len), ==, 0);
        g_assert_true(memcmp(got, want, len) == 0);
        model_fill(got, 200000, i);
        memcpy(want + 3000000, got, 200000);
        g_assert_cmpint(do_write(n, 3000000, got, 200000, 0), ==, 0);
        node_co_unref(n);
        qemu_check(path);
        qemu_compare(path, (uint8_t *)want, len);
    }
}

static void test_qemu(void)
{
    if (!have_tool("qemu-img") || !have_tool("qemu-io")) {
        g_test_skip("qemu-img, qemu-io");
        return;
    }
    run_graph(qemu_run);
}

int main(int argc, char **argv)
{
    static const struct model models[] = {
        { 4096, 1, false, 150 },   { 4096, 2, true, 150 },
        { 65536, 4, false, 150 },  { 65536, 4, true, 150 },
        { 1 << 20, 16, true, 60 }, { 16384, 8, true, 150 },
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qed/basic", test_basic);
    for (unsigned i = 0; i < G_N_ELEMENTS(models); i++) {
        g_autofree char *name = g_strdup_printf(
            "/qed/model/%u-%u-%s", models[i].cluster_size, models[i].table_size,
            models[i].backing ? "backing" : "plain");
        g_test_add_data_func(name, &models[i], test_model);
    }
    g_test_add_func("/qed/parallel", test_parallel);
    g_test_add_func("/qed/unclosed", test_unclosed);
    g_test_add_func("/qed/backing", test_backing);
    g_test_add_func("/qed/status", test_status);
    g_test_add_func("/qed/damage", test_damage);
    g_test_add_func("/qed/duplicate", test_duplicate);
    g_test_add_func("/qed/bomb", test_bomb);
    g_test_add_func("/qed/reopen", test_reopen);
    g_test_add_func("/qed/grow", test_grow);
    g_test_add_func("/qed/qemu", test_qemu);
    return g_test_run();
}
