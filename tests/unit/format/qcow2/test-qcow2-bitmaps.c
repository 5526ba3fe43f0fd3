/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty bitmaps of qcow2 images: their bits, and every call to storage that
 * fails once while they are recorded, edited and stored.  Whatever failed, the
 * image checks clean, an action that was acknowledged is there, and a bitmap
 * that counts has every write since it was cleared.
 */
#include "util.h"
#include <inttypes.h>
#include <string.h>
#include "format/qcow2/bitmap/bitmap.h"
#include "graph/image.h"
#include "sim/sim.h"

enum { DISK = 1 << 20, UNIT = 4096 };

/* --- bits --- */

static bool bit(const struct qcow2_bitmap *b, uint64_t i)
{
    return b->bits[i / 8] >> i % 8 & 1;
}

static void test_set(void)
{
    for (unsigned round = 0; round < 2000; round++) {
        struct qcow2_bitmap b = { .granularity_bits = 9 };
        uint64_t size = (uint64_t)g_test_rand_int_range(1, 64 * 512);
        uint64_t off = (uint64_t)g_test_rand_int_range(0, (gint32)size);
        uint64_t len = (uint64_t)g_test_rand_int_range(0, (gint32)(size - off) +
                                                              1);

        g_assert_cmpint(qcow2_bitmap_fit(&b, size), ==, 0);
        qcow2_bitmap_set(&b, off, len);
        for (uint64_t i = 0; i < b.n_bytes * 8; i++) {
            bool want = len && i * 512 < off + len && (i + 1) * 512 > off;

            g_assert_cmpint(bit(&b, i), ==, want);
        }
        g_free(b.bits);
    }
}

/* A disk that shrinks and grows again has no bits there. */
static void test_fit(void)
{
    struct qcow2_bitmap b = { .granularity_bits = 9 };

    g_assert_cmpint(qcow2_bitmap_fit(&b, 40 * 512), ==, 0);
    qcow2_bitmap_set(&b, 0, 40 * 512);
    g_assert_cmpint(qcow2_bitmap_fit(&b, 9 * 512 + 1), ==, 0);
    g_assert_cmpint(qcow2_bitmap_fit(&b, 100 * 512), ==, 0);
    for (uint64_t i = 0; i < 100; i++) {
        g_assert_cmpint(bit(&b, i), ==, i < 10);
    }
    g_free(b.bits);
}

static void test_merge(void)
{
    static const uint8_t units[] = { 9, 12, 16 };

    for (unsigned round = 0; round < 900; round++) {
        struct qcow2_bitmap to = { .granularity_bits = units[round % 3] };
        struct qcow2_bitmap from = { .granularity_bits = units[round / 3 % 3] };
        uint64_t size = (uint64_t)g_test_rand_int_range(1, DISK);
        uint64_t at = (uint64_t)g_test_rand_int_range(0, (gint32)size);

        qcow2_bitmap_fit(&to, size);
        qcow2_bitmap_fit(&from, size);
        qcow2_bitmap_set(&from, at, 1);
        qcow2_bitmap_merge(&to, &from, size);
        for (uint64_t i = 0; i < to.n_bytes * 8; i++) {
            uint64_t first = at & ~((UINT64_C(1) << from.granularity_bits) - 1);
            uint64_t end = MIN(first + (UINT64_C(1) << from.granularity_bits),
                               size);
            uint64_t unit = UINT64_C(1) << to.granularity_bits;

            g_assert_cmpint(bit(&to, i), ==,
                            i * unit < end && (i + 1) * unit > first);
        }
        g_free(to.bits);
        g_free(from.bits);
    }
}

/* --- faults --- */

/* What the file may hold of one bitmap. */
static struct known {
    bool there, gone;             /* may be so */
    uint8_t written[DISK / UNIT]; /* since it was cleared for sure */
} known_a, known_c;
static struct sim_image *prepared;

static CO_FN int act(struct node *n, enum bitmap_op op, const char *name)
{
    struct bitmap_args args = { .granularity = op == BITMAP_ADD ? UNIT : 0,
                                .from = n,
                                .from_name = "a" };

    return node_co_bitmap(n, op, name, &args, NULL);
}

static CO_FN void put(struct node *n, unsigned unit)
{
    uint8_t buf[UNIT];

    memset(buf, 7, UNIT);
    if (do_write(n, (uint64_t)unit * UNIT, buf, UNIT, 0) == 0) {
        known_a.written[unit] = 1;
    }
}

static CO_FN void scenario_run(struct graph *g)
{
    struct node *n = open_qcow2(g, "/top", NODE_RDWR);

    put(n, 3);
    if (act(n, BITMAP_ADD, "c") == 0) {
        known_c = (struct known) { .there = true };
    } else {
        known_c.there = true;
    }
    put(n, 200);
    if (act(n, BITMAP_MERGE, "c") == 0) {
        known_c.written[3] |= known_a.written[3];
    }
    put(n, 77);
    memset(known_a.written, 0, sizeof(known_a.written));
    act(n, BITMAP_CLEAR, "a");
    put(n, 9);
    act(n, BITMAP_DISABLE, "off");
    put(n, 3);
    if (act(n, BITMAP_REMOVE, "off") == 0 && act(n, BITMAP_ADD, "off") == 0) {
        act(n, BITMAP_CLEAR, "off");
    }
    node_co_unref(n);
}

static CO_FN void known_check(struct node *n, const char *name,
                              const struct known *k)
{
    struct qcow2_image *img = qcow2_image(n);
    struct qcow2_bitmap *b = qcow2_bitmap_find(img, name);

    g_assert_true(b ? k->there : k->gone);
    if (!b || qcow2_bitmap_is_broken(b)) {
        return;
    }
    g_assert_cmpint(qcow2_co_bitmap_load(img, b, NULL), ==, 0);
    for (unsigned i = 0; i < DISK / UNIT; i++) {
        g_assert_true(!k->written[i] || bit(b, i));
    }
    g_clear_pointer(&b->bits, g_free);
}

static CO_FN void aftermath(struct graph *g)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    struct node *n = open_qcow2(g, "/top", NODE_CHECK);

    g_assert_cmpint(n->drv->co_check(n, 0, &res, &err), ==, 0);
    g_assert_cmpuint(res.corruptions, ==, 0);
    known_check(n, "a", &known_a);
    known_check(n, "c", &known_c);
    node_co_unref(n);
    n = open_qcow2(g, "/top", NODE_RDWR);
    g_assert_cmpint(act(n, BITMAP_ADD, "last"), ==, 0);
    node_co_unref(n);
}

/* False when the scenario ended before the fault came. */
static CO_FN bool sweep_one(struct graph *g, const struct sim_fault *f)
{
    struct sim *sim = loop_sim(graph_loop(g));
    uint64_t before;
    bool reached;

    sim_restore(sim, prepared);
    known_a = (struct known) { .there = true };
    known_c = (struct known) { .gone = true };
    before = sim_count(sim, f->op);
    sim_inject(sim, f);
    scenario_run(g);
    reached = sim_count(sim, f->op) - before >= f->nth;
    sim_faults_clear(sim);
    aftermath(g);
    return reached;
}

static CO_FN void sweep_run(struct graph *g)
{
    static const enum sim_op kinds[] = { SIM_WRITE, SIM_FDATASYNC };
    static const int errors[] = { EIO, ENOSPC };
    json_t *o = json_pack("{s:i,s:i}", "size", DISK, "cluster_size", 512);
    struct node *n;
    unsigned runs = 0;

    make_qcow2(g, "/top", o);
    n = open_qcow2(g, "/top", NODE_RDWR);
    g_assert_cmpint(act(n, BITMAP_ADD, "a"), ==, 0);
    g_assert_cmpint(act(n, BITMAP_ADD, "off"), ==, 0);
    node_co_unref(n);
    prepared = sim_image_copy(sim_live(loop_sim(graph_loop(g))));
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds) * 4; i++) {
        struct sim_fault f = { .op = kinds[i / 4], .path = "/top", .nth = 1 };

        f.err = errors[i & 1];
        f.sticky = i & 2;
        while (sweep_one(g, &f)) {
            f.nth++;
            runs++;
        }
    }
    g_test_message("%u faults", runs);
    g_assert_cmpuint(runs, >, 100);
    sim_image_free(prepared);
}

static void test_sweep(void)
{
    run_graph_on_sim(1, sweep_run);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2-bitmaps/set", test_set);
    g_test_add_func("/qcow2-bitmaps/fit", test_fit);
    g_test_add_func("/qcow2-bitmaps/merge", test_merge);
    g_test_add_func("/qcow2-bitmaps/faults", test_sweep);
    return g_test_run();
}
