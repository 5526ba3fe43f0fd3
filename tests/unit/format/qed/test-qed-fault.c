/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every call to storage fails once: the k-th write, flush, truncate, for all k
 * of a scenario, once and for good, for lack of space and for a broken disk.
 * Nothing crashes; reads go on showing what was acknowledged; afterwards the
 * image opens, checks clean and holds what a successful flush covered.
 */
#include "util.h"
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include "loop/io.h"
#include "sim/sim.h"

enum { CELLS = 12, CELL = 3000, STRIDE = 150000, DISK = 2 << 20 };

/* Values that a cell may hold after a reopen, as bits; value 0 is the base's
 * or zeroes at the start, 1 zeroes, the rest are bytes. */
static struct cell {
    unsigned may;
    unsigned live;  /* what a read must give now; UINT_MAX: unknown */
    unsigned acked; /* newest acknowledged value */
} cells[CELLS];
static bool with_backing;
static struct sim_image *prepared;

static uint8_t byte_of(unsigned value)
{
    return (uint8_t)(value == 0   ? (with_backing ? 0xbb : 0)
                     : value == 1 ? 0
                                  : value);
}

static bool cell_is(const uint8_t *buf, unsigned value)
{
    for (unsigned i = 0; i < CELL; i++) {
        if (buf[i] != byte_of(value)) {
            return false;
        }
    }
    return true;
}

static void cell_settle(unsigned c)
{
    cells[c].may = 1u << cells[c].acked;
}

static CO_FN void cell_write(struct node *n, unsigned c, unsigned value,
                             unsigned flags)
{
    uint8_t buf[CELL];
    int ret;

    memset(buf, byte_of(value), CELL);
    cells[c].may |= 1u << value;
    ret = do_write(n, (uint64_t)c * STRIDE, buf, CELL, flags);
    if (ret < 0) {
        cells[c].live = UINT_MAX;
        return;
    }
    cells[c].live = cells[c].acked = value;
    if (flags & IO_FUA) {
        cell_settle(c);
    }
}

static CO_FN void cell_zero(struct node *n, unsigned c)
{
    cells[c].may |= 1u << 1;
    if (node_co_zero(n, (uint64_t)c * STRIDE, CELL, IO_MAY_UNMAP) < 0) {
        cells[c].live = UINT_MAX;
    } else {
        cells[c].live = cells[c].acked = 1;
    }
}

static CO_FN int all_flush(struct node *n)
{
    int ret = node_co_flush(n);

    for (unsigned c = 0; c < CELLS && ret == 0; c++) {
        if (cells[c].live != UINT_MAX) {
            cell_settle(c);
        }
    }
    return ret;
}

static CO_FN void live_check(struct node *n)
{
    uint8_t buf[CELL];

    for (unsigned c = 0; c < CELLS; c++) {
        if (cells[c].live != UINT_MAX) {
            g_assert_cmpint(do_read(n, (uint64_t)c * STRIDE, buf, CELL), ==, 0);
            g_assert_true(cell_is(buf, cells[c].live));
        }
    }
}

static CO_FN void scenario_run(struct graph *g)
{
    struct node *n;

    if (try_open_image(g, "/top", NODE_RDWR, &n, NULL) < 0) {
        return;
    }
    cell_write(n, 0, 2, 0);
    cell_write(n, 1, 3, 0);
    all_flush(n);
    cell_write(n, 0, 4, 0);
    cell_write(n, 2, 5, IO_FUA);
    cell_zero(n, 3);
    cell_zero(n, 0);
    live_check(n);
    all_flush(n);
    cell_write(n, 3, 6, 0);
    cell_write(n, 4, 7, 0);
    co_sleep(UINT64_C(1500000000)); /* a pass by age */
    cell_write(n, 5, 8, 0);
    live_check(n);
    n->drv->co_change_backing(n, with_backing ? "/base2" : NULL, "raw", NULL);
    co_sleep(UINT64_C(6000000000)); /* NEED_CHECK may be cleared */
    cell_write(n, 6, 9, IO_FUA);
    cell_write(n, 7, 10, 0);
    if (all_flush(n) < 0 && all_flush(n) == -EIO) {
        g_assert_cmpint(node_co_flush(n), ==, -EIO);
    }
    live_check(n);
    node_co_unref(n);
}

static CO_FN void aftermath(struct graph *g)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    uint8_t buf[CELL];
    struct node *n;

    n = open_image(g, "/top", NODE_CHECK);
    g_assert_cmpint(n->drv->co_check(n, 0, &res, &err), ==, 0);
    g_assert_cmpuint(res.corruptions, ==, 0);
    node_co_unref(n);
    n = open_image(g, "/top", NODE_RDWR);
    for (unsigned c = 0; c < CELLS; c++) {
        unsigned found = 0;

        g_assert_cmpint(do_read(n, (uint64_t)c * STRIDE, buf, CELL), ==, 0);
        for (unsigned v = 0; v < 11; v++) {
            found |= cell_is(buf, v) ? 1u << v : 0;
        }
        if (!(found & cells[c].may)) {
            g_test_message("cell %u holds %x, may hold %x", c, found,
                           cells[c].may);
        }
        g_assert_true(found & cells[c].may);
    }
    node_co_unref(n);
}

/* False when the scenario ended before the fault came. */
static CO_FN bool sweep_one(struct graph *g, const struct sim_fault *f)
{
    struct sim *sim = loop_sim(graph_loop(g));
    uint64_t before;
    bool reached;

    sim_restore(sim, prepared);
    for (unsigned c = 0; c < CELLS; c++) {
        cells[c] = (struct cell) { .may = 1 };
    }
    before = sim_count(sim, f->op);
    sim_inject(sim, f);
    scenario_run(g);
    reached = sim_count(sim, f->op) - before >= f->nth;
    sim_faults_clear(sim);
    aftermath(g);
    return reached;
}

static CO_FN void base_co_make(const char *path)
{
    g_autofree uint8_t *buf = g_malloc(DISK);
    struct io_file *f;
    struct iovec v;

    memset(buf, 0xbb, DISK);
    g_assert_cmpint(io_co_open(path, O_RDWR | O_CREAT, 0600, &f), ==, 0);
    g_assert_cmpint(io_co_pwritev(f, 0, iov_one(&v, buf, DISK), IO_TAG_DATA),
                    ==, 0);
    io_co_close(f);
}

static CO_FN void sweep_run(struct graph *g)
{
    static const enum sim_op kinds[] = {
        SIM_WRITE,
        SIM_FDATASYNC,
        SIM_TRUNCATE,
        SIM_FALLOCATE,
    };
    static const int errors[] = { EIO, ENOSPC };
    json_t *o = json_pack("{s:i,s:i}", "size", DISK, "cluster_size", 4096);
    unsigned runs = 0;

    if (with_backing) {
        base_co_make("/base");
        base_co_make("/base2");
        json_object_set_new(o, "backing_file", json_string("/base"));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    make_image(g, "/top", o);
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
    g_assert_cmpuint(runs, >, 60);
    sim_image_free(prepared);
}

static void test_sweep(gconstpointer data)
{
    with_backing = GPOINTER_TO_INT(data);
    run_graph_on_sim(1, sweep_run);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/qed-fault/plain", GINT_TO_POINTER(0), test_sweep);
    g_test_add_data_func("/qed-fault/backing", GINT_TO_POINTER(1), test_sweep);
    return g_test_run();
}
