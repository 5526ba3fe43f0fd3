/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the qcow2 driver: refcounts of all widths, what is handed out again and
 * when, subclusters that several write first, writes that would hit metadata.
 */
#include "util.h"
#include <errno.h>
#include <string.h>
#include "base/endian.h"
#include "format/qcow2/check/counts.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "graph/image.h"
#include "hold-driver.h"
#include "sim/sim.h"

enum { CLUSTER = 65536 };

static void qemu_check(const char *path)
{
    if (have_tool("qemu-img")) {
        g_free(must_run("qemu-img check -f qcow2 '%s'", path));
    }
}

static CO_FN struct check_result own_check(struct node *n, unsigned fix)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;

    n->drv->co_check(n, fix, &res, &err);
    g_assert_no_error(err);
    return res;
}

/* --- values --- */

static void test_values(void)
{
    uint8_t block[64];
    uint64_t model[512];

    for (unsigned order = 0; order <= 6; order++) {
        unsigned n = (unsigned)sizeof(block) * 8 >> order;
        uint64_t max = order == 6 ? UINT64_MAX
                                  : (UINT64_C(1) << (1u << order)) - 1;

        memset(block, 0, sizeof(block));
        memset(model, 0, sizeof(model));
        for (unsigned k = 0; k < 4000; k++) {
            unsigned i = (unsigned)g_test_rand_int_range(0, (gint32)n);
            uint64_t v = ((uint64_t)(guint32)g_test_rand_int() << 32 |
                          (guint32)g_test_rand_int()) &
                         max;

            qcow2_count_put(order, block, i, v);
            model[i] = v;
            i = (unsigned)g_test_rand_int_range(0, (gint32)n);
            g_assert_cmpuint(qcow2_count_get(order, block, i), ==, model[i]);
        }
    }
    /* As they stand in the file. */
    memset(block, 0, sizeof(block));
    qcow2_count_put(0, block, 1, 1);
    g_assert_cmpuint(block[0], ==, 2);
    qcow2_count_put(2, block, 3, 9);
    g_assert_cmpuint(block[1], ==, 0x90);
    qcow2_count_put(4, block, 1, 0x1234);
    g_assert_cmpuint(block[2], ==, 0x12);
    g_assert_cmpuint(block[3], ==, 0x34);
}

static void test_counts(void)
{
    struct qcow2_counts *c = qcow2_counts_new();

    g_assert_cmpuint(qcow2_counts_next(c, 0), ==, UINT64_MAX);
    g_assert_cmpint(qcow2_counts_add(c, 5, 3), ==, 0);
    g_assert_cmpint(qcow2_counts_add(c, 7, 9000), ==, 0);
    g_assert_cmpint(qcow2_counts_add(c, UINT64_C(1) << 46, 1), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(c, 4), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(c, 7), ==, 2);
    g_assert_cmpuint(qcow2_counts_get(c, 9006), ==, 1);
    g_assert_cmpuint(qcow2_counts_next(c, 0), ==, 5);
    g_assert_cmpuint(qcow2_counts_next(c, 9007), ==, UINT64_C(1) << 46);
    g_assert_cmpuint(qcow2_counts_end(c), ==, (UINT64_C(1) << 46) + 1);
    qcow2_counts_remove(c, 5, 1);
    g_assert_cmpuint(qcow2_counts_next(c, 0), ==, 6);
    qcow2_counts_free(c);
}

/* --- bytes of the file --- */

static void patch(const char *path, uint64_t at, uint64_t value)
{
    g_autofree char *all = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &all, &len, NULL));
    g_assert_cmpuint(at + 8, <=, len);
    put_be64(all + at, value);
    g_assert_true(g_file_set_contents(path, all, (gssize)len, NULL));
}

static uint64_t peek(const char *path, uint64_t at)
{
    g_autofree char *all = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(path, &all, &len, NULL));
    return get_be64(all + at);
}

/* --- what is handed out again --- */

static CO_FN uint64_t place_of(struct node *n, uint64_t off)
{
    struct qcow2_run run;

    g_assert_cmpint(qcow2_co_lookup(qcow2_image(n), off, 512, &run), ==, 0);
    return run.kind == QCOW2_DATA ? run.host : 0;
}

/* Let what was set free be taken. */
static CO_FN void settle(struct node *n)
{
    g_assert_cmpint(node_co_flush(n), ==, 0);
    qcow2_co_reclaim(qcow2_image(n));
}

static CO_FN void quarantine_run(struct graph *g)
{
    g_autofree char *path = scratch_path("quarantine.qcow2");
    g_autofree uint8_t *buf = g_malloc(CLUSTER);
    struct qcow2_image *img;
    uint64_t first, count, epoch;
    struct node *n;

    make_qcow2(g, path, json_pack("{s:i}", "size", 8 << 20));
    n = open_qcow2(g, path, NODE_RDWR);
    img = qcow2_image(n);
    memset(buf, 0xee, CLUSTER);
    g_assert_cmpint(do_write(n, 0, buf, CLUSTER, 0), ==, 0);
    settle(n);
    first = place_of(n, 0);
    g_assert_cmpuint(first, !=, 0);
    /* Gone in memory only: the pointer in the file still leads there. */
    epoch = qcow2_access_begin(img);
    g_assert_cmpint(node_co_discard(n, 0, CLUSTER), ==, 0);
    g_assert_cmpuint(place_of(n, 0), ==, 0);
    g_assert_cmpint(do_write(n, 1 << 20, buf, CLUSTER, 0), ==, 0);
    g_assert_cmpuint(place_of(n, 1 << 20), !=, first);
    /* Durably gone, but somebody may be reading it. */
    settle(n);
    g_assert_cmpint(do_write(n, 2 << 20, buf, CLUSTER, 0), ==, 0);
    g_assert_cmpuint(place_of(n, 2 << 20), !=, first);
    g_assert_cmpint(qcow2_co_refcount_get(img, first, &count), ==, 0);
    g_assert_cmpuint(count, ==, 1);
    /* A later one does not hold it. */
    g_assert_cmpuint(qcow2_access_begin(img), >, epoch);
    qcow2_access_end(img, epoch);
    settle(n);
    g_assert_cmpint(qcow2_co_refcount_get(img, first, &count), ==, 0);
    g_assert_cmpuint(count, ==, 0);
    qcow2_access_end(img, epoch + 1);
    /* It is taken, and nothing of what it held shows. */
    g_assert_cmpint(do_write(n, 3 << 20, buf, 512, 0), ==, 0);
    g_assert_cmpuint(place_of(n, 3 << 20), ==, first);
    g_assert_cmpint(do_read(n, 3 << 20, buf, CLUSTER), ==, 0);
    g_assert_cmpuint(buf[511], ==, 0xee);
    g_assert_true(buf_is_zero(buf + 512, CLUSTER - 512));
    node_co_unref(n);
    qemu_check(path);
}

static void test_quarantine(void)
{
    run_graph(quarantine_run);
}

/* A question for the map reads a table that is moved and set free meanwhile: its
 * place must not be taken before the read has ended. */
static CO_FN void asked_entry(void *arg)
{
    struct node *n = arg;
    struct extent ext;

    g_assert_cmpint(node_co_status(n, UINT64_C(1) << 30, 512, &ext), ==, 0);
}

static CO_FN void late_read_run(struct graph *g)
{
    enum { LARGE = 128 << 10 }; /* two slices to a table */
    const uint64_t second = UINT64_C(1) << 30;
    g_autofree char *path = scratch_path("late.qcow2");
    g_autofree uint8_t *buf = g_malloc(LARGE);
    uint64_t l1, l2;
    struct node *n;

    make_qcow2(g, path,
               json_pack("{s:I,s:i}", "size", (json_int_t)second * 2,
                         "cluster_size", LARGE));
    n = open_qcow2(g, path, NODE_RDWR);
    memset(buf, 0x11, LARGE);
    g_assert_cmpint(do_write(n, 0, buf, LARGE, 0), ==, 0);
    g_assert_cmpint(do_write(n, second, buf, LARGE, 0), ==, 0);
    node_co_unref(n);
    /* Not known to be ours alone: a write moves it. */
    l1 = peek(path, 40);
    l2 = peek(path, l1) & QCOW2_OFFSET_MASK;
    patch(path, l1, l2);
    n = open_qcow2_held(g, path, NODE_RDWR);
    hold_next_read(l2 + LARGE / 2, 512);
    co_start(graph_loop(g), asked_entry, n);
    while (!hold_waiting()) {
        co_relax();
    }
    memset(buf, 0xff, LARGE);
    for (uint64_t off = LARGE; off < 8 * LARGE; off += LARGE) {
        g_assert_cmpint(do_write(n, off, buf, LARGE, 0), ==, 0);
        settle(n);
    }
    hold_set(false);
    while (hold_waiting()) {
        co_relax();
    }
    g_assert_cmpint(do_read(n, second, buf, LARGE), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0x11);
    g_assert_cmpuint(buf[LARGE - 1], ==, 0x11);
    node_co_unref(n);
    qemu_check(path);
}

static void test_late_read(void)
{
    run_graph(late_read_run);
}

/* Discards and writes by turns do not let the file grow. */
static CO_FN void reuse_run(struct graph *g)
{
    g_autofree char *path = scratch_path("reuse.qcow2");
    g_autofree uint8_t *buf = g_malloc(CLUSTER * 8);
    uint64_t size = 0;
    struct node *n;

    make_qcow2(g, path, json_pack("{s:i}", "size", 32 << 20));
    n = open_qcow2(g, path, NODE_RDWR);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t off = (i * 7 % 32) * (1 << 20);

        memset(buf, (int)i + 1, CLUSTER * 8);
        g_assert_cmpint(do_write(n, off, buf, CLUSTER * 8, 0), ==, 0);
        settle(n);
        g_assert_cmpint(node_co_discard(n, off, CLUSTER * 8), ==, 0);
        settle(n);
        if (i == 4) {
            size = node_file(n)->size;
        }
    }
    g_assert_cmpuint(node_file(n)->size, ==, size);
    node_co_unref(n);
    /* Found again by whoever opens the image next. */
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, CLUSTER * 8, 0), ==, 0);
    settle(n);
    g_assert_cmpuint(node_file(n)->size, ==, size);
    g_assert_cmpuint(own_check(n, 0).leaks, ==, 0);
    node_co_unref(n);
    qemu_check(path);
}

static void test_reuse(void)
{
    run_graph(reuse_run);
}

/* --- subclusters --- */

struct sub_write {
    struct node *n;
    unsigned i;
    struct co_latch *done;
};

static CO_FN void sub_entry(void *arg)
{
    struct sub_write *w = arg;
    uint8_t buf[2048];

    memset(buf, (int)w->i + 1, sizeof(buf));
    g_assert_cmpint(do_write(w->n, w->i * sizeof(buf), buf, sizeof(buf), 0), ==,
                    0);
    co_latch_done(w->done);
}

static CO_FN void subclusters_run(struct graph *g)
{
    g_autofree char *path = scratch_path("sub.qcow2");
    g_autofree uint8_t *buf = g_malloc(CLUSTER);
    struct sub_write w[32];
    struct co_latch done = { 0 };
    struct node *n;

    make_qcow2(g, path,
               json_pack("{s:i,s:b}", "size", 8 << 20, "extended_l2", 1));
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpuint(node_get_limits(n)->cluster_size, ==, 2048);
    for (unsigned i = 0; i < 32; i++) {
        w[i] = (struct sub_write) { n, i, &done };
        co_latch_add(&done);
        co_start(graph_loop(g), sub_entry, &w[i]);
    }
    co_latch_co_wait(&done);
    g_assert_cmpint(do_read(n, 0, buf, CLUSTER), ==, 0);
    for (unsigned i = 0; i < 32; i++) {
        g_assert_cmpuint(place_of(n, i * 2048), ==, place_of(n, 0) + i * 2048);
        g_assert_cmpuint(buf[i * 2048], ==, i + 1);
        g_assert_cmpuint(buf[i * 2048 + 2047], ==, i + 1);
    }
    g_assert_cmpint(node_co_flush(n), ==, 0);
    g_assert_cmpuint(own_check(n, 0).allocated_clusters, ==, 1);
    g_assert_cmpuint(own_check(n, 0).leaks, ==, 0);
    node_co_unref(n);
    qemu_check(path);
}

static void test_subclusters(void)
{
    run_graph(subclusters_run);
}

/* A large disk with little in it is emptied by what is there, not by its size:
 * else this ends with the patience of who runs it. */
static CO_FN void empty_run(struct graph *g)
{
    const uint64_t size = UINT64_C(64) << 40;
    g_autofree char *path = scratch_path("empty.qcow2");
    uint8_t buf[512] = { 1 };
    struct node *n;

    make_qcow2(
        g, path,
        json_pack("{s:I,s:b}", "size", (json_int_t)size, "extended_l2", 1));
    n = open_qcow2(g, path, NODE_RDWR);
    for (uint64_t off = 0; off < size; off += size / 8) {
        g_assert_cmpint(do_write(n, off, buf, sizeof(buf), 0), ==, 0);
    }
    g_assert_cmpint(do_write(n, size - 512, buf, sizeof(buf), 0), ==, 0);
    settle(n);
    g_assert_cmpint(do_write(n, size / 2 + CLUSTER, buf, sizeof(buf), 0), ==,
                    0);
    g_assert_cmpint(node_co_make_empty(n, NULL), ==, 0);
    g_assert_cmpuint(own_check(n, 0).allocated_clusters, ==, 0);
    g_assert_cmpuint(own_check(n, 0).leaks, ==, 0);
    for (uint64_t off = 0; off < size; off += size / 8) {
        g_assert_cmpint(do_read(n, off, buf, sizeof(buf)), ==, 0);
        g_assert_true(buf_is_zero(buf, sizeof(buf)));
    }
    node_co_unref(n);
    qemu_check(path);
}

static void test_empty(void)
{
    run_graph(empty_run);
}

/* --- metadata is not overwritten --- */

static CO_FN void overlap_run(struct graph *g)
{
    g_autofree char *path = scratch_path("overlap.qcow2");
    uint8_t buf[512] = { 1 };
    uint64_t l1, l2, before;
    struct node *n;

    make_qcow2(g, path, json_pack("{s:i}", "size", 8 << 20));
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, sizeof(buf), 0), ==, 0);
    node_co_unref(n);
    /* The cluster of guest offset 0 is the L1 table, or so an entry says. */
    l1 = peek(path, 40);
    l2 = peek(path, l1) & QCOW2_OFFSET_MASK;
    patch(path, l2, l1 | QCOW2_COPIED);
    before = peek(path, l1);
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, sizeof(buf), 0), ==, -EIO);
    g_assert_cmpint(do_write(n, 1 << 20, buf, sizeof(buf), 0), ==, -EIO);
    g_assert_cmpint(node_co_zero(n, 0, CLUSTER, 0), ==, -EIO);
    g_assert_cmpint(node_co_truncate(n, 16 << 20, NULL), <, 0);
    g_assert_cmpint(node_co_truncate(n, 1 << 20, NULL), <, 0);
    g_assert_cmpint(node_co_make_empty(n, NULL), <, 0);
    g_assert_cmpint(node_co_snapshot(n, SNAPSHOT_CREATE, "s", NULL), <, 0);
    g_assert_cmpint(node_co_change_backing(n, "other", "raw", NULL), <, 0);
    node_co_unref(n);
    g_assert_cmpuint(peek(path, 8), ==, 0);
    g_assert_cmpuint(peek(path, 24), ==, 8 << 20);
    g_assert_cmpuint(peek(path, l1), ==, before);
    g_assert_cmpuint(peek(path, 72) & QCOW2_I_CORRUPT, !=, 0);
}

static void test_overlap(void)
{
    run_graph(overlap_run);
}

/* Without any refcounts every cluster looks free, the header's first of all. */
static CO_FN void uncounted_run(struct graph *g)
{
    g_autofree char *path = scratch_path("uncounted.qcow2");
    uint8_t buf[512] = { 1 };
    struct node *n;

    make_qcow2(g, path, json_pack("{s:i}", "size", 8 << 20));
    patch(path, peek(path, 48), 0);
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, sizeof(buf), 0), ==, -EIO);
    g_assert_cmpint(node_co_flush(n), <, 0);
    node_co_unref(n);
    g_assert_cmpuint(peek(path, 0) >> 32, ==, QCOW2_MAGIC);
    g_assert_cmpuint(peek(path, 72) & QCOW2_I_CORRUPT, !=, 0);
}

static void test_uncounted(void)
{
    run_graph(uncounted_run);
}

/* An entry may name a place that no refcount table reaches: its number must not
 * be taken for that of a block that exists. */
static CO_FN void far_run(struct graph *g)
{
    enum { SMALL = 512 };
    g_autofree char *path = scratch_path("far.qcow2");
    uint64_t far = UINT64_C(1) << 55, l2, count, own;
    struct qcow2_image *img;
    uint8_t buf[SMALL] = { 1 };
    struct node *n;

    make_qcow2(g, path,
               json_pack("{s:i,s:i,s:i}", "size", 64 << 10, "cluster_size",
                         SMALL, "refcount_bits", 64));
    n = open_qcow2(g, path, NODE_RDWR);
    g_assert_cmpint(do_write(n, 0, buf, SMALL, 0), ==, 0);
    g_assert_cmpint(do_write(n, SMALL, buf, SMALL, 0), ==, 0);
    node_co_unref(n);
    l2 = peek(path, peek(path, 40)) & QCOW2_OFFSET_MASK;
    own = peek(path, l2 + 8) & QCOW2_OFFSET_MASK;
    patch(path, l2, far | own | QCOW2_COPIED);
    n = open_qcow2(g, path, NODE_RDWR);
    img = qcow2_image(n);
    g_assert_cmpint(node_co_discard(n, 0, SMALL), ==, 0);
    settle(n);
    g_assert_cmpint(qcow2_co_refcount_get(img, own, &count), ==, 0);
    g_assert_cmpuint(count, ==, 1);
    g_assert_cmpint(qcow2_co_refcount_get(img, far | own, &count), ==, 0);
    g_assert_cmpuint(count, ==, 0);
    node_co_unref(n);
}

static void test_far(void)
{
    run_graph(far_run);
}

/* --- writes that take place and fail --- */

/* The @k-th write of a resize that moves the L1 table. False: there was none. */
static CO_FN bool landed_one(struct graph *g, unsigned k)
{
    struct sim *sim = loop_sim(graph_loop(g));
    struct sim_fault f = {
        .op = SIM_WRITE, .nth = k, .err = EIO, .lands = true
    };
    struct node *n = open_qcow2(g, "/i", NODE_RDWR);
    uint64_t before = sim_count(sim, SIM_WRITE);
    uint8_t data[512], got[512];
    bool reached, flushed;

    sim_inject(sim, &f);
    node_co_truncate(n, 4 << 20, NULL);
    reached = sim_count(sim, SIM_WRITE) - before >= k;
    sim_faults_clear(sim);
    /* A new L2 table: its L1 entry must reach the table that the file has. */
    memset(data, (int)k, sizeof(data));
    flushed = do_write(n, 512 << 10, data, sizeof(data), 0) == 0 &&
              node_co_flush(n) == 0;
    node_co_unref(n);
    n = open_qcow2(g, "/i", 0);
    g_assert_cmpuint(own_check(n, 0).corruptions, ==, 0);
    g_assert_cmpint(do_read(n, 512 << 10, got, sizeof(got)), ==, 0);
    g_assert_true(!flushed || memcmp(got, data, sizeof(got)) == 0);
    node_co_unref(n);
    return reached;
}

static CO_FN void landed_run(struct graph *g)
{
    struct sim *sim = loop_sim(graph_loop(g));
    struct sim_image *fresh;
    unsigned k = 1;

    make_qcow2(g, "/i",
               json_pack("{s:i,s:i}", "size", 1 << 20, "cluster_size", 512));
    fresh = sim_image_copy(sim_live(sim));
    while (landed_one(g, k)) {
        sim_restore(sim, fresh);
        k++;
    }
    g_assert_cmpuint(k, >, 3);
    sim_image_free(fresh);
}

static void test_landed(void)
{
    run_graph_on_sim(1, landed_run);
}

/* --- what fails late --- */

/* No refcount block can be so far out: the cluster for it goes back. */
static CO_FN void block_run(struct graph *g)
{
    struct qcow2_image *img;
    uint64_t count = 1, end;
    struct node *n;

    make_qcow2(g, "/i", json_pack("{s:i}", "size", 1 << 20));
    n = open_qcow2(g, "/i", NODE_RDWR);
    img = qcow2_image(n);
    end = img->space->end;
    g_assert_cmpint(qcow2_co_block_add(img, QCOW2_REFTABLE_BYTES_MAX / 8), ==,
                    -EFBIG);
    settle(n);
    g_assert_cmpint(
        qcow2_co_refcount_get(img, end << img->cluster_bits, &count), ==, 0);
    g_assert_cmpuint(count, ==, 0);
    g_assert_cmpuint(own_check(n, 0).leaks, ==, 0);
    node_co_unref(n);
}

static void test_block(void)
{
    run_graph_on_sim(1, block_run);
}

/* Zeroes smaller than a cluster, while nothing can be published: as many wait as
 * may, the others fail; afterwards all goes on. */
static CO_FN void pending_run(struct graph *g)
{
    const uint64_t cluster = 16384, many = QCOW2_PENDING_MAX + 10;
    struct sim *sim = loop_sim(graph_loop(g));
    struct sim_fault f = {
        .op = SIM_WRITE, .nth = 1, .err = ENOSPC, .sticky = true
    };
    uint64_t failed = 0;
    struct node *n;

    make_qcow2(g, "/i",
               json_pack("{s:I,s:i,s:b}", "size", (json_int_t)(many * cluster),
                         "cluster_size", (int)cluster, "extended_l2", 1));
    n = open_qcow2(g, "/i", NODE_RDWR);
    sim_inject(sim, &f);
    for (uint64_t i = 0; i < many; i++) {
        failed += node_co_zero(n, i * cluster, 512, 0) < 0;
    }
    g_assert_cmpuint(pending_count(&qcow2_image(n)->pending), <=,
                     QCOW2_PENDING_MAX);
    g_assert_cmpuint(failed, >=, 10);
    sim_faults_clear(sim);
    g_assert_cmpint(node_co_zero(n, 0, 512, 0), ==, 0);
    g_assert_cmpint(node_co_flush(n), ==, 0);
    g_assert_cmpuint(pending_count(&qcow2_image(n)->pending), ==, 0);
    node_co_unref(n);
}

static void test_pending(void)
{
    run_graph_on_sim(1, pending_run);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/values", test_values);
    g_test_add_func("/qcow2/counts", test_counts);
    g_test_add_func("/qcow2/quarantine", test_quarantine);
    g_test_add_func("/qcow2/late-read", test_late_read);
    g_test_add_func("/qcow2/reuse", test_reuse);
    g_test_add_func("/qcow2/subclusters", test_subclusters);
    g_test_add_func("/qcow2/empty", test_empty);
    g_test_add_func("/qcow2/overlap", test_overlap);
    g_test_add_func("/qcow2/uncounted", test_uncounted);
    g_test_add_func("/qcow2/far", test_far);
    g_test_add_func("/qcow2/landed", test_landed);
    g_test_add_func("/qcow2/block", test_block);
    g_test_add_func("/qcow2/pending", test_pending);
    return g_test_run();
}
