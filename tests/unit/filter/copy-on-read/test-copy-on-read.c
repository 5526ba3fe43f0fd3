/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy-on-read filter over RAM disks. */
#include "filter-env.h"

static CO_FN void cor_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    cor = co_open(&e,
                  "{\"driver\": \"copy-on-read\", \"node-name\": \"cor\","
                  " \"file\": \"top\"}",
                  0);
    g_assert_cmpuint(cor->size, ==, SIZE);
    g_assert_true(node_child(cor, "file")->perm & PERM_WRITE_UNCHANGED);
    u = co_backend(cor);
    co_request(u, false, 100, 100);
    g_assert_cmpint(ram_disk_state(e.d_top, 0), ==, RAM_DATA);
    g_assert_cmpint(ram_disk_state(e.d_top, CLUSTER), ==, RAM_ABSENT);
    g_assert_cmpint(backend_co_cache(u, CLUSTER, 1), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, CLUSTER), ==, RAM_DATA);
    co_request(u, true, 2 * CLUSTER, 512);
    g_assert_cmpint(backend_co_zero(u, 3 * CLUSTER, CLUSTER, 0), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 3 * CLUSTER), ==, RAM_ZEROES);
    g_assert_cmpint(backend_co_discard(u, 2 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 2 * CLUSTER), ==, RAM_ZEROES);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

static CO_FN void cor_bottom_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    co_open(&e,
            "{\"driver\": \"copy-on-read\", \"file\": \"top\","
            " \"bottom\": \"no\"}",
            -ENOENT);
    co_open(&e,
            "{\"driver\": \"copy-on-read\", \"file\": \"mid\","
            " \"bottom\": \"top\"}",
            -EINVAL);
    cor = co_open(&e,
                  "{\"driver\": \"copy-on-read\", \"node-name\": \"cor\","
                  " \"file\": \"top\", \"bottom\": \"mid\"}",
                  0);
    u = co_backend(cor);
    co_request(u, false, 0, SIZE);
    for (uint64_t off = 0; off < SIZE; off += CLUSTER) {
        g_assert_cmpint(ram_disk_state(e.d_top, off), ==,
                        off == CLUSTER ? RAM_DATA : RAM_ABSENT);
    }
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

/* Nothing to copy from: it only passes on. */
static CO_FN void cor_no_backing_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    cor = co_open(&e, "{\"driver\": \"copy-on-read\", \"file\": \"base\"}", 0);
    u = co_backend_perm(cor, 0);
    co_request(u, false, 0, SIZE);
    g_assert_cmpint(backend_co_cache(u, 0, SIZE), ==, 0);
    g_assert_cmpuint(e.d_base->count[RAM_WRITE], ==, 0);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

struct drainer {
    struct node *n;
    bool drained;
};

static CO_FN void drain_entry(void *arg)
{
    struct drainer *d = arg;

    node_co_drain_begin(d->n);
    d->drained = true;
}

/* A drain waits for the copy, whoever reads. */
static CO_FN void cor_drain_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;
    struct req *r;
    struct drainer d;

    env_co_init(&e);
    cor = co_open(&e, "{\"driver\": \"copy-on-read\", \"file\": \"top\"}", 0);
    u = co_backend(cor);
    e.base_latch.shut = true;
    r = req_start(u, false, 0, 100, NULL, 0);
    coro_co_settle();
    d = (struct drainer) { e.top };
    co_start(loop_current(), drain_entry, &d);
    coro_co_settle();
    g_assert_false(d.drained);
    latch_open(&e.base_latch);
    coro_co_settle();
    g_assert_true(d.drained);
    g_assert_cmpint(ram_disk_state(e.d_top, 0), ==, RAM_DATA);
    node_drain_end(e.top);
    req_co_finish(r);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    filter_test_add("copy-on-read", cor_entry);
    filter_test_add("copy-on-read/bottom", cor_bottom_entry);
    filter_test_add("copy-on-read/no-backing", cor_no_backing_entry);
    filter_test_add("copy-on-read/drain", cor_drain_entry);
    return g_test_run();
}
