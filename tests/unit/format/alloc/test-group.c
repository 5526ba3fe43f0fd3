/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit groups against a node that only counts flushes: what happens is
 * written into a log, and the order of the log is the test.
 */
#include <glib.h>
#include <string.h>
#include "format/alloc/group.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "sim/sim.h"

/* --- a disk that logs --- */

static GString *log_text;
static int flush_result;
static uint64_t flush_ns; /* how long one takes */

static void logged(const char *what, uint64_t gen)
{
    g_string_append_printf(log_text, "%s%s", log_text->len ? " " : "", what);
    if (gen) {
        g_string_append_printf(log_text, "%" G_GUINT64_FORMAT, gen);
    }
}

static CO_FN int disk_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    n->size = 1 << 20;
    return 0;
}

static CO_FN int disk_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    return 0;
}

static CO_FN int disk_co_flush(struct node *n)
{
    logged("(", 0);
    co_sleep(flush_ns);
    logged(")", 0);
    return flush_result;
}

static const struct node_driver disk_driver = {
    .name = "disk",
    .kind = NODE_PROTOCOL,
    .co_open = disk_co_open,
    .co_pwritev = disk_co_pwritev,
    .co_flush = disk_co_flush,
};
static const struct node_driver *const drivers[] = { &disk_driver, NULL };

/* --- a driver that logs --- */

struct fixture {
    struct graph *g;
    struct node *disk;
    struct group *group;
    int before_result, publish_result;
    struct co_latch tasks;
};

static CO_FN void touch(struct fixture *f)
{
    char byte = 1;
    struct iovec v;

    g_assert_cmpint(node_co_pwritev(f->disk, 0, iov_one(&v, &byte, 1), 0), ==,
                    0);
}

static CO_FN int op_co_before(void *arg, uint64_t gen)
{
    struct fixture *f = arg;

    logged("before", gen);
    touch(f);
    return f->before_result;
}

static CO_FN int op_co_publish(void *arg, uint64_t gen)
{
    struct fixture *f = arg;

    logged("publish", gen);
    touch(f);
    return f->publish_result;
}

static void op_published(void *arg, uint64_t gen)
{
    logged("done", gen);
}

static const struct group_ops ops = { op_co_before, op_co_publish,
                                      op_published };

static void (*body)(struct fixture *f);

static CO_FN void run_entry(void *arg)
{
    struct fixture f = { 0 };
    json_t *o = json_pack("{s:s}", "driver", "disk");
    struct loop *l = arg;

    f.g = graph_new(l, drivers);
    g_assert_cmpint(node_co_open(f.g, o, NODE_RDWR, &f.disk, NULL), ==, 0);
    json_decref(o);
    f.group = group_new(l, f.disk, f.disk, &ops, &f, 1 << 20, 50000000);
    touch(&f);
    body(&f);
    co_latch_co_wait(&f.tasks);
    group_co_free(f.group);
    node_co_unref(f.disk);
    graph_co_free(f.g);
    loop_stop(l);
}

static void run(gconstpointer data)
{
    /* Virtual time: the age of a group does not depend on the machine. */
    struct loop_options opts = SIM_OPTIONS(1);
    struct loop *l;

    body = data;
    log_text = g_string_new(NULL);
    flush_result = 0;
    flush_ns = 1000000;
    g_assert_cmpint(loop_new(&opts, &l, NULL), ==, 0);
    co_start(l, run_entry, l);
    loop_run(l);
    loop_free(l);
    g_string_free(log_text, TRUE);
}

static void expect(const char *want)
{
    g_assert_cmpstr(log_text->str, ==, want);
    g_string_truncate(log_text, 0);
}

static CO_FN void flush_entry(void *arg)
{
    struct fixture *f = arg;

    g_assert_cmpint(group_co_flush(f->group), ==, group_error(f->group));
    logged("flushed", 0);
    co_latch_done(&f->tasks);
}

static void flush_in_background(struct fixture *f)
{
    co_latch_add(&f->tasks);
    co_start(graph_loop(f->g), flush_entry, f);
}

static void allocate(struct fixture *f)
{
    group_data_done(f->group, group_join(f->group, 4096));
}

/* --- the tests --- */

static CO_FN void empty_run(struct fixture *f)
{
    g_assert_cmpint(group_co_flush(f->group), ==, 0);
    expect("( ) done");
}

static CO_FN void order_run(struct fixture *f)
{
    allocate(f);
    allocate(f);
    g_assert_true(group_pending(f->group));
    g_assert_cmpint(group_co_flush(f->group), ==, 0);
    g_assert_false(group_pending(f->group));
    expect("before1 ( ) publish1 ( ) done1");
    allocate(f);
    g_assert_cmpint(group_co_flush(f->group), ==, 0);
    expect("before2 ( ) publish2 ( ) done2");
}

/* The data of a group is waited for; what joins later goes to the next one. */
static CO_FN void data_run(struct fixture *f)
{
    uint64_t first = group_join(f->group, 1), second;

    flush_in_background(f);
    co_sleep(3000000);
    expect("");
    second = group_join(f->group, 1);
    g_assert_cmpuint(second, ==, first + 1);
    group_data_done(f->group, second);
    co_sleep(3000000);
    expect("");
    group_data_done(f->group, first);
    co_latch_co_wait(&f->tasks);
    expect("before1 ( ) publish1 ( ) done1 flushed");
    g_assert_true(group_pending(f->group));
    g_assert_cmpint(group_co_flush(f->group), ==, 0);
    expect("before2 ( ) publish2 ( ) done2");
}

/* Flushes asked for while a pass runs share the next one. */
static CO_FN void share_run(struct fixture *f)
{
    allocate(f);
    flush_in_background(f);
    while (!g_str_has_suffix(log_text->str, "publish1 (")) {
        co_sleep(50000);
    }
    touch(f); /* too late for the flush that runs */
    for (unsigned i = 0; i < 3; i++) {
        flush_in_background(f);
    }
    co_latch_co_wait(&f->tasks);
    expect("before1 ( ) publish1 ( ) done1 flushed ( ) done1 "
           "flushed flushed flushed");
}

static CO_FN void age_run(struct fixture *f)
{
    allocate(f);
    co_sleep(20000000);
    expect("");
    co_sleep(60000000);
    expect("before1 ( ) publish1 ( ) done1");
    allocate(f);
    group_co_quiesce(f->group);
    co_sleep(80000000);
    expect("");
    group_resume(f->group);
    co_sleep(80000000);
    expect("before2 ( ) publish2 ( ) done2");
}

static CO_FN void bytes_run(struct fixture *f)
{
    for (unsigned i = 0; i < 255; i++) {
        allocate(f);
    }
    co_sleep(5000000);
    expect("");
    allocate(f);
    co_sleep(15000000);
    expect("before1 ( ) publish1 ( ) done1");
}

static CO_FN void sticky_run(struct fixture *f)
{
    flush_result = -EIO;
    allocate(f);
    g_assert_cmpint(group_co_flush(f->group), ==, -EIO);
    expect("before1 ( )");
    flush_result = 0;
    touch(f);
    g_assert_cmpint(group_co_flush(f->group), ==, -EIO);
    allocate(f);
    g_assert_cmpint(group_co_flush(f->group), ==, -EIO);
    g_assert_cmpint(group_error(f->group), ==, -EIO);
    expect("");
}

/* A sync inside an operation is a flush like the others. */
static CO_FN void sync_run(struct fixture *f)
{
    flush_result = -EIO;
    touch(f);
    g_assert_cmpint(group_co_sync(f->group), ==, -EIO);
    flush_result = 0;
    g_assert_cmpint(group_co_sync(f->group), ==, -EIO);
    allocate(f);
    g_assert_cmpint(group_co_flush(f->group), ==, -EIO);
    expect("( )");
}

/* What an operation could not write is not kept as an error: the pointers go
 * with the next group. */
static CO_FN void space_run(struct fixture *f)
{
    f->before_result = -ENOSPC;
    allocate(f);
    g_assert_cmpint(group_co_flush(f->group), ==, -ENOSPC);
    expect("before1");
    g_assert_true(group_pending(f->group));
    allocate(f);
    f->before_result = 0;
    f->publish_result = -EIO;
    g_assert_cmpint(group_co_flush(f->group), ==, -EIO);
    expect("before2 ( ) publish2");
    g_assert_cmpint(group_error(f->group), ==, 0);
    f->publish_result = 0;
    g_assert_cmpint(group_co_flush(f->group), ==, 0);
    expect("before2 ( ) publish2 ( ) done2");
}

static CO_FN void lock_run(struct fixture *f)
{
    allocate(f);
    group_co_lock(f->group);
    flush_in_background(f);
    co_sleep(3000000);
    expect("");
    group_unlock(f->group);
    co_latch_co_wait(&f->tasks);
    expect("before1 ( ) publish1 ( ) done1 flushed");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*fn)(struct fixture *f);
    } tests[] = {
        { "/group/empty", empty_run },   { "/group/order", order_run },
        { "/group/data", data_run },     { "/group/share", share_run },
        { "/group/age", age_run },       { "/group/bytes", bytes_run },
        { "/group/sticky", sticky_run }, { "/group/sync", sync_run },
        { "/group/space", space_run },   { "/group/lock", lock_run },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add_data_func(tests[i].name, tests[i].fn, run);
    }
    return g_test_run();
}
