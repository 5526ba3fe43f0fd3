/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes that do not wait for a base: E1 to E5 of graph/model/early.h. */
#include "fake.h"
#include "graph/memory.h"
#include "graph/model/early.h"

#define C 4096
#define S 512

struct world {
    struct graph *g;
    struct node *base, *top;
    struct backend *u;
};

static CO_FN void world_co_open(struct world *w, uint64_t size)
{
    w->g = fake_graph();
    w->g->early_always = true;
    w->base = fake_co_open(w->g,
                           "{'driver': 'fake', 'node-name': 'base', "
                           "'size': %d}",
                           (int)size);
    w->top = fake_co_open(w->g,
                          "{'driver': 'fake', 'node-name': 'top', "
                          "'size': %d, 'backing': 'base'}",
                          (int)size);
    w->u = fake_co_backend(w->top, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
    fake_fill(w->base, 0, size, 0xbb);
}

static CO_FN void world_co_close(struct world *w)
{
    backend_co_free(w->u);
    node_co_unref(w->top);
    node_co_unref(w->base);
    graph_co_free(w->g);
}

static void relax_co(void)
{
    for (int i = 0; i < 10; i++) {
        co_relax();
    }
}

/* A request of a coroutine of its own. */
struct request {
    struct backend *u;
    uint64_t off, len;
    int fill; /* < 0: a flush; 0x100: a read */
    unsigned flags;
    int ret;
    bool done;
};

static CO_FN void request_entry(void *arg)
{
    struct request *r = arg;
    struct iovec store;
    void *buf;

    if (r->fill < 0) {
        r->ret = backend_co_flush(r->u);
    } else {
        buf = g_malloc(r->len);
        memset(buf, r->fill, r->len);
        r->ret = r->fill & 0x100
                     ? backend_co_preadv(r->u, r->off,
                                         iov_one(&store, buf, r->len), 0)
                     : backend_co_pwritev(r->u, r->off,
                                          iov_one(&store, buf, r->len),
                                          r->flags);
        g_free(buf);
    }
    r->done = true;
}

static CO_FN void request_co_start(struct request *r)
{
    co_start(co_loop(co_self()), request_entry, r);
    relax_co();
}

/* Driver's bytes, without what is kept. */
static void expect_driver(struct node *n, uint64_t off, uint64_t len, int fill)
{
    struct fake_state *s = fake_of(n);

    for (uint64_t i = off; i < off + len; i++) {
        g_assert_cmpint(s->map[i / s->cluster], ==, FAKE_DATA);
        g_assert_cmphex(s->bytes[i], ==, fill);
    }
}

/* E1, E3: answered at once and read at once; a read of the rest and a flush
 * wait, and then the driver has all of the cluster. */
static CO_FN void no_wait_entry(void *arg)
{
    struct world w;
    struct extent ext;

    world_co_open(&w, 16 * C);
    fake_of(w.base)->hold_reads = true;
    fake_co_write(w.u, C + S, S, 1);
    fake_co_expect(w.u, C + S, S, 1);
    fake_co_write(w.u, C + 3 * S, S, 2); /* into the same */
    fake_co_expect(w.u, C + 3 * S, S, 2);
    g_assert_cmpint(backend_co_status(w.u, C, C, &ext), ==, 0);
    g_assert_cmphex(ext.flags & (STATUS_DATA | STATUS_ZERO | STATUS_ALLOCATED |
                                 STATUS_OFFSET_VALID),
                    ==, STATUS_DATA | STATUS_ALLOCATED);
    g_assert_cmpuint(ext.len, ==, C);

    struct request rest = { .u = w.u, .off = C, .len = C, .fill = 0x100 };
    struct request flush = { .u = w.u, .fill = -1 };
    struct request fua = {
        .u = w.u, .off = C, .len = S, .fill = 3, .flags = IO_FUA
    };
    struct request odd = {
        .u = w.u, .off = C + 5 * S + 7, .len = 9, .fill = 4
    };

    request_co_start(&rest);
    request_co_start(&flush);
    request_co_start(&fua);
    request_co_start(&odd);
    g_assert_false(rest.done || flush.done || fua.done || odd.done);
    g_assert_cmpint(fake_of(w.top)->map[1], ==, FAKE_NONE);
    fake_release(w.base);
    fake_co_wait(&rest.done);
    fake_co_wait(&flush.done);
    fake_co_wait(&fua.done);
    fake_co_wait(&odd.done);
    g_assert_cmpint(rest.ret | flush.ret | fua.ret | odd.ret, ==, 0);
    expect_driver(w.top, C, S, 3);
    expect_driver(w.top, C + S, S, 1);
    expect_driver(w.top, C + 2 * S, S, 0xbb);
    expect_driver(w.top, C + 3 * S, S, 2);
    expect_driver(w.top, C + 5 * S, 7, 0xbb);
    expect_driver(w.top, C + 5 * S + 7, 9, 4);
    expect_driver(w.top, C + 5 * S + 16, 3 * S - 16, 0xbb);
    world_co_close(&w);
}

static void test_no_wait(void)
{
    fake_run(no_wait_entry, NULL);
}

/* What covers the cluster ends the waiting, and the base never shows. */
static CO_FN void cancel_entry(void *arg)
{
    struct world w;

    world_co_open(&w, 16 * C);
    fake_of(w.base)->hold_reads = true;
    for (int i = 0; i < 4; i++) {
        fake_co_write(w.u, i * C + S, S, 1);
    }
    fake_co_write(w.u, 0, C, 2);
    g_assert_cmpint(backend_co_zero(w.u, C, C, 0), ==, 0);
    g_assert_cmpint(backend_co_discard(w.u, 2 * C, C), ==, 0);
    fake_co_write(w.u, 3 * C, C, 3);
    g_assert_cmpint(backend_co_flush(w.u), ==, 0);
    g_assert_null(early_find(w.top, 0));
    fake_co_expect(w.u, 0, C, 2);
    fake_co_expect(w.u, C, 2 * C, 0);
    fake_co_expect(w.u, 3 * C, C, 3);
    fake_release(w.base);
    relax_co();
    fake_co_expect(w.u, 0, C, 2);
    fake_co_expect(w.u, C, 2 * C, 0);
    fake_co_expect(w.u, 3 * C, C, 3);
    world_co_close(&w);
}

static void test_cancel(void)
{
    fake_run(cancel_entry, NULL);
}

/* Neither end of a write over several clusters waits. */
static CO_FN void split_entry(void *arg)
{
    struct world w;

    world_co_open(&w, 16 * C);
    fake_of(w.base)->hold_reads = true;
    fake_co_write(w.u, C - S, 2 * C + 2 * S, 1);
    expect_driver(w.top, C, 2 * C, 1);
    g_assert_cmpint(fake_of(w.top)->map[0], ==, FAKE_NONE);
    fake_co_write(w.u, 5 * C, C + S, 2); /* begins with one */
    fake_co_write(w.u, 9 * C + S, 2 * C - S, 3);
    expect_driver(w.top, 5 * C, C, 2);
    expect_driver(w.top, 10 * C, C, 3);
    fake_co_expect(w.u, C - S, 2 * C + 2 * S, 1);
    fake_co_expect(w.u, 5 * C, C + S, 2);
    fake_co_expect(w.u, 9 * C + S, 2 * C - S, 3);
    fake_release(w.base);
    g_assert_cmpint(backend_co_flush(w.u), ==, 0);
    expect_driver(w.top, 0, C - S, 0xbb);
    expect_driver(w.top, C - S, 2 * C + 2 * S, 1);
    expect_driver(w.top, 3 * C + S, C - S, 0xbb);
    expect_driver(w.top, 6 * C + S, C - S, 0xbb);
    expect_driver(w.top, 9 * C, S, 0xbb);
    world_co_close(&w);
}

static void test_split(void)
{
    fake_run(split_entry, NULL);
}

/* E5: with the share of the budget used up a write waits. */
static CO_FN void budget_entry(void *arg)
{
    const unsigned room = MEMORY_MIN / 8 / 2 / C;
    struct world w;

    world_co_open(&w, (room + 4) * C);
    memory_budget_set_total(graph_memory(w.g), MEMORY_MIN);
    fake_of(w.base)->hold_reads = true;
    for (unsigned i = 0; i < room; i++) {
        fake_co_write(w.u, i * C, S, 1);
    }

    struct request late = { .u = w.u, .off = room * C, .len = S, .fill = 2 };

    request_co_start(&late);
    g_assert_false(late.done);
    fake_co_write(w.u, S, S, 3); /* there is room in what is kept */
    fake_co_write(w.u, C, C, 4); /* nor does a whole one need any */
    g_assert_false(late.done);
    fake_release(w.base);
    fake_co_wait(&late.done);
    g_assert_cmpint(backend_co_flush(w.u), ==, 0);
    expect_driver(w.top, 0, S, 1);
    expect_driver(w.top, S, S, 3);
    expect_driver(w.top, 2 * S, C - 2 * S, 0xbb);
    expect_driver(w.top, C, C, 4);
    expect_driver(w.top, room * C, S, 2);
    world_co_close(&w);
}

static void test_budget(void)
{
    fake_run(budget_entry, NULL);
}

/* E3, E4: an error of the base is that of the flush, again and again; what was
 * written stays, and nothing more is kept meanwhile. */
static CO_FN void error_entry(void *arg)
{
    struct world w;
    struct request r;

    world_co_open(&w, 16 * C);
    fake_of(w.base)->fail_reads = -EIO;
    fake_co_write(w.u, S, S, 1);
    g_assert_cmpint(backend_co_flush(w.u), ==, -EIO);
    g_assert_cmpint(backend_co_flush(w.u), ==, -EIO);
    fake_co_expect(w.u, S, S, 1);
    r = (struct request) { .u = w.u, .off = 0, .len = C, .fill = 0x100 };
    request_co_start(&r);
    fake_co_wait(&r.done);
    g_assert_cmpint(r.ret, ==, -EIO);
    r = (struct request) { .u = w.u, .off = C, .len = S, .fill = 2 };
    request_co_start(&r);
    fake_co_wait(&r.done);
    g_assert_cmpint(r.ret, ==, -EIO);
    fake_co_write(w.u, 2 * S, S, 3);
    fake_co_write(w.u, 2 * C, C, 4);
    fake_of(w.base)->fail_reads = 0;
    g_assert_cmpint(backend_co_flush(w.u), ==, 0);
    expect_driver(w.top, 0, S, 0xbb);
    expect_driver(w.top, S, S, 1);
    expect_driver(w.top, 2 * S, S, 3);
    expect_driver(w.top, 3 * S, C - 3 * S, 0xbb);
    fake_co_expect(w.u, C, C, 0xbb);
    world_co_close(&w);
}

static void test_error(void)
{
    fake_run(error_entry, NULL);
}

/* The write of a fill fails. */
static CO_FN void failed_write_entry(void *arg)
{
    struct world w;

    world_co_open(&w, 16 * C);
    fake_of(w.top)->fail_writes = -ENOSPC;
    fake_co_write(w.u, S, S, 1);
    g_assert_cmpint(backend_co_flush(w.u), ==, -ENOSPC);
    g_assert_cmpint(fake_of(w.top)->map[0], ==, FAKE_NONE);
    fake_co_expect(w.u, S, S, 1);
    fake_co_expect(w.u, 2 * S, C - 2 * S, 0xbb);
    fake_of(w.top)->fail_writes = 0;
    for (unsigned i = 0; i < C / S; i++) {
        fake_co_write(w.u, i * S, S, 0);
    }
    g_assert_cmpint(backend_co_flush(w.u), ==, 0);
    expect_driver(w.top, 0, C, 0);
    world_co_close(&w);
}

static void test_failed_write(void)
{
    fake_run(failed_write_entry, NULL);
}

/* A drain waits for the fills; a node that closes, too. */
static CO_FN void drain_co_of(struct node *n)
{
    node_co_drain_begin(n);
    node_drain_end(n);
}

struct draining {
    struct node *n;
    bool done;
};

static CO_FN void draining_entry(void *arg)
{
    struct draining *d = arg;

    drain_co_of(d->n);
    d->done = true;
}

static CO_FN void drain_entry(void *arg)
{
    struct world w;

    world_co_open(&w, 16 * C);
    for (int i = 0; i < 2; i++) { /* of the overlay; of its base */
        struct draining d = { .n = i ? w.base : w.top };

        fake_of(w.base)->hold_reads = true;
        fake_co_write(w.u, i * C + S, S, 1);
        co_start(co_loop(co_self()), draining_entry, &d);
        relax_co();
        g_assert_false(d.done);
        fake_release(w.base);
        fake_co_wait(&d.done);
        expect_driver(w.top, i * C, S, 0xbb);
        expect_driver(w.top, i * C + S, S, 1);
    }
    world_co_close(&w);
}

static void test_drain(void)
{
    fake_run(drain_entry, NULL);
}

/* --- random requests --- */

#define CLUSTERS 24
#define SIZE (CLUSTERS * C)
#define WORKERS 6

/* Each worker has every WORKERS-th sector, so all share clusters; whole clusters
 * are changed by one that asked the others to pause. */
struct model {
    struct world w;
    uint8_t shadow[SIZE / S]; /* the byte that fills a sector */
    unsigned running, paused;
    bool pause;
    struct co_queue changed;
    GRand *rand;
};

struct worker {
    struct model *m;
    unsigned number, steps;
};

static CO_FN int model_co_write(struct model *m, unsigned sector,
                                unsigned count, int fill)
{
    uint8_t buf[3 * C];
    struct iovec store;
    unsigned flags = g_rand_int_range(m->rand, 0, 12) ? 0 : IO_FUA;
    int ret;

    memset(buf, fill, count * S);
    do { /* the base fails now and then; the same bytes come again */
        ret = backend_co_pwritev(m->w.u, (uint64_t)sector * S,
                                 iov_one(&store, buf, count * S), flags);
    } while (ret < 0);
    memset(m->shadow + sector, fill, count);
    return ret;
}

static CO_FN void model_co_read(struct model *m, unsigned sector)
{
    uint8_t buf[S];
    struct iovec store;

    if (backend_co_preadv(m->w.u, (uint64_t)sector * S, iov_one(&store, buf, S),
                          0) == 0) {
        for (unsigned i = 0; i < S; i++) {
            g_assert_cmphex(buf[i], ==, m->shadow[sector]);
        }
    }
}

/* Alone: zeroes, a discard, a write of whole and partial clusters. */
static CO_FN void model_co_alone(struct model *m)
{
    unsigned c = g_rand_int_range(m->rand, 0, CLUSTERS - 2);
    unsigned at = c * (C / S) + g_rand_int_range(m->rand, 0, C / S);
    int ret;

    switch (g_rand_int_range(m->rand, 0, 4)) {
    case 0: do { ret = backend_co_zero(m->w.u, (uint64_t)c * C, 2 * C, 0);
        } while (ret < 0);
        memset(m->shadow + c * (C / S), 0, 2 * C / S);
        break;
    case 1: do { ret = backend_co_discard(m->w.u, (uint64_t)c * C, C);
        } while (ret < 0);
        memset(m->shadow + c * (C / S), 0, C / S); /* over a base: zeroes */
        break;
    case 2:
        node_co_drain_begin(m->w.top);
        node_drain_end(m->w.top);
        break;
    default:
        model_co_write(m, at, g_rand_int_range(m->rand, 1, 2 * C / S),
                       g_rand_int_range(m->rand, 0, 0xbb));
    }
}

static CO_FN void worker_co_pause(struct model *m)
{
    while (m->pause) {
        m->paused++;
        co_queue_wake_all(&m->changed);
        while (m->pause) {
            co_queue_co_wait(&m->changed);
        }
        m->paused--;
    }
}

static CO_FN void worker_entry(void *arg)
{
    struct worker *k = arg;
    struct model *m = k->m;

    for (unsigned i = 0; i < k->steps; i++) {
        unsigned sector = g_rand_int_range(m->rand, 0, SIZE / S / WORKERS) *
                              WORKERS +
                          k->number;
        int what = g_rand_int_range(m->rand, 0, 100);

        worker_co_pause(m);
        if (what < 45) {
            model_co_write(m, sector, 1, g_rand_int_range(m->rand, 0, 0xbb));
        } else if (what < 85) {
            model_co_read(m, sector);
        } else if (what < 90) {
            (void)backend_co_flush(m->w.u);
        } else if (what < 95) {
            fake_of(m->w.base)->fail_reads = g_rand_int_range(m->rand, 0, 3)
                                                 ? 0
                                                 : -EIO;
        } else if (what < 97) {
            fake_of(m->w.top)->fail_writes = g_rand_int_range(m->rand, 0, 4)
                                                 ? 0
                                                 : -ENOSPC;
        } else {
            m->pause = true;
            while (m->paused < m->running - 1) {
                co_queue_co_wait(&m->changed);
            }
            fake_of(m->w.base)->fail_reads = 0;
            fake_of(m->w.top)->fail_writes = 0;
            model_co_alone(m);
            m->pause = false;
            co_queue_wake_all(&m->changed);
        }
        /* Nobody waits for ever: whoever repeats lets time go by. */
        if (g_rand_int_range(m->rand, 0, 20) == 0) {
            fake_of(m->w.base)->fail_reads = 0;
            fake_of(m->w.top)->fail_writes = 0;
        }
    }
    m->running--;
    co_queue_wake_all(&m->changed);
}

static CO_FN void model_entry(void *arg)
{
    struct model *m = g_new0(struct model, 1);
    struct worker workers[WORKERS];

    m->rand = arg;
    world_co_open(&m->w, SIZE);
    memset(m->shadow, 0xbb, sizeof(m->shadow));
    m->running = WORKERS;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker) { m, i, 400 };
        co_start(co_loop(co_self()), worker_entry, &workers[i]);
    }
    while (m->running > 0) {
        co_relax();
        fake_of(m->w.base)->latency_ns = g_rand_int_range(m->rand, 0, 4)
                                             ? 0
                                             : 50000;
        if (g_rand_int_range(m->rand, 0, 50) == 0) {
            fake_of(m->w.base)->fail_reads = 0;
            fake_of(m->w.top)->fail_writes = 0;
        }
    }
    fake_of(m->w.base)->fail_reads = 0;
    fake_of(m->w.top)->fail_writes = 0;
    g_assert_cmpint(backend_co_flush(m->w.u), ==, 0);
    g_assert_cmpuint(early_next(m->w.top, 0), ==, UINT64_MAX);
    for (unsigned i = 0; i < SIZE / S; i++) {
        fake_co_expect(m->w.u, (uint64_t)i * S, S, m->shadow[i]);
    }
    world_co_close(&m->w);
    g_free(m);
}

static void test_model(void)
{
    for (unsigned i = 0; i < 20; i++) {
        GRand *rand = g_rand_new_with_seed((guint32)g_test_rand_int());

        fake_run(model_entry, rand);
        g_rand_free(rand);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/early/no-wait", test_no_wait);
    g_test_add_func("/early/cancel", test_cancel);
    g_test_add_func("/early/split", test_split);
    g_test_add_func("/early/budget", test_budget);
    g_test_add_func("/early/error", test_error);
    g_test_add_func("/early/failed-write", test_failed_write);
    g_test_add_func("/early/drain", test_drain);
    g_test_add_func("/early/model", test_model);
    return g_test_run();
}
