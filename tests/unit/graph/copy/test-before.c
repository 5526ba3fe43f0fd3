/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy before write: guests, readers of the copy and a copier at once, against
 * what the disk was; what a target that does not answer does to a guest. */
#include "../fake.h"
#include "graph/before.h"
#include "graph/io.h"
#include "graph/transfer.h"

#define CLUSTER 65536u
#define SIZE (24 * CLUSTER + 1536u)

struct env {
    struct graph *g;
    struct node *disk, *target;
    struct before *b;
    uint8_t was[SIZE], now[SIZE];
    struct co_latch running;
};

static CO_FN void env_co_begin(struct env *e)
{
    struct iovec v;

    e->g = fake_graph();
    e->disk = fake_co_open(e->g,
                           "{'driver': 'fake', 'node-name': 'disk', 'size': "
                           "%u, 'cluster': 4096}",
                           SIZE);
    e->target = fake_co_open(e->g,
                             "{'driver': 'fake', 'node-name': 'target', "
                             "'size': %u, 'cluster': 4096}",
                             SIZE);
    for (unsigned i = 0; i < SIZE; i++) {
        /* A part of the disk is zero. */
        e->was[i] = i / CLUSTER % 5 == 3 ? 0 : (uint8_t)g_test_rand_int();
    }
    for (unsigned i = 0; i < SIZE; i += CLUSTER) {
        unsigned len = MIN(CLUSTER, SIZE - i);

        if (i / CLUSTER % 5 != 3) {
            g_assert_cmpint(
                node_co_pwritev(e->disk, i, iov_one(&v, e->was + i, len), 0),
                ==, 0);
        }
    }
    memcpy(e->now, e->was, SIZE);
    e->b = before_new(e->disk, e->target, 0, NULL);
    g_assert_cmpuint(before_cluster(e->b), ==, CLUSTER);
}

static CO_FN void env_co_end(struct env *e)
{
    before_co_unref(e->b);
    node_co_unref(e->target);
    node_co_unref(e->disk);
    graph_co_free(e->g);
}

static CO_FN int co_read_old(struct env *e, uint64_t off, uint64_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);
    struct iovec v;
    int ret = before_co_read(e->b, off, iov_one(&v, buf, len), 0);

    if (ret == 0) {
        g_assert_cmpmem(buf, len, e->was + off, len);
    }
    return ret;
}

/* So that a short request may overtake a long one. */
static void change_latency(struct env *e)
{
    static const uint64_t ns[] = { 0, 20000, 300000 };

    fake_of(e->disk)->latency_ns = ns[g_test_rand_int_range(0, 3)];
    fake_of(e->target)->latency_ns = ns[g_test_rand_int_range(0, 3)];
}

static CO_FN int co_change(struct env *e, uint64_t off, uint64_t len)
{
    int ret = before_co_change(e->b, off, len);
    struct iovec v;

    for (uint64_t i = off; i < off + len && ret == 0; i++) {
        e->now[i] = (uint8_t)g_test_rand_int();
    }
    return ret < 0 ? ret
                   : node_co_pwritev(e->disk, off,
                                     iov_one(&v, e->now + off, len), 0);
}

/* --- all at once --- */

/* A place of 512-byte blocks; each guest has blocks of its own. */
static void place(unsigned guest, uint64_t *off, uint64_t *len)
{
    *off = (uint64_t)g_test_rand_int_range(0, SIZE / 2048 - 1) * 2048 +
           guest * 512u;
    *len = 512;
}

static CO_FN void guest_entry(void *arg)
{
    struct env *e = arg;
    unsigned guest = e->running.count % 4;
    uint64_t off, len;

    for (unsigned i = 0; i < 150; i++) {
        place(guest, &off, &len);
        change_latency(e);
        g_assert_cmpint(co_change(e, off, len), ==, 0);
        if (g_test_rand_int() % 4 == 0) {
            co_relax();
        }
    }
    co_latch_done(&e->running);
}

static CO_FN void reader_entry(void *arg)
{
    struct env *e = arg;

    for (unsigned i = 0; i < 100; i++) {
        uint64_t off = (uint64_t)g_test_rand_int_range(0, SIZE);
        uint64_t len = (uint64_t)g_test_rand_int_range(1, 3 * CLUSTER);

        change_latency(e);
        g_assert_cmpint(co_read_old(e, off, MIN(len, SIZE - off)), ==, 0);
        co_relax();
    }
    co_latch_done(&e->running);
}

static CO_FN void copier_entry(void *arg)
{
    struct env *e = arg;

    for (uint64_t off = 0; off < SIZE; off += 2 * CLUSTER) {
        struct copy_result res = { 0 };

        g_assert_cmpint(
            before_co_copy(e->b, off, MIN(2 * CLUSTER, SIZE - off), &res), ==,
            0);
        co_relax();
    }
    co_latch_done(&e->running);
}

static CO_FN void all_entry(void *arg)
{
    struct env *e = g_new0(struct env, 1);
    bool copier = arg;
    struct iovec v;
    g_autofree uint8_t *buf = g_malloc(SIZE);

    env_co_begin(e);
    for (unsigned i = 0; i < 4; i++) {
        co_latch_add(&e->running);
        co_start(graph_loop(e->g), guest_entry, e);
        co_relax();
    }
    for (unsigned i = 0; i < 2; i++) {
        co_latch_add(&e->running);
        co_start(graph_loop(e->g), reader_entry, e);
    }
    if (copier) {
        co_latch_add(&e->running);
        co_start(graph_loop(e->g), copier_entry, e);
    }
    co_latch_co_wait(&e->running);
    g_assert_cmpint(co_read_old(e, 0, SIZE), ==, 0);
    g_assert_cmpint(node_co_preadv(e->disk, 0, iov_one(&v, buf, SIZE), 0), ==,
                    0);
    g_assert_cmpmem(buf, SIZE, e->now, SIZE);
    if (copier) {
        g_assert_cmpuint(dirty_map_bytes(before_todo(e->b)), ==, 0);
        g_assert_cmpint(node_co_preadv(e->target, 0, iov_one(&v, buf, SIZE), 0),
                        ==, 0);
        g_assert_cmpmem(buf, SIZE, e->was, SIZE);
    }
    env_co_end(e);
    g_free(e);
}

static void test_fleecing(void)
{
    fake_run(all_entry, NULL);
}

static void test_backup(void)
{
    fake_run(all_entry, GINT_TO_POINTER(true));
}

/* --- a target that does not answer --- */

static CO_FN void slow_entry(void *arg)
{
    struct env *e = g_new0(struct env, 1);
    bool break_snapshot = arg;

    env_co_begin(e);
    before_set_timeout(e->b, 1000000);
    before_set_break_snapshot(e->b, break_snapshot);
    fake_of(e->target)->hold_writes = true;
    if (break_snapshot) {
        g_assert_cmpint(co_change(e, 512, 512), ==, 0);
        g_assert_cmpint(before_error(e->b), ==, -ETIMEDOUT);
        g_assert_cmpint(co_read_old(e, 0, 512), ==, -EACCES);
        g_assert_cmpint(co_read_old(e, 5 * CLUSTER, 512), ==, -EACCES);
        g_assert_cmpint(co_change(e, 7 * CLUSTER, 512), ==, 0);
    } else {
        g_assert_cmpint(co_change(e, 512, 512), ==, -ETIMEDOUT);
        /* The same place is still being copied, another one is not. */
        g_assert_cmpint(co_change(e, 512, 512), ==, -ETIMEDOUT);
        g_assert_cmpint(before_error(e->b), ==, 0);
        fake_release(e->target);
        while (dirty_map_run(before_todo(e->b), 0, 1, &(uint64_t) { 0 })) {
            co_relax();
        }
        g_assert_cmpint(co_change(e, 512, 512), ==, 0);
        g_assert_cmpint(co_read_old(e, 0, SIZE), ==, 0);
    }
    fake_release(e->target);
    env_co_end(e);
    g_free(e);
}

static void test_slow_target(void)
{
    fake_run(slow_entry, NULL);
    fake_run(slow_entry, GINT_TO_POINTER(true));
}

/* --- parts --- */

static CO_FN void parts_entry(void *arg)
{
    struct env *e = g_new0(struct env, 1);
    struct dirty_map *only = dirty_map_new(SIZE, 512, NULL);

    env_co_begin(e);
    dirty_map_set(only, 2 * CLUSTER + 512, 512);
    dirty_map_set(only, 5 * CLUSTER, 3 * CLUSTER);
    before_set_only(e->b, only);
    dirty_map_free(only);
    g_assert_cmpint(co_read_old(e, 0, 512), ==, -EACCES);
    g_assert_cmpint(co_read_old(e, 2 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(co_read_old(e, 2 * CLUSTER, CLUSTER + 1), ==, -EACCES);
    g_assert_cmpint(co_change(e, 0, CLUSTER), ==, 0);
    g_assert_cmpuint(fake_of(e->target)->writes, ==, 0);
    /* Only the cluster in the middle is given back. */
    g_assert_cmpint(before_co_discard(e->b, 6 * CLUSTER - 512, CLUSTER + 1024),
                    ==, 0);
    g_assert_cmpint(co_read_old(e, 6 * CLUSTER, 512), ==, -EACCES);
    g_assert_cmpint(co_change(e, 5 * CLUSTER, 3 * CLUSTER), ==, 0);
    g_assert_cmpint(co_read_old(e, 5 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(co_read_old(e, 7 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(co_read_old(e, 6 * CLUSTER, 512), ==, -EACCES);
    env_co_end(e);
    g_free(e);
}

static void test_parts(void)
{
    fake_run(parts_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/before/fleecing", test_fleecing);
    g_test_add_func("/before/backup", test_backup);
    g_test_add_func("/before/slow-target", test_slow_target);
    g_test_add_func("/before/parts", test_parts);
    return g_test_run();
}
