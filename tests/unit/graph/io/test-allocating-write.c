/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Overlays: partial and whole writes over a slow base, tails, trims. */
#include "fake.h"

#define C 4096

struct world {
    struct graph *g;
    struct node *base, *top;
    struct backend *u;
};

static CO_FN void world_co_open(struct world *w, uint64_t base_size,
                                uint64_t top_size)
{
    w->g = fake_graph();
    w->base = fake_co_open(w->g,
                           "{'driver': 'fake', 'node-name': 'base', "
                           "'size': %d}",
                           (int)base_size);
    w->top = fake_co_open(w->g,
                          "{'driver': 'fake', 'node-name': 'top', "
                          "'size': %d, 'backing': 'base'}",
                          (int)top_size);
    w->u = fake_co_backend(w->top, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
    fake_fill(w->base, 0, base_size, 0xbb);
}

static CO_FN void world_co_close(struct world *w)
{
    backend_co_free(w->u);
    node_co_unref(w->top);
    node_co_unref(w->base);
    graph_co_free(w->g);
}

struct writer {
    struct backend *u;
    uint64_t off, len;
    int fill;
    bool done;
};

static CO_FN void writer_entry(void *arg)
{
    struct writer *w = arg;

    fake_co_write(w->u, w->off, w->len, w->fill);
    w->done = true;
}

static CO_FN void writer_co_start(struct writer *w)
{
    co_start(co_loop(co_self()), writer_entry, w);
    for (int i = 0; i < 10; i++) {
        co_relax();
    }
}

/* S1: the whole write and the other partial one survive; the whole write does
 * not wait for the base's read that hangs. */
static CO_FN void fill_race_entry(void *arg)
{
    struct world w;
    struct writer part = { .off = 100, .len = 50, .fill = 1 };
    struct writer whole = { .off = 0, .len = 2 * C, .fill = 2 };

    world_co_open(&w, 16 * C, 16 * C);
    part.u = whole.u = w.u;
    fake_of(w.base)->hold_reads = true;
    writer_co_start(&part);
    g_assert_cmpuint(fake_of(w.base)->held_count, ==, 1);
    writer_co_start(&whole);
    fake_co_wait(&whole.done);
    g_assert_false(part.done);
    g_assert_cmpuint(fake_of(w.top)->last_write_len, ==, 2 * C);
    fake_release(w.base);
    fake_co_wait(&part.done);
    /* In place, with nothing but the guest's bytes. */
    g_assert_cmpuint(fake_of(w.top)->last_write_off, ==, 100);
    g_assert_cmpuint(fake_of(w.top)->last_write_len, ==, 50);
    fake_co_expect(w.u, 0, 100, 2);
    fake_co_expect(w.u, 100, 50, 1);
    fake_co_expect(w.u, 150, 2 * C - 150, 2);
    fake_co_expect(w.u, 2 * C, C, 0xbb);
    world_co_close(&w);
}

static void test_fill_race(void)
{
    fake_run(fill_race_entry, NULL);
}

static CO_FN void two_partial_entry(void *arg)
{
    struct world w;
    struct writer a = { .off = C + 10, .len = 20, .fill = 1 };
    struct writer b = { .off = C + 100, .len = C, .fill = 2 };

    world_co_open(&w, 16 * C, 16 * C);
    a.u = b.u = w.u;
    fake_of(w.base)->hold_reads = true;
    writer_co_start(&a);
    writer_co_start(&b);
    fake_release(w.base);
    fake_co_wait(&a.done);
    fake_co_wait(&b.done);
    fake_co_expect(w.u, C, 10, 0xbb);
    fake_co_expect(w.u, C + 10, 20, 1);
    fake_co_expect(w.u, C + 30, 70, 0xbb);
    fake_co_expect(w.u, C + 100, C, 2);
    fake_co_expect(w.u, 2 * C + 100, C - 100, 0xbb);
    world_co_close(&w);
}

static void test_two_partial(void)
{
    fake_run(two_partial_entry, NULL);
}

/* Small writes to one cluster share one read of the base. */
static CO_FN void share_entry(void *arg)
{
    struct world w;
    struct writer small[8];

    world_co_open(&w, 16 * C, 16 * C);
    fake_of(w.base)->hold_reads = true;
    for (int i = 0; i < 8; i++) {
        small[i] = (struct writer) { w.u, C + 100 * (unsigned)i, 50, i + 1 };
        writer_co_start(&small[i]);
    }
    g_assert_cmpuint(fake_of(w.base)->reads, ==, 1);
    fake_release(w.base);
    for (int i = 0; i < 8; i++) {
        fake_co_wait(&small[i].done);
        fake_co_expect(w.u, C + 100 * (unsigned)i, 50, i + 1);
        fake_co_expect(w.u, C + 100 * (unsigned)i + 50, 50, 0xbb);
    }
    g_assert_cmpuint(fake_of(w.base)->reads, ==, 1);
    g_assert_null(w.top->inflight_reads);
    world_co_close(&w);
}

static void test_share(void)
{
    fake_run(share_entry, NULL);
}

/* One call for head, middle and tail; in place costs one status. */
static CO_FN void one_call_entry(void *arg)
{
    struct world w;
    struct fake_state *top;

    world_co_open(&w, 16 * C, 16 * C);
    top = fake_of(w.top);
    fake_co_write(w.u, C + 10, 3 * C, 7);
    g_assert_cmpuint(top->writes, ==, 1);
    g_assert_cmpuint(top->last_write_off, ==, C);
    g_assert_cmpuint(top->last_write_len, ==, 4 * C);
    top->statuses = 0;
    fake_co_write(w.u, 2 * C + 1, 100, 8);
    g_assert_cmpuint(top->statuses, ==, 1);
    g_assert_cmpuint(top->writes, ==, 2);
    top->statuses = 0;
    fake_co_expect(w.u, 2 * C + 1, 100, 8);
    g_assert_cmpuint(top->statuses, ==, 1);
    fake_co_expect(w.u, C, 10, 0xbb);
    fake_co_expect(w.u, 4 * C + 10, C - 10, 0xbb);
    world_co_close(&w);
}

static void test_one_call(void)
{
    fake_run(one_call_entry, NULL);
}

/* M8: bytes past the base's end are zero; the last cluster is short. */
static CO_FN void tails_entry(void *arg)
{
    struct world w;

    world_co_open(&w, 2 * C + 1000, 4 * C + 500);
    fake_co_expect(w.u, 2 * C, 1000, 0xbb);
    fake_co_expect(w.u, 2 * C + 1000, 2 * C - 500, 0);
    fake_co_write(w.u, 2 * C + 10, 10, 1);
    fake_co_expect(w.u, 2 * C, 10, 0xbb);
    fake_co_expect(w.u, 2 * C + 20, 980, 0xbb);
    fake_co_expect(w.u, 2 * C + 1000, C - 1000, 0);
    /* Past the base nothing is fetched: the guest's bytes alone. */
    fake_of(w.base)->reads = 0;
    fake_co_write(w.u, 4 * C + 100, 400, 3);
    g_assert_cmpuint(fake_of(w.top)->last_write_len, ==, 400);
    g_assert_cmpuint(fake_of(w.base)->reads, ==, 0);
    fake_co_expect(w.u, 4 * C, 100, 0);
    fake_co_expect(w.u, 4 * C + 100, 400, 3);
    world_co_close(&w);
}

static void test_tails(void)
{
    fake_run(tails_entry, NULL);
}

static CO_FN void trim_entry(void *arg)
{
    struct world w;
    struct fake_state *top;

    world_co_open(&w, 8 * C, 8 * C);
    top = fake_of(w.top);
    fake_co_write(w.u, 0, 4 * C, 1);
    g_assert_cmpint(backend_co_discard(w.u, 100, 5 * C), ==, 0);
    fake_co_expect(w.u, C, 4 * C, 0); /* never the base (G8) */
    fake_co_expect(w.u, 0, C, 1);
    fake_co_expect(w.u, 5 * C, C, 0xbb);
    /* A ragged zero: clusters by the driver, the rest as data. */
    g_assert_cmpint(backend_co_zero(w.u, 5 * C + 10, 2 * C, 0), ==, 0);
    fake_co_expect(w.u, 5 * C, 10, 0xbb);
    fake_co_expect(w.u, 5 * C + 10, 2 * C, 0);
    fake_co_expect(w.u, 7 * C + 10, C - 10, 0xbb);
    /* Fast: at once and unchanged when it would need data. */
    top->writes = 0;
    g_assert_cmpint(backend_co_zero(w.u, 7 * C, 100, IO_FAST), ==, -ENOTSUP);
    g_assert_cmpint(backend_co_zero(w.u, 10, 8 * C - 10, IO_FAST), ==,
                    -ENOTSUP);
    fake_co_expect(w.u, 0, C, 1);
    g_assert_cmpint(backend_co_zero(w.u, C + 10, 7 * C - 10, IO_FAST), ==, 0);
    g_assert_cmpuint(top->writes, ==, 0);
    fake_co_expect(w.u, C, 7 * C, 0);
    /* Without zero clusters: data, and the same bytes. */
    top->no_zero = true;
    g_assert_cmpint(backend_co_zero(w.u, 0, C, IO_FAST), ==, -ENOTSUP);
    g_assert_cmpint(backend_co_zero(w.u, 0, C, 0), ==, 0);
    fake_co_expect(w.u, 0, 8 * C, 0);
    g_assert_cmpint(backend_co_discard(w.u, 0, C), ==, 0);
    world_co_close(&w);
}

static void test_trim(void)
{
    fake_run(trim_entry, NULL);
}

static CO_FN void grow_entry(void *arg)
{
    struct world w;
    GError *err = NULL;

    world_co_open(&w, 8 * C, 4 * C);
    g_assert_cmpint(node_co_truncate(w.top, 10 * C, &err), ==, 0);
    g_assert_no_error(err);
    fake_co_expect(w.u, 0, 4 * C, 0xbb);
    fake_co_expect(w.u, 4 * C, 6 * C, 0);
    world_co_close(&w);
}

static void test_grow(void)
{
    fake_run(grow_entry, NULL);
}

/* FUA makes durable what a zero finds done already by somebody else. */
static CO_FN void zero_fua_entry(void *arg)
{
    static const unsigned flags[] = { IO_FUA, IO_FUA | IO_FAST };
    struct world w;

    world_co_open(&w, 16 * C, 16 * C);
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        unsigned before;

        g_assert_cmpint(backend_co_zero(w.u, 0, 2 * C, 0), ==, 0);
        before = fake_of(w.top)->flushes;
        g_assert_cmpint(backend_co_zero(w.u, 100, 200, flags[i]), ==, 0);
        g_assert_cmpuint(fake_of(w.top)->flushes, ==, before + 1);
        g_assert_cmpint(backend_co_zero(w.u, 100, 2 * C, flags[i] & IO_FUA), ==,
                        0);
        g_assert_cmpuint(fake_of(w.top)->flushes, ==, before + 2);
    }
    world_co_close(&w);
}

static void test_zero_fua(void)
{
    fake_run(zero_fua_entry, NULL);
}

static CO_FN void status_entry(void *arg)
{
    struct world w;
    struct extent e;

    world_co_open(&w, 4 * C, 8 * C);
    fake_co_write(w.u, 0, C, 1);
    g_assert_cmpint(backend_co_status(w.u, 0, 8 * C, &e), ==, 0);
    g_assert_true(e.len == C && e.depth == 1 && (e.flags & STATUS_DATA));
    g_assert_cmpint(backend_co_status(w.u, C, 7 * C, &e), ==, 0);
    g_assert_true(e.len == 3 * C && e.depth == 2);
    g_assert_cmpint(backend_co_status(w.u, 4 * C, 4 * C, &e), ==, 0);
    g_assert_true(e.len == 4 * C && e.depth == 0 && (e.flags & STATUS_ZERO));
    g_assert_cmpint(node_co_status_above(w.top, w.base, C, 7 * C, &e), ==, 0);
    g_assert_true(e.len == 7 * C && e.depth == 0 && e.flags == 0);
    g_assert_cmpint(backend_co_status(w.u, 8 * C, 1, &e), ==, -EIO);
    world_co_close(&w);
}

static void test_status(void)
{
    fake_run(status_entry, NULL);
}

/* --- many writers of disjoint pieces against a model --- */

#define PIECES 256
#define PIECE 700 /* no divisor of the cluster */

struct model {
    struct world w;
    uint8_t value[PIECES];
    unsigned running;
    guint32 seed;
};

struct model_writer {
    struct model *m;
    unsigned id;
};

static CO_FN void model_writer_entry(void *arg)
{
    struct model_writer *mw = arg;
    struct model *m = mw->m;
    GRand *rand = g_rand_new_with_seed(m->seed + mw->id);

    /* Writer i owns the pieces i, i + 8, ...: clusters are shared, bytes not. */
    for (int i = 0; i < 120; i++) {
        unsigned p = (unsigned)g_rand_int_range(rand, 0, PIECES / 8) * 8 +
                     mw->id;
        int what = g_rand_int_range(rand, 0, 10);

        if (what < 7) {
            m->value[p] = (uint8_t)g_rand_int_range(rand, 1, 200);
            fake_co_write(m->w.u, p * PIECE, PIECE, m->value[p]);
        } else if (what < 9) {
            m->value[p] = 0;
            g_assert_cmpint(backend_co_zero(m->w.u, p * PIECE, PIECE, 0), ==,
                            0);
        }
        fake_co_expect(m->w.u, p * PIECE, PIECE, m->value[p]);
    }
    g_rand_free(rand);
    m->running--;
}

static CO_FN void model_entry(void *arg)
{
    struct model m = { .running = 8 };
    struct model_writer mw[8];

    m.seed = (guint32)g_test_rand_int();
    g_test_message("seed %u", m.seed);
    world_co_open(&m.w, PIECES * PIECE / 2, PIECES * PIECE);
    for (unsigned p = 0; p < PIECES; p++) {
        m.value[p] = p < PIECES / 2 ? 0xbb : 0;
    }
    for (unsigned i = 0; i < 8; i++) {
        mw[i] = (struct model_writer) { &m, i };
        co_start(co_loop(co_self()), model_writer_entry, &mw[i]);
    }
    while (m.running > 0) {
        co_relax();
    }
    for (unsigned p = 0; p < PIECES; p++) {
        fake_co_expect(m.w.u, p * PIECE, PIECE, m.value[p]);
    }
    world_co_close(&m.w);
}

static void test_model(void)
{
    fake_run(model_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cow/fill-race", test_fill_race);
    g_test_add_func("/cow/two-partial", test_two_partial);
    g_test_add_func("/cow/share", test_share);
    g_test_add_func("/cow/one-call", test_one_call);
    g_test_add_func("/cow/tails", test_tails);
    g_test_add_func("/cow/trim", test_trim);
    g_test_add_func("/cow/grow", test_grow);
    g_test_add_func("/cow/zero-fua", test_zero_fua);
    g_test_add_func("/cow/status", test_status);
    g_test_add_func("/cow/model", test_model);
    return g_test_run();
}
