/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populate and copy-on-read over RAM disks.  Interleavings are scripted: a
 * latch holds a base read or an overlay write until the test has let everything
 * else happen.  Nothing here sleeps.
 */
#include <glib.h>
#include <string.h>
#include "graph/io.h"
#include "graph/io/read-below.h"
#include "graph/model/in-flight.h"
#include "graph/node.h"
#include "populate-env.h"

#define BASE_READS(e) ((e)->d_base->count[RAM_READ])

static void assert_states(struct env *e, const char *states)
{
    GString *got = g_string_new(NULL);

    for (uint64_t off = 0; off < e->d_top->size; off += CLUSTER) {
        g_string_append_c(got, "-DZ"[ram_disk_state(e->d_top, off)]);
    }
    g_assert_cmpstr(got->str, ==, states);
    g_string_free(got, TRUE);
}

static CO_FN struct populate_result env_co_populate(struct env *e,
                                                    struct node *base,
                                                    uint64_t off, uint64_t len,
                                                    int expect)
{
    struct populate_result res;

    g_assert_cmpint(node_co_populate(e->top, base, off, len, 0, &res), ==,
                    expect);
    return res;
}

/* --- what is copied --- */

static CO_FN void copies_entry(void *arg)
{
    struct env e;
    struct populate_result res;

    env_co_init(&e, 4 * CLUSTER, 0, 4 * CLUSTER);
    ram_disk_fill(e.d_top, CLUSTER, CLUSTER, 2);
    env_co_open(&e);
    res = env_co_populate(&e, NULL, 0, 4 * CLUSTER, 0);
    g_assert_cmpuint(res.copied, ==, 3 * CLUSTER);
    g_assert_cmpuint(res.zeroed, ==, 0);
    g_assert_cmpuint(BASE_READS(&e), ==, 2);
    g_assert_cmpuint(e.d_base->bytes[RAM_READ], ==, 3 * CLUSTER);
    assert_states(&e, "DDDD");
    /* Once more: nothing is left to do. */
    res = env_co_populate(&e, NULL, 0, 4 * CLUSTER, 0);
    g_assert_cmpuint(res.copied, ==, 0);
    g_assert_cmpuint(BASE_READS(&e), ==, 2);
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void widens_entry(void *arg)
{
    struct env e;

    /* The end of the disk is in no way round, nor is that of the base. */
    env_co_init(&e, 3 * CLUSTER + 1234, 0, 2 * CLUSTER + 777);
    env_co_open(&e);
    env_co_populate(&e, NULL, CLUSTER + 5, 1, 0);
    assert_states(&e, "-D--");
    env_co_populate(&e, NULL, 3 * CLUSTER + 1000, 100 * CLUSTER, 0);
    assert_states(&e, "-D-Z");
    env_co_populate(&e, NULL, 2 * CLUSTER + 10, 1, 0);
    assert_states(&e, "-DDZ");
    env_co_populate(&e, NULL, 3 * CLUSTER + 1234, 5, 0);
    env_co_populate(&e, NULL, UINT64_MAX - 5, 5, 0);
    env_co_populate(&e, NULL, 0, 0, 0);
    assert_states(&e, "-DDZ");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void zeroes_entry(void *arg)
{
    struct env e;
    struct populate_result res;

    /* Base: data, hole, hole, half a hole, written zeroes, nothing. */
    env_co_init(&e, 7 * CLUSTER, 0, 5 * CLUSTER);
    ram_disk_set(e.d_base, CLUSTER, 2 * CLUSTER, RAM_ZEROES);
    ram_disk_set(e.d_base, 3 * CLUSTER, CLUSTER / 2, RAM_ZEROES);
    memset(e.d_base->data + 4 * CLUSTER, 0, CLUSTER);
    env_co_open(&e);
    res = env_co_populate(&e, NULL, 0, 7 * CLUSTER, 0);
    assert_states(&e, "DZZDZZZ");
    g_assert_cmpuint(res.copied, ==, 2 * CLUSTER);
    g_assert_cmpuint(res.zeroed, ==, 5 * CLUSTER);
    /* Of the cluster that is half a hole only the other half is read. */
    g_assert_cmpuint(e.d_base->bytes[RAM_READ], ==, 5 * CLUSTER / 2);
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void no_zero_clusters_entry(void *arg)
{
    struct env e;

    env_co_init(&e, 3 * CLUSTER, 0, 3 * CLUSTER);
    e.d_top->no_zero_clusters = true;
    ram_disk_set(e.d_base, CLUSTER, CLUSTER, RAM_ZEROES);
    env_co_open(&e);
    env_co_populate(&e, NULL, 0, 3 * CLUSTER, 0);
    assert_states(&e, "DDD");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void base_limit_entry(void *arg)
{
    struct env e;
    struct populate_result res;

    /* Mid has clusters of 16 KiB: some of the second, all of the third. */
    env_co_init(&e, 5 * CLUSTER, 4 * CLUSTER, 5 * CLUSTER);
    ram_disk_fill(e.d_mid, CLUSTER + 16 * KIB, 16 * KIB, 3);
    ram_disk_fill(e.d_mid, 2 * CLUSTER, CLUSTER, 4);
    ram_disk_set(e.d_mid, 3 * CLUSTER, 16 * KIB, RAM_ZEROES);
    env_co_open(&e);
    res = env_co_populate(&e, e.base, 0, 5 * CLUSTER, 0);
    /* The last is past the end of mid, which hides base there. */
    assert_states(&e, "-DDDZ");
    g_assert_cmpuint(res.copied, ==, 3 * CLUSTER);
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void base_is_backing_entry(void *arg)
{
    struct env e;
    struct op *op;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    env_co_populate(&e, e.base, 0, 2 * CLUSTER, 0);
    assert_states(&e, "--");
    op = op_start(&e, OP_COR, 0, 100, 0);
    op->base = e.base;
    g_assert_cmpint(op_co_finish(op), ==, 0);
    assert_states(&e, "--");
    env_co_close(&e);
}

static CO_FN void large_entry(void *arg)
{
    struct env e;
    struct op *op;

    env_co_init(&e, 24 * MIB, 0, 24 * MIB);
    env_co_open(&e);
    e.f_base.latch[RAM_READ].shut = true;
    op = op_start(&e, OP_POPULATE, 0, 24 * MIB, 0);
    coro_co_settle();
    /* One is held; meanwhile others go on, bounded in number. */
    g_assert_cmpuint(BASE_READS(&e), ==, 24);
    g_assert_false(op->done);
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op), ==, 0);
    env_co_verify(&e);
    env_co_close(&e);
}

/* --- reads that populate --- */

static CO_FN void read_entry(void *arg)
{
    struct env e;

    env_co_init(&e, 6 * CLUSTER + 100, 0, 5 * CLUSTER);
    ram_disk_fill(e.d_top, 2 * CLUSTER, CLUSTER, 5);
    env_co_open(&e);
    g_assert_cmpint(env_co_do(&e, OP_COR, 10, 20, 0), ==, 0);
    assert_states(&e, "D-D----");
    g_assert_cmpuint(BASE_READS(&e), ==, 1);
    g_assert_cmpint(env_co_do(&e, OP_COR, CLUSTER + 5, 2 * CLUSTER, 0), ==, 0);
    assert_states(&e, "DDDD---");
    g_assert_cmpint(env_co_do(&e, OP_COR, 0, 6 * CLUSTER + 100, 0), ==, 0);
    assert_states(&e, "DDDDDZZ");
    env_co_verify(&e);
    env_co_close(&e);
}

/* How often one request asks the overlay and the image below it. */
static CO_FN void expect_co_asks(struct env *e, enum op_kind kind, uint64_t off,
                                 uint64_t len, unsigned top, unsigned mid)
{
    unsigned had_top = e->d_top->count[RAM_STATUS];
    unsigned had_mid = e->d_mid->count[RAM_STATUS];

    g_assert_cmpint(env_co_do(e, kind, off, len, 0), ==, 0);
    g_assert_cmpuint(e->d_top->count[RAM_STATUS] - had_top, ==, top);
    g_assert_cmpuint(e->d_mid->count[RAM_STATUS] - had_mid, ==, mid);
}

/* A read asks each image of the chain once for each run where its bytes are, and
 * so does one that populates.  When a guest has written in between the overlay
 * is asked again.  Populating without a read asks below what there is to be
 * read, and the read asks where. */
static CO_FN void asks_once_entry(void *arg)
{
    struct env e;
    struct op *op;

    env_co_init(&e, 8 * CLUSTER, 8 * CLUSTER, 7 * CLUSTER);
    env_co_open(&e);
    expect_co_asks(&e, OP_READ, 10, 20, 1, 1);
    expect_co_asks(&e, OP_COR, 10, 20, 1, 1);                /* absent */
    expect_co_asks(&e, OP_COR, CLUSTER - 10, CLUSTER, 2, 1); /* half of it */
    expect_co_asks(&e, OP_COR, CLUSTER, CLUSTER, 1, 0);      /* present */
    expect_co_asks(&e, OP_COR, 2 * CLUSTER, 2 * CLUSTER, 1, 1);
    expect_co_asks(&e, OP_POPULATE, 4 * CLUSTER, CLUSTER, 1, 2);
    /* A guest writes elsewhere while the base is read. */
    e.f_base.latch[RAM_READ].shut = true;
    op = op_start(&e, OP_COR, 5 * CLUSTER, CLUSTER, 0);
    coro_co_settle();
    g_assert_cmpint(env_co_do(&e, OP_WRITE, 6 * CLUSTER, CLUSTER, 8), ==, 0);
    e.d_top->count[RAM_STATUS] = 0;
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op), ==, 0);
    g_assert_cmpuint(e.d_top->count[RAM_STATUS], ==, 1);
    assert_states(&e, "DDDDDDD-");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void read_with_base_entry(void *arg)
{
    struct env e;
    struct op *op;

    env_co_init(&e, 3 * CLUSTER, 3 * CLUSTER, 3 * CLUSTER);
    ram_disk_fill(e.d_mid, CLUSTER, CLUSTER, 3);
    env_co_open(&e);
    op = op_start(&e, OP_COR, 100, 3 * CLUSTER - 200, 0);
    op->base = e.base;
    g_assert_cmpint(op_co_finish(op), ==, 0);
    assert_states(&e, "-D-");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void read_only_entry(void *arg)
{
    struct env e;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open_rdonly(&e);
    g_assert_cmpint(env_co_do(&e, OP_COR, 10, CLUSTER, 0), ==, 0);
    assert_states(&e, "--");
    g_assert_cmpuint(e.d_top->count[RAM_WRITE], ==, 0);
    env_co_populate(&e, NULL, 0, CLUSTER, -EPERM);
    env_co_close(&e);
}

/* --- joining --- */

static CO_FN void join_entry(void *arg)
{
    struct env e;
    struct op *op[5];

    env_co_init(&e, 4 * CLUSTER, 0, 4 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    op[0] = op_start(&e, OP_COR, 0, 10, 0);
    coro_co_settle();
    op[1] = op_start(&e, OP_COR, 5, 1000, 0);
    op[2] = op_start(&e, OP_COR, CLUSTER - 10, 10, 0);
    op[3] = op_start(&e, OP_POPULATE, 0, CLUSTER, 0);
    op[4] = op_start(&e, OP_COR, 0, CLUSTER, 0);
    coro_co_settle();
    for (unsigned i = 0; i < 5; i++) {
        g_assert_false(op[i]->done);
    }
    latch_open(&e.f_base.latch[RAM_READ]);
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpint(op_co_finish(op[i]), ==, 0);
    }
    g_assert_cmpuint(BASE_READS(&e), ==, 1);
    g_assert_cmpuint(e.d_top->count[RAM_WRITE], ==, 1);
    assert_states(&e, "D---");
    env_co_verify(&e);
    env_co_close(&e);
}

/* A reader that comes between the end of the fetch and that of the mapping. */
static CO_FN void join_while_mapping_entry(void *arg)
{
    struct env e;
    struct op *op, *second;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_top.latched[RAM_WRITE] = 1;
    op = op_start(&e, OP_COR, 0, 10, 0);
    coro_co_settle();
    second = op_start(&e, OP_COR, 0, 100, 0);
    coro_co_settle();
    /* It needs neither the base nor the mapping. */
    g_assert_true(second->done);
    g_assert_cmpint(op_co_finish(second), ==, 0);
    g_assert_cmpuint(BASE_READS(&e), ==, 1);
    latch_open(&e.f_top.latch[RAM_WRITE]);
    g_assert_cmpint(op_co_finish(op), ==, 0);
    assert_states(&e, "D-");
    env_co_close(&e);
}

/* The parts that a larger read does not find in flight are fetched. */
static CO_FN void join_partly_entry(void *arg)
{
    struct env e;
    struct op *op, *large;

    env_co_init(&e, 5 * CLUSTER, 0, 5 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    op = op_start(&e, OP_COR, 2 * CLUSTER + 9, 10, 0);
    coro_co_settle();
    large = op_start(&e, OP_COR, 100, 5 * CLUSTER - 100, 0);
    coro_co_settle();
    g_assert_false(large->done);
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op), ==, 0);
    g_assert_cmpint(op_co_finish(large), ==, 0);
    g_assert_cmpuint(e.d_base->bytes[RAM_READ], ==, 5 * CLUSTER);
    assert_states(&e, "DDDDD");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void join_failed_entry(void *arg)
{
    struct env e;
    struct op *op[3];

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    e.f_base.fail[RAM_READ] = -EIO;
    e.f_base.fail_times[RAM_READ] = 1;
    op[0] = op_start(&e, OP_COR, 0, 10, 0);
    coro_co_settle();
    op[1] = op_start(&e, OP_COR, 5, 1000, 0);
    op[2] = op_start(&e, OP_POPULATE, 0, CLUSTER, 0);
    coro_co_settle();
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op[0]), ==, -EIO);
    g_assert_cmpint(op_co_finish(op[1]), ==, 0);
    g_assert_cmpint(op_co_finish(op[2]), ==, 0);
    assert_states(&e, "D-");
    env_co_verify(&e);
    env_co_close(&e);
}

/* A reader whose fetch by another failed reads and keeps what he reads. */
static CO_FN void join_failed_keeps_entry(void *arg)
{
    struct env e;
    struct op *op[3];

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    e.f_base.fail[RAM_READ] = -EIO;
    e.f_base.fail_times[RAM_READ] = 1;
    op[0] = op_start(&e, OP_COR, 0, 10, 0);
    coro_co_settle();
    op[1] = op_start(&e, OP_COR, 5, 1000, 0);
    op[2] = op_start(&e, OP_COR, 2000, CLUSTER, 0);
    coro_co_settle();
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op[0]), ==, -EIO);
    g_assert_cmpint(op_co_finish(op[1]), ==, 0);
    g_assert_cmpint(op_co_finish(op[2]), ==, 0);
    assert_states(&e, "DD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* --- guest wins --- */

/* A write of the whole cluster does not wait for a base that hangs. */
static CO_FN void full_write_entry(void *arg)
{
    struct env e;
    struct op *read, *write;

    env_co_init(&e, 3 * CLUSTER, 0, 3 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    read = op_start(&e, OP_POPULATE, 0, 3 * CLUSTER, 0);
    coro_co_settle();
    write = op_start(&e, OP_WRITE, CLUSTER, CLUSTER, 7);
    coro_co_settle();
    g_assert_true(write->done);
    g_assert_cmpint(op_co_finish(write), ==, 0);
    assert_states(&e, "-D-");
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    assert_states(&e, "DDD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* Writes of two parts of one cluster while it is being read. */
static CO_FN void partial_writes_entry(void *arg)
{
    struct env e;
    struct op *read, *write[2];

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    read = op_start(&e, OP_POPULATE, 0, 2 * CLUSTER, 0);
    coro_co_settle();
    write[0] = op_start(&e, OP_WRITE, 512, 512, 7);
    write[1] = op_start(&e, OP_WRITE, 8192, 100, 8);
    coro_co_settle();
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    g_assert_cmpint(op_co_finish(write[0]), ==, 0);
    g_assert_cmpint(op_co_finish(write[1]), ==, 0);
    /* The rest of their cluster came from the fetch under way. */
    g_assert_cmpuint(BASE_READS(&e), ==, 1);
    assert_states(&e, "DD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* The guest's write is on its way to the disk when the copy wants to map. */
static CO_FN void write_before_map_entry(void *arg)
{
    struct env e;
    struct op *read, *write;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_top.latched[RAM_WRITE] = 1;
    write = op_start(&e, OP_WRITE, 0, CLUSTER, 7);
    coro_co_settle();
    read = op_start(&e, OP_POPULATE, 0, 2 * CLUSTER, 0);
    coro_co_settle();
    g_assert_false(read->done);
    g_assert_cmpuint(BASE_READS(&e), ==, 1);
    latch_open(&e.f_top.latch[RAM_WRITE]);
    g_assert_cmpint(op_co_finish(write), ==, 0);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    assert_states(&e, "DD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* The copy is on its way to the disk when the guest writes. */
static CO_FN void write_during_map_entry(void *arg)
{
    struct env e;
    struct op *read, *write, *other;

    env_co_init(&e, 3 * CLUSTER, 0, 3 * CLUSTER);
    env_co_open(&e);
    e.f_top.latched[RAM_WRITE] = 1;
    read = op_start(&e, OP_POPULATE, 0, 2 * CLUSTER, 0);
    coro_co_settle();
    write = op_start(&e, OP_WRITE, 100, 50, 7);
    other = op_start(&e, OP_WRITE, 2 * CLUSTER, 512, 8);
    coro_co_settle();
    g_assert_false(write->done);
    g_assert_true(other->done);
    latch_open(&e.f_top.latch[RAM_WRITE]);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    g_assert_cmpint(op_co_finish(write), ==, 0);
    g_assert_cmpint(op_co_finish(other), ==, 0);
    env_co_verify(&e);
    env_co_close(&e);
}

/* What is zeroed or trimmed during the fetch does not come back. */
static CO_FN void trim_entry(void *arg)
{
    struct env e;
    struct op *read;

    env_co_init(&e, 4 * CLUSTER, 0, 4 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    read = op_start(&e, OP_POPULATE, 0, 4 * CLUSTER, 0);
    coro_co_settle();
    g_assert_cmpint(env_co_do(&e, OP_ZERO, 0, CLUSTER, 0), ==, 0);
    g_assert_cmpint(env_co_do(&e, OP_WRITE, CLUSTER, CLUSTER, 5), ==, 0);
    g_assert_cmpint(env_co_do(&e, OP_DISCARD, CLUSTER, CLUSTER, 0), ==, 0);
    memset(e.expect + CLUSTER, 0, CLUSTER);
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    assert_states(&e, "ZZDD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* A read that finds an acknowledged write never sees the base again. */
static CO_FN void read_after_write_entry(void *arg)
{
    struct env e;
    struct op *read;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    read = op_start(&e, OP_POPULATE, 0, 2 * CLUSTER, 0);
    coro_co_settle();
    g_assert_cmpint(env_co_do(&e, OP_WRITE, 0, CLUSTER, 9), ==, 0);
    /* The fetch in flight covers it, and must not be asked. */
    g_assert_cmpint(env_co_do(&e, OP_COR, 10, 1000, 0), ==, 0);
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(read), ==, 0);
    env_co_verify(&e);
    env_co_close(&e);
}

/* --- failures --- */

static CO_FN void base_fails_entry(void *arg)
{
    struct env e;
    struct populate_result res;

    env_co_init(&e, 2 * CLUSTER, 0, 2 * CLUSTER);
    env_co_open(&e);
    e.f_base.fail[RAM_READ] = -ETIMEDOUT;
    e.f_base.fail_times[RAM_READ] = 2;
    res = env_co_populate(&e, NULL, 0, 2 * CLUSTER, -ETIMEDOUT);
    g_assert_cmpint(res.read_error, ==, -ETIMEDOUT);
    g_assert_cmpint(res.write_error, ==, 0);
    g_assert_cmpint(env_co_do(&e, OP_COR, 0, 10, 0), ==, -ETIMEDOUT);
    assert_states(&e, "--");
    g_assert_cmpint(env_co_do(&e, OP_COR, 0, 10, 0), ==, 0);
    assert_states(&e, "D-");
    env_co_verify(&e);
    env_co_close(&e);
}

static CO_FN void overlay_fails_entry(void *arg)
{
    struct env e;
    struct populate_result res;

    env_co_init(&e, 3 * CLUSTER, 0, 3 * CLUSTER);
    ram_disk_set(e.d_base, CLUSTER, CLUSTER, RAM_ZEROES);
    env_co_open(&e);
    e.f_top.fail[RAM_WRITE] = e.f_top.fail[RAM_ZERO] = -ENOSPC;
    e.f_top.fail_times[RAM_WRITE] = e.f_top.fail_times[RAM_ZERO] = 1000;
    res = env_co_populate(&e, NULL, 0, CLUSTER, -ENOSPC);
    g_assert_cmpint(res.read_error, ==, 0);
    g_assert_cmpint(res.write_error, ==, -ENOSPC);
    g_assert_cmpuint(res.copied, ==, 0);
    g_assert_cmpint(env_co_do(&e, OP_COR, 0, 3 * CLUSTER, 0), ==, 0);
    assert_states(&e, "---");
    e.f_top.fail_times[RAM_WRITE] = e.f_top.fail_times[RAM_ZERO] = 0;
    env_co_populate(&e, NULL, 0, 3 * CLUSTER, 0);
    assert_states(&e, "DZD");
    env_co_verify(&e);
    env_co_close(&e);
}

/* A joiner of a fetch whose mapping failed makes its own try. */
static CO_FN void join_unmapped_entry(void *arg)
{
    struct env e;
    struct op *op[2];

    env_co_init(&e, CLUSTER, 0, CLUSTER);
    env_co_open(&e);
    e.f_base.latched[RAM_READ] = 1;
    e.f_top.fail[RAM_WRITE] = -ENOSPC;
    e.f_top.fail_times[RAM_WRITE] = 1;
    op[0] = op_start(&e, OP_COR, 0, 10, 0);
    coro_co_settle();
    op[1] = op_start(&e, OP_POPULATE, 0, CLUSTER, 0);
    coro_co_settle();
    latch_open(&e.f_base.latch[RAM_READ]);
    g_assert_cmpint(op_co_finish(op[0]), ==, 0);
    g_assert_cmpint(op_co_finish(op[1]), ==, 0);
    assert_states(&e, "D");
    env_co_verify(&e);
    env_co_close(&e);
}

/* Too much in flight: reads go on without copying. */
static CO_FN void budget_entry(void *arg)
{
    struct env e;
    GPtrArray *ops = g_ptr_array_new();

    env_co_init(&e, 80 * MIB, 0, 80 * MIB);
    env_co_open(&e);
    e.f_top.latched[RAM_WRITE] = 1;
    g_ptr_array_add(ops, op_start(&e, OP_COR, 0, MIB, 0));
    coro_co_settle();
    /* Held by the same range, so that none of them ends. */
    for (unsigned i = 1; i < 80; i++) {
        struct inflight *f = i < 64 ? inflight_begin(e.top, i * MIB, MIB)
                                    : NULL;

        if (f) {
            g_ptr_array_add(ops, f);
        }
    }
    g_assert_false(inflight_has_room(e.top, MIB));
    g_assert_cmpint(env_co_do(&e, OP_COR, 70 * MIB, MIB, 0), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 70 * MIB), ==, RAM_ABSENT);
    for (unsigned i = 1; i < ops->len; i++) {
        struct inflight *f = g_ptr_array_index(ops, i);

        g_assert_cmpint(inflight_co_read(f, 0), ==, 0);
        inflight_end(f);
    }
    g_assert_cmpint(env_co_do(&e, OP_COR, 70 * MIB, MIB, 0), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 70 * MIB), ==, RAM_DATA);
    latch_open(&e.f_top.latch[RAM_WRITE]);
    g_assert_cmpint(op_co_finish(g_ptr_array_index(ops, 0)), ==, 0);
    g_ptr_array_free(ops, TRUE);
    env_co_close(&e);
}

static void run(gconstpointer entry)
{
    coro_run((void (*)(void *))entry, NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*entry)(void *arg);
    } tests[] = {
        { "copies", copies_entry },
        { "widens", widens_entry },
        { "zeroes", zeroes_entry },
        { "no-zero-clusters", no_zero_clusters_entry },
        { "base-limit", base_limit_entry },
        { "base-is-backing", base_is_backing_entry },
        { "large", large_entry },
        { "read", read_entry },
        { "asks-once", asks_once_entry },
        { "read-with-base", read_with_base_entry },
        { "read-only", read_only_entry },
        { "join", join_entry },
        { "join-while-mapping", join_while_mapping_entry },
        { "join-partly", join_partly_entry },
        { "join-failed", join_failed_entry },
        { "join-failed-keeps", join_failed_keeps_entry },
        { "join-unmapped", join_unmapped_entry },
        { "full-write", full_write_entry },
        { "partial-writes", partial_writes_entry },
        { "write-before-map", write_before_map_entry },
        { "write-during-map", write_during_map_entry },
        { "trim", trim_entry },
        { "read-after-write", read_after_write_entry },
        { "base-fails", base_fails_entry },
        { "overlay-fails", overlay_fails_entry },
        { "budget", budget_entry },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        char *path = g_strconcat("/graph/populate/", tests[i].name, NULL);

        g_test_add_data_func(path, (gconstpointer)tests[i].entry, run);
        g_free(path);
    }
    return g_test_run();
}
