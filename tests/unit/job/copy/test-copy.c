/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy engine against a source that exists only in time: a link with a
 * delay and a rate, on the virtual clock of the simulated loop.  A map of what
 * was copied must be whole at the end, and nothing may be copied in vain. */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include "base/err.h"
#include "job/copy/copy.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "sim/sim.h"

#define SEC UINT64_C(1000000000)
#define MS UINT64_C(1000000)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define UNIT (64 * KIB)

enum kind { HAVE = 0, ZERO = 1, DATA = 2 };

struct world {
    struct loop *loop;
    struct copy *copy;
    struct copy_params p;
    uint8_t *kind; /* per UNIT */
    uint8_t *done;
    /* The link. */
    uint64_t delay_ns, scan_ns;
    double rate; /* bytes/ns */
    uint64_t free_at;
    uint64_t in_flight, peak, requests, longest;
    /* Errors. */
    uint64_t bad_from, bad_to;
    bool bad_is_scan;
    int errnum;
    unsigned errors;
    uint64_t error_off;
    int answer;          /* of co_error */
    unsigned heal_after; /* errors until the source is well; 0 = never */
    /* Control. */
    bool cancel, paused;
    struct co_queue resumed;

    uint64_t progress, progress_calls;
    uint64_t sent_in_slot, slot, slot_max, slot_min, slot_ns;
    int ret;
    bool ended;
    void (*body)(struct world *w); /* a coroutine's; set by plain code */
    struct co_latch body_runs;
};

static CO_FN int world_co_scan(void *arg, uint64_t off, uint64_t max,
                               bool *ret_need, bool *ret_zero,
                               uint64_t *ret_len)
{
    struct world *w = arg;
    uint64_t at = off / UNIT, n = at, last = (off + max + UNIT - 1) / UNIT;

    if (w->scan_ns) {
        co_sleep(w->scan_ns);
    }
    if (w->bad_is_scan && off >= w->bad_from && off < w->bad_to) {
        return -w->errnum;
    }
    while (n < last && w->kind[n] == w->kind[at] &&
           !(w->bad_is_scan && n * UNIT == w->bad_from && n > at)) {
        n++;
    }
    *ret_need = w->kind[at] != HAVE;
    *ret_zero = w->kind[at] == ZERO;
    *ret_len = MIN(n * UNIT - off, max);
    return 0;
}

static void world_count(struct world *w, uint64_t len)
{
    uint64_t now = loop_clock_ns(w->loop);

    w->requests++;
    w->longest = MAX(w->longest, len);
    w->in_flight += len;
    w->peak = MAX(w->peak, w->in_flight);
    if (w->slot_ns && now / w->slot_ns != w->slot) {
        w->slot_max = MAX(w->slot_max, w->sent_in_slot);
        w->slot_min = MIN(w->slot_min, w->sent_in_slot);
        w->slot = now / w->slot_ns;
        w->sent_in_slot = 0;
    }
    w->sent_in_slot += len;
}

static CO_FN int world_co_copy(void *arg, uint64_t off, uint64_t len, bool zero,
                               struct copy_result *res)
{
    struct world *w = arg;
    uint64_t start = MAX(w->free_at, loop_clock_ns(w->loop));

    g_assert_true(len > 0 && off % UNIT == 0);
    for (uint64_t i = off / UNIT; i * UNIT < off + len; i++) {
        g_assert_cmpint(w->kind[i], ==, zero ? ZERO : DATA);
    }
    if (!zero) {
        world_count(w, len);
        w->free_at = start + (uint64_t)((double)len / w->rate);
        co_sleep(w->free_at + w->delay_ns - loop_clock_ns(w->loop));
        w->in_flight -= len;
        if (!w->bad_is_scan && off < w->bad_to && off + len > w->bad_from) {
            res->is_read = true;
            return -w->errnum;
        }
        res->copied = len;
    }
    for (uint64_t i = off / UNIT; i * UNIT < off + len; i++) {
        w->done[i] = 1;
    }
    return 0;
}

static void world_progress(void *arg, uint64_t offset)
{
    struct world *w = arg;

    g_assert_cmpuint(offset, >=, w->progress);
    g_assert_cmpuint(offset, <=, w->p.end);
    w->progress = offset;
    w->progress_calls++;
}

static CO_FN int world_co_error(void *arg, uint64_t off, bool is_read,
                                int errnum)
{
    struct world *w = arg;

    g_assert_true(is_read);
    g_assert_cmpint(errnum, ==, w->errnum);
    g_assert_cmpuint(w->in_flight, ==, 0);
    g_assert_cmpuint(w->progress, ==, off);
    w->errors++;
    w->error_off = off;
    if (w->errors == w->heal_after) {
        w->bad_to = 0;
    }
    return w->answer;
}

static CO_FN int world_co_pause_point(void *arg)
{
    struct world *w = arg;

    while (w->paused && !w->cancel) {
        co_queue_co_wait(&w->resumed);
    }
    return w->cancel ? -ECANCELED : 0;
}

static const struct copy_ops ops = {
    .co_scan = world_co_scan,
    .co_copy = world_co_copy,
    .progress = world_progress,
    .co_error = world_co_error,
    .co_pause_point = world_co_pause_point,
};

static CO_FN void body_entry(void *arg)
{
    struct world *w = arg;

    w->body(w);
    co_latch_done(&w->body_runs);
}

static CO_FN void world_entry(void *arg)
{
    struct world *w = arg;

    w->copy = copy_new(w->loop, &ops, w, &w->p);
    if (w->body) {
        co_latch_add(&w->body_runs);
        co_start(w->loop, body_entry, w);
    }
    w->ret = copy_co_run(w->copy);
    g_assert_cmpuint(w->in_flight, ==, 0);
    copy_free(w->copy);
    w->ended = true;
    co_latch_co_wait(&w->body_runs);
    loop_stop(w->loop);
}

/* Returns the virtual nanoseconds it took. */
static uint64_t run(struct world *w)
{
    struct loop_options o = SIM_OPTIONS(1);
    GError *err = NULL;
    int ret = loop_new(&o, &w->loop, &err);
    uint64_t start, took;

    g_assert_no_error(err);
    g_assert_cmpint(ret, ==, 0);
    w->progress = 0;
    w->slot_min = UINT64_MAX;
    start = loop_clock_ns(w->loop);
    co_start(w->loop, world_entry, w);
    loop_run(w->loop);
    took = loop_clock_ns(w->loop) - start;
    g_assert_true(w->ended);
    g_assert_cmpuint(co_count(w->loop), ==, 0);
    loop_free(w->loop);
    return took;
}

static void world_init(struct world *w, uint64_t size, double mib_s,
                       uint64_t delay_ns)
{
    uint64_t n = (size + UNIT - 1) / UNIT;

    *w = (struct world) { .p = { .end = size, .cluster = UNIT },
                          .rate = mib_s * (double)MIB / 1e9,
                          .delay_ns = delay_ns,
                          .errnum = EIO };
    w->kind = g_malloc(n);
    w->done = g_malloc0(n);
    memset(w->kind, DATA, n);
}

static void world_done(struct world *w)
{
    g_free(w->kind);
    g_free(w->done);
}

static void assert_whole(const struct world *w)
{
    g_assert_cmpint(w->ret, ==, 0);
    g_assert_cmpuint(w->progress, ==, w->p.end);
    for (uint64_t i = 0; i * UNIT < w->p.end; i++) {
        g_assert_cmpint(w->done[i], ==, w->kind[i] != HAVE);
    }
}

/* --- */

static void test_mixed(void)
{
    g_autoptr(GRand) r = g_rand_new_with_seed(g_test_rand_int());

    for (unsigned round = 0; round < 20; round++) {
        struct world w;

        world_init(&w, 40 * MIB + 512, 1000, 5 * MS);
        w.scan_ns = round % 2 * MS / 10;
        for (uint64_t i = 0; i <= 40 * MIB / UNIT;) {
            uint64_t n = (uint64_t)g_rand_int_range(r, 1, 60);
            uint8_t kind = (uint8_t)g_rand_int_range(r, 0, 3);

            for (; n && i <= 40 * MIB / UNIT; n--) {
                w.kind[i++] = kind;
            }
        }
        run(&w);
        assert_whole(&w);
        world_done(&w);
    }
}

static void test_latency(void)
{
    static const struct {
        double mib_s;
        uint64_t delay_ms;
    } links[] = {
        { 1000, 1 }, { 2000, 2 }, { 1000, 10 }, { 1000, 50 }, { 250, 200 }
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(links); i++) {
        uint64_t size = 2048 * MIB;
        struct world w;
        double rate;

        world_init(&w, size, links[i].mib_s, links[i].delay_ms * MS);
        rate = 2048.0 / ((double)run(&w) / 1e9);
        g_test_message("%.0f MiB/s %u ms: %.0f MiB/s, at most %u MiB in flight",
                       links[i].mib_s, (unsigned)links[i].delay_ms, rate,
                       (unsigned)(w.peak / MIB));
        g_assert_cmpfloat(rate, >=, 0.75 * links[i].mib_s);
        g_assert_cmpuint(w.peak, <=, 64 * MIB);
        assert_whole(&w);
        world_done(&w);
    }
}

/* 1 TiB with 16 MiB of data: the time and the memory of the data. */
static void test_sparse(void)
{
    struct world w;
    uint64_t took;

    world_init(&w, UINT64_C(1) << 40, 1000, MS);
    memset(w.kind, HAVE, (UINT64_C(1) << 40) / UNIT);
    for (unsigned i = 0; i < 16; i++) {
        memset(w.kind + i * 900001, DATA, MIB / UNIT);
    }
    w.scan_ns = MS;
    took = run(&w);
    g_assert_cmpuint(took, <, 100 * MS);
    /* The first run goes in small pieces, until the storage is known. */
    g_assert_cmpuint(w.requests, <=, 48);
    assert_whole(&w);
    world_done(&w);
}

static void test_speed(void)
{
    static const uint64_t speeds[] = { 64 * KIB, MIB, 7 * MIB + 12345,
                                       100 * MIB };

    for (unsigned i = 0; i < G_N_ELEMENTS(speeds); i++) {
        uint64_t size = MAX(speeds[i] * 10 / UNIT, 8) * UNIT;
        struct world w;
        double took;

        world_init(&w, size, 2000, 20 * MS);
        w.p.speed = speeds[i];
        w.slot_ns = SEC;
        took = (double)run(&w) / 1e9;
        g_test_message(
            "%u B/s: %.3f s for %.3f s, requests up to %u KiB, "
            "%u..%u KiB each second",
            (unsigned)speeds[i], took, (double)size / (double)speeds[i],
            (unsigned)(w.longest / KIB), (unsigned)(w.slot_min / KIB),
            (unsigned)(w.slot_max / KIB));
        g_assert_cmpfloat(took, >=, 0.88 * (double)size / (double)speeds[i]);
        g_assert_cmpfloat(took, <=,
                          1.02 * (double)size / (double)speeds[i] + 0.1);
        g_assert_cmpuint(w.longest, <=, MAX(speeds[i] / 10, UNIT));
        g_assert_cmpuint(w.slot_max, <=, speeds[i] + speeds[i] / 10 + 2 * UNIT);
        assert_whole(&w);
        world_done(&w);
    }
}

/* What is local already or zero does not count for the speed. */
static void test_speed_skips(void)
{
    struct world w;

    world_init(&w, 1024 * MIB, 1000, MS);
    memset(w.kind, HAVE, 400 * MIB / UNIT);
    memset(w.kind + 400 * MIB / UNIT, ZERO, 620 * MIB / UNIT);
    w.p.speed = MIB;
    g_assert_cmpuint(run(&w), <, 5 * SEC);
    assert_whole(&w);
    world_done(&w);
}

static CO_FN void change_co_body(struct world *w)
{
    co_sleep(SEC);
    g_assert_cmpuint(w->progress, <=, UNIT);
    copy_set_speed(w->copy, 64 * MIB);
}

static void test_speed_change(void)
{
    struct world w;

    world_init(&w, 64 * MIB, 1000, MS);
    w.p.speed = 1; /* the first request would last for a day */
    w.body = change_co_body;
    g_assert_cmpuint(run(&w), <, 5 * SEC / 2);
    assert_whole(&w);
    world_done(&w);
}

static CO_FN void cancel_co_body(struct world *w)
{
    uint64_t before;

    co_sleep(100 * MS);
    before = w->requests;
    g_assert_cmpuint(before, >, 0);
    w->cancel = true;
    copy_kick(w->copy);
    co_sleep(30 * MS);
    g_assert_cmpuint(w->requests, ==, before);
    g_assert_true(w->ended);
}

static void test_cancel(void)
{
    struct world w;

    world_init(&w, 512 * MIB, 1000, 20 * MS);
    w.body = cancel_co_body;
    w.p.speed = 2 * MIB;
    run(&w);
    g_assert_cmpint(w.ret, ==, -ECANCELED);
    world_done(&w);
}

static CO_FN void pause_co_body(struct world *w)
{
    uint64_t before;

    co_sleep(100 * MS);
    w->paused = true;
    copy_kick(w->copy);
    co_sleep(200 * MS);
    before = w->requests;
    g_assert_cmpuint(w->in_flight, ==, 0);
    co_sleep(SEC);
    g_assert_cmpuint(w->requests, ==, before);
    w->paused = false;
    co_queue_wake_all(&w->resumed);
}

static void test_pause(void)
{
    struct world w;

    world_init(&w, 512 * MIB, 1000, 20 * MS);
    w.body = pause_co_body;
    run(&w);
    assert_whole(&w);
    world_done(&w);
}

static void test_error_gives_up(void)
{
    struct world w;

    for (unsigned scan = 0; scan < 2; scan++) {
        world_init(&w, 100 * MIB, 1000, 10 * MS);
        w.bad_from = 33 * MIB + 512 * KIB;
        w.bad_to = w.bad_from + 1;
        w.bad_is_scan = scan;
        w.answer = -EIO;
        run(&w);
        g_assert_cmpint(w.ret, ==, -EIO);
        g_assert_cmpuint(w.errors, ==, 1);
        g_assert_cmpuint(w.error_off, ==, 33 * MIB + 512 * KIB);
        g_assert_cmpuint(w.progress, ==, w.error_off);
        world_done(&w);
    }
}

static void test_error_ignored(void)
{
    struct world w;

    world_init(&w, 100 * MIB, 1000, 10 * MS);
    w.bad_from = 33 * MIB;
    w.bad_to = 34 * MIB + 1; /* three pieces of 512 KiB */
    run(&w);
    g_assert_cmpint(w.ret, ==, 0);
    g_assert_cmpuint(w.errors, ==, 3);
    g_assert_cmpuint(w.progress, ==, 100 * MIB);
    for (uint64_t i = 0; i * UNIT < w.p.end; i++) {
        g_assert_cmpint(w.done[i], ==,
                        i * UNIT < 33 * MIB ||
                            i * UNIT >= 34 * MIB + 512 * KIB);
    }
    world_done(&w);
}

static void test_error_retried(void)
{
    struct world w;

    for (unsigned scan = 0; scan < 2; scan++) {
        world_init(&w, 100 * MIB, 1000, 10 * MS);
        w.bad_from = 33 * MIB;
        w.bad_to = 60 * MIB;
        w.bad_is_scan = scan;
        w.answer = -EAGAIN;
        w.heal_after = 4;
        run(&w);
        g_assert_cmpuint(w.errors, ==, 4);
        assert_whole(&w);
        world_done(&w);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/copy/mixed", test_mixed);
    g_test_add_func("/job/copy/latency", test_latency);
    g_test_add_func("/job/copy/sparse", test_sparse);
    g_test_add_func("/job/copy/speed", test_speed);
    g_test_add_func("/job/copy/speed-skips", test_speed_skips);
    g_test_add_func("/job/copy/speed-change", test_speed_change);
    g_test_add_func("/job/copy/cancel", test_cancel);
    g_test_add_func("/job/copy/pause", test_pause);
    g_test_add_func("/job/copy/error-gives-up", test_error_gives_up);
    g_test_add_func("/job/copy/error-ignored", test_error_ignored);
    g_test_add_func("/job/copy/error-retried", test_error_retried);
    return g_test_run();
}
