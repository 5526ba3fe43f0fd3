/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checkpoint of a copy on the simulated machine: what it says, and that it is
 * durable before anybody relies on it. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include "base/err.h"
#include "format/format.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/copy/checkpoint.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "sim/sim.h"
#include "storage/storage.h"

#define MIB (UINT64_C(1) << 20)
#define SIZE (8 * MIB + 4096)
#define PATH "/state/j.checkpoint"

static struct loop *loop;
static struct sim *sim;
static struct graph *graph;
static struct node *images[2];

static CO_FN struct node *image_co_open(const char *path)
{
    json_t *o = json_pack("{s:s, s:{s:s, s:s}}", "driver", "raw", "file",
                          "driver", "file", "filename", path);
    g_autoptr(GError) err = NULL;
    struct io_file *f;
    struct node *n;

    g_assert_cmpint(io_co_open(path, O_RDWR | O_CREAT, 0600, &f), ==, 0);
    g_assert_cmpint(io_co_truncate(f, SIZE), ==, 0);
    io_co_close(f);
    g_assert_cmpint(node_co_open(graph, o, NODE_RDWR, &n, &err), ==, 0);
    json_decref(o);
    return n;
}

static CO_FN void images_co_open(void)
{
    images[0] = image_co_open("/source");
    images[1] = image_co_open("/target");
}

static CO_FN void images_co_close(void)
{
    node_co_unref(images[0]);
    node_co_unref(images[1]);
}

static CO_FN struct checkpoint *checkpoint_co_get(bool resumed)
{
    g_autoptr(GError) err = NULL;
    struct checkpoint *cp;

    if (resumed) { /* by a new daemon */
        checkpoint_co_take(PATH);
    }
    g_assert_cmpint(
        checkpoint_co_open(PATH, SIZE, images, 2, resumed, &cp, &err), ==, 0);
    g_assert_no_error(err);
    g_assert_true(checkpoint_can_resume(cp));
    return cp;
}

/* "xx.x" : x is to be copied. */
static char *what_is_left(const struct checkpoint *cp)
{
    GString *s = g_string_new(NULL);
    uint64_t len;

    for (uint64_t off = 0; off < SIZE; off += len) {
        bool need = checkpoint_run(cp, off, SIZE - off, &len);

        for (uint64_t u = 0; u < len; u += MIB) {
            g_string_append_c(s, need ? 'x' : '.');
        }
    }
    return g_string_free(s, FALSE);
}

static void check_left(const struct checkpoint *cp, const char *want)
{
    g_autofree char *got = what_is_left(cp);

    g_assert_cmpstr(got, ==, want);
}

/* Everything that was written to the file is followed by a sync. */
static void check_synced(void)
{
    uint64_t id = sim_image_find(sim_live(sim), PATH), written = 0;
    bool synced = true;
    size_t n;
    const struct sim_record *const *log = sim_log(sim, &n);

    for (size_t i = 0; i < n; i++) {
        if (log[i]->file == id && log[i]->op == SIM_WRITE &&
            log[i]->off >= 4096) {
            written = log[i]->completed;
            synced = false;
        }
        synced |= log[i]->file == id && log[i]->op == SIM_FDATASYNC &&
                  log[i]->result == 0 && log[i]->submitted > written;
    }
    g_assert_true(synced);
}

static unsigned asked;
static uint64_t never; /* a unit that is not the same */

static bool is_same(void *arg, uint64_t off, uint64_t len)
{
    asked++;
    return off / MIB != never;
}

static const struct checkpoint_choice choice = { is_same, NULL };

static CO_FN void keep_co_all(struct checkpoint *cp)
{
    g_assert_true(checkpoint_choose(cp, &choice));
    checkpoint_co_done(cp);
    check_synced();
}

static CO_FN void run_co_life(void)
{
    struct checkpoint *cp = checkpoint_co_get(false);

    never = UINT64_MAX;
    check_left(cp, "xxxxxxxxx");
    g_assert_false(checkpoint_has_any(cp));
    check_synced();
    never = 3;
    keep_co_all(cp);
    check_left(cp, "...x.....");
    g_assert_true(checkpoint_has_any(cp));
    /* A change across two units, before it takes place. */
    checkpoint_co_change(cp, 6 * MIB - 1, 2);
    check_synced();
    check_left(cp, "...x.xx..");
    never = UINT64_MAX;
    /* What has changed since the last time waits for the next. */
    g_assert_true(checkpoint_choose(cp, &choice));
    /* While both sides are flushed a guest changes one of them again. */
    checkpoint_co_change(cp, 3 * MIB, 512);
    checkpoint_co_done(cp);
    check_left(cp, "...x.xx..");
    keep_co_all(cp);
    check_left(cp, "...x.....");
    keep_co_all(cp);
    check_left(cp, ".........");
    asked = 0;
    g_assert_false(checkpoint_choose(cp, &choice));
    g_assert_cmpuint(asked, ==, 0);
    checkpoint_co_change(cp, SIZE - 1, 1);
    check_left(cp, "........x");
    checkpoint_co_close(cp);
    /* The next daemon, and one that begins anew. */
    cp = checkpoint_co_get(true);
    check_left(cp, "........x");
    checkpoint_co_close(cp);
    cp = checkpoint_co_get(false);
    check_left(cp, "xxxxxxxxx");
    checkpoint_co_close(cp);
}

static CO_FN void run_co_others(void)
{
    struct node *swapped[] = { images[1], images[0] };
    struct checkpoint *cp = checkpoint_co_get(false);
    char byte = 1;
    struct iovec v;

    never = UINT64_MAX;
    keep_co_all(cp);
    checkpoint_co_close(cp);
    checkpoint_co_take(PATH);
    g_assert_cmpint(checkpoint_co_open(PATH, SIZE, swapped, 2, true, &cp, NULL),
                    ==, 0);
    check_left(cp, "xxxxxxxxx");
    checkpoint_co_close(cp);
    cp = checkpoint_co_get(false);
    keep_co_all(cp);
    checkpoint_co_close(cp);
    cp = checkpoint_co_get(true);
    check_left(cp, ".........");
    checkpoint_co_beat(cp);
    checkpoint_co_close(cp);
    /* Somebody wrote to the image before the job could see it. */
    g_assert_cmpint(node_co_pwritev(images[0], 0, iov_one(&v, &byte, 1), 0), ==,
                    0);
    cp = checkpoint_co_get(true);
    check_left(cp, "xxxxxxxxx");
    checkpoint_co_close(cp);
}

/* A daemon that has not come as far as the job spoils it for the next. */
static CO_FN void run_co_taken(void)
{
    struct checkpoint *cp = checkpoint_co_get(false);

    never = UINT64_MAX;
    keep_co_all(cp);
    checkpoint_co_close(cp);
    cp = checkpoint_co_get(true);
    check_left(cp, ".........");
    checkpoint_co_beat(cp);
    checkpoint_co_close(cp);
    checkpoint_co_take(PATH);
    cp = checkpoint_co_get(true);
    check_left(cp, "xxxxxxxxx");
    checkpoint_co_close(cp);
    checkpoint_co_take("/state/none");
}

/* Let another coroutine change unit 2. */
struct changer {
    struct checkpoint *cp;
    struct co_latch running;
    uint64_t ended; /* ns */
};

static CO_FN void changer_entry(void *arg)
{
    struct changer *c = arg;

    checkpoint_co_change(c->cp, 2 * MIB, 1);
    c->ended = loop_clock_ns(loop);
    co_latch_done(&c->running);
}

static void changer_start(struct changer *c)
{
    co_latch_add(&c->running);
    co_start(loop, changer_entry, c);
}

/* Of two that change a unit neither goes on before it is marked durably. */
static CO_FN void run_co_two(void)
{
    struct changer c = { .cp = checkpoint_co_get(false) };

    never = UINT64_MAX;
    keep_co_all(c.cp);
    changer_start(&c);
    co_relax();
    checkpoint_co_change(c.cp, 2 * MIB + 4096, 1);
    check_synced();
    check_left(c.cp, "..x......");
    co_latch_co_wait(&c.running);
    checkpoint_co_close(c.cp);
}

/* It is not closed, nor does a change pass unmarked, before the file is gone. */
static CO_FN void run_co_end(void)
{
    struct changer c = { .cp = checkpoint_co_get(false) }, d = c;
    struct checkpoint_keeper k = { .cp = c.cp, .choice = choice };

    never = UINT64_MAX;
    keep_co_all(c.cp);
    changer_start(&c); /* sets its mark */
    co_relax();
    changer_start(&d); /* waits for it, and for the end */
    checkpoint_keeper_co_stop(&k, false);
    g_assert_cmpuint(c.running.count + d.running.count, ==, 0);
    g_assert_cmpuint(sim_image_find(sim_live(sim), PATH), ==, 0);
    g_assert_cmpuint(c.ended, >, 0);
}

/* What cannot be written any more is not left to be believed. */
static CO_FN void run_co_fault(void)
{
    const struct sim_fault fault = {
        .op = SIM_FDATASYNC, .nth = 1, .path = PATH, .err = EIO
    };
    struct checkpoint *cp = checkpoint_co_get(false);

    never = UINT64_MAX;
    keep_co_all(cp);
    sim_inject(sim, &fault);
    checkpoint_co_change(cp, 0, 1);
    g_assert_cmpuint(sim_image_find(sim_live(sim), PATH), ==, 0);
    g_assert_false(checkpoint_choose(cp, &choice));
    checkpoint_co_close(cp);
}

struct racer {
    struct checkpoint *cp;
    GRand *rnd;
    struct co_latch *running;
};

static bool busy[9]; /* units that a guest is changing */

static bool is_idle(void *arg, uint64_t off, uint64_t len)
{
    return !busy[off / MIB];
}

/* Changes units; while it does so no bit of theirs may be clear. */
static CO_FN void racer_entry(void *arg)
{
    struct racer *r = arg;

    for (unsigned i = 0; i < 50; i++) {
        uint64_t u = g_rand_int_range(r->rnd, 0, 9), len;

        if (busy[u]) {
            co_sleep(1000);
            continue;
        }
        busy[u] = true;
        checkpoint_co_change(r->cp, u * MIB, 1);
        for (unsigned k = 0; k < 3; k++) {
            g_assert_true(checkpoint_run(r->cp, u * MIB, 1, &len));
            co_sleep((uint64_t)g_rand_int_range(r->rnd, 1, 3000000));
        }
        busy[u] = false;
    }
    co_latch_done(r->running);
}

static CO_FN void run_co_race(void)
{
    static const struct checkpoint_choice idle = { is_idle, NULL };
    g_autoptr(GRand) rnd = g_rand_new_with_seed(g_test_rand_int());
    struct checkpoint *cp = checkpoint_co_get(false);
    struct co_latch running = { 0 };
    struct racer r = { .cp = cp, .rnd = rnd, .running = &running };
    unsigned kept = 0;

    for (unsigned i = 0; i < 4; i++) {
        co_latch_add(&running);
        co_start(loop, racer_entry, &r);
    }
    while (running.count > 0) {
        if (checkpoint_choose(cp, &idle)) {
            co_sleep((uint64_t)g_rand_int_range(rnd, 1, 2000000));
            checkpoint_co_done(cp);
            kept++;
        }
        co_sleep((uint64_t)g_rand_int_range(rnd, 1, 2000000));
    }
    g_assert_cmpuint(kept, >, 0);
    checkpoint_co_close(cp);
}

static CO_FN void entry(void *arg)
{
    void (*const *run)(void) = arg;

    images_co_open();
    (*run)();
    images_co_close();
    graph_co_free(graph);
    loop_stop(loop);
}

static void test_run(gconstpointer data)
{
    static const struct node_driver *const drivers[] = { &file_driver,
                                                         &raw_driver, NULL };
    void (*run)(void) = (void (*)(void))data;
    struct loop_options o = SIM_OPTIONS((uint64_t)g_test_rand_int());
    g_autoptr(GError) err = NULL;

    g_assert_cmpint(loop_new(&o, &loop, &err), ==, 0);
    g_assert_no_error(err);
    sim = loop_sim(loop);
    sim_log_reset(sim, true);
    graph = graph_new(loop, drivers);
    co_start(loop, entry, &run);
    loop_run(loop);
    loop_free(loop);
}

/* 16 TiB: not more than 128 KiB of bits. */
static CO_FN void run_co_large(void)
{
    const uint64_t size = UINT64_C(16) << 40;
    struct checkpoint *cp;
    uint64_t len;

    g_assert_cmpint(checkpoint_co_open(PATH, size, images, 2, false, &cp, NULL),
                    ==, 0);
    g_assert_true(checkpoint_run(cp, size - 1, 1, &len));
    checkpoint_co_close(cp);
    g_assert_cmpuint(
        sim_image_size(sim_live(sim), sim_image_find(sim_live(sim), PATH)), <=,
        140 << 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/checkpoint/life", run_co_life, test_run);
    g_test_add_data_func("/checkpoint/others", run_co_others, test_run);
    g_test_add_data_func("/checkpoint/taken", run_co_taken, test_run);
    g_test_add_data_func("/checkpoint/two", run_co_two, test_run);
    g_test_add_data_func("/checkpoint/end", run_co_end, test_run);
    g_test_add_data_func("/checkpoint/fault", run_co_fault, test_run);
    g_test_add_data_func("/checkpoint/race", run_co_race, test_run);
    g_test_add_data_func("/checkpoint/large", run_co_large, test_run);
    return g_test_run();
}
