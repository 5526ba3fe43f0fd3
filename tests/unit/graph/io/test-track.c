/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tracking: who waits for whom, in what order, and for nothing else. */
#include "fake.h"

struct req {
    struct node *n;
    uint64_t off, len;
    enum track_kind kind;
    bool in, release, out;
};

static CO_FN void req_entry(void *arg)
{
    struct req *r = arg;
    struct tracked t;

    track_co_begin(&t, r->n, r->off, r->len, r->kind);
    r->in = true;
    while (!r->release) {
        co_relax();
    }
    track_end(&t);
    r->out = true;
}

static CO_FN void settle_co(void)
{
    for (int i = 0; i < 20; i++) {
        co_relax();
    }
}

static CO_FN void start_co(struct req *r)
{
    co_start(co_loop(co_self()), req_entry, r);
    settle_co();
}

static CO_FN void order_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake'}");
    struct req w1 = { n, 0, 100, TRACK_WRITE },
               w2 = { n, 50, 100, TRACK_WRITE };
    struct req a1 = { n, 90, 20, TRACK_ALLOC },
               w3 = { n, 105, 10, TRACK_WRITE };
    struct req far = { n, 1000, 10, TRACK_ALLOC }, rd = { n, 0, 9, TRACK_READ };

    start_co(&w1);
    start_co(&w2);
    start_co(&a1);
    start_co(&w3);
    start_co(&far);
    start_co(&rd);
    /* Writes overlap freely; the allocation waits; a later write waits behind
     * it, so that writes cannot starve it. */
    g_assert_true(w1.in && w2.in && far.in && rd.in);
    g_assert_false(a1.in || w3.in);
    w1.release = true;
    settle_co();
    g_assert_false(a1.in);
    w2.release = true;
    settle_co();
    g_assert_true(a1.in);
    g_assert_false(w3.in);
    a1.release = true;
    settle_co();
    g_assert_true(w3.in);
    w3.release = far.release = rd.release = true;
    settle_co();
    g_assert_true(w3.out && far.out && rd.out);
    node_co_unref(n);
    graph_co_free(g);
}

static void test_order(void)
{
    fake_run(order_entry, NULL);
}

#define UNITS 64

struct crowd {
    struct node *n;
    unsigned writers[UNITS], allocs[UNITS];
    unsigned running;
    guint32 seed;
};

static CO_FN void crowd_entry(void *arg)
{
    struct crowd *c = arg;
    GRand *rand = g_rand_new_with_seed(c->seed++);

    for (int i = 0; i < 60; i++) {
        unsigned off = (unsigned)g_rand_int_range(rand, 0, UNITS - 8);
        unsigned len = (unsigned)g_rand_int_range(rand, 1, 8);
        bool alloc = g_rand_boolean(rand);
        struct tracked t;

        track_co_begin(&t, c->n, off, len, alloc ? TRACK_ALLOC : TRACK_WRITE);
        for (unsigned u = off; u < off + len; u++) {
            g_assert_cmpuint(c->allocs[u], ==, 0);
            g_assert_true(!alloc || c->writers[u] == 0);
            alloc ? c->allocs[u]++ : c->writers[u]++;
        }
        for (int k = g_rand_int_range(rand, 0, 4); k > 0; k--) {
            co_relax();
        }
        for (unsigned u = off; u < off + len; u++) {
            alloc ? c->allocs[u]-- : c->writers[u]--;
        }
        track_end(&t);
    }
    g_rand_free(rand);
    c->running--;
}

static CO_FN void model_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct crowd c = { .n = fake_co_open(g, "{'driver': 'fake'}") };

    c.seed = (guint32)g_test_rand_int();
    g_test_message("seed %u", c.seed);
    c.running = 40;
    for (unsigned i = 0; i < 40; i++) {
        co_start(co_loop(co_self()), crowd_entry, &c);
    }
    while (c.running > 0) {
        co_relax();
    }
    g_assert_null(c.n->priv->track.allocs);
    g_assert_null(c.n->priv->track.writes);
    node_co_unref(c.n);
    graph_co_free(g);
}

static void test_model(void)
{
    fake_run(model_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/track/order", test_order);
    g_test_add_func("/track/model", test_model);
    return g_test_run();
}
