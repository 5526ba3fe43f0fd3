/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rule of admission control against a disk that is made up: so many
 * channels, each serves one request after the other.  Guests keep a number of
 * small reads under way, background work goes at the rate of the rule or at a
 * fixed one. */
#include <glib.h>
#include <math.h>
#include "base/bucket.h"
#include "graph/background/limit.h"

#define US UINT64_C(1000)
#define MS (1000 * US)
#define SEC (1000 * MS)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define MAX_CHANNELS 32
#define MAX_REQUESTS 512

struct request {
    uint64_t begun, due, bytes;
    bool guest;
};

struct disk {
    const char *name;
    unsigned channels;
    uint64_t request_ns; /* of any request */
    double mib_s;        /* all channels together */
};

struct world {
    struct disk disk;
    struct limit limit;
    struct bucket bucket;
    GRand *rand;
    uint64_t now, free_at[MAX_CHANNELS];
    struct request q[MAX_REQUESTS];
    unsigned n;
    unsigned depth; /* of the guests; 0: they are away */
    unsigned guest_n;
    uint64_t think_ns, next_guest;
    double fixed;  /* bytes/s; 0: as the rule says */
    double source; /* bytes/s that the work could do at most; 0: any */
    uint64_t source_free;
    uint64_t window; /* bytes in flight at most */
    uint64_t work, work_in_flight;
    struct latency took;
};

static void world_init(struct world *w, const struct disk *d, unsigned seed)
{
    *w = (struct world) { .disk = *d, .now = SEC, .window = 8 * MIB };
    w->rand = g_rand_new_with_seed(seed);
    w->bucket.burst_ns = 2 * MS;
    limit_init(&w->limit, w->now);
    w->limit.works = 1;
}

static void disk_put(struct world *w, uint64_t bytes, bool guest)
{
    unsigned best = 0;
    double ns = (double)w->disk.request_ns + (double)bytes * 1e9 *
                                                 w->disk.channels /
                                                 (w->disk.mib_s * (double)MIB);

    for (unsigned i = 1; i < w->disk.channels; i++) {
        best = w->free_at[i] < w->free_at[best] ? i : best;
    }
    ns *= 0.8 + 0.4 * g_rand_double(w->rand);
    w->free_at[best] = MAX(w->free_at[best], w->now) + (uint64_t)ns;
    g_assert_cmpuint(w->n, <, MAX_REQUESTS);
    w->q[w->n++] = (struct request) { w->now, w->free_at[best], bytes, guest };
}

static void disk_take(struct world *w, unsigned i)
{
    struct request r = w->q[i];

    w->q[i] = w->q[--w->n];
    if (r.guest) {
        latency_add(&w->took, w->now - r.begun);
        limit_demand_done(&w->limit, r.begun, w->now - r.begun, w->now);
        w->guest_n--;
        w->next_guest = w->now + w->think_ns;
    } else {
        w->work_in_flight -= r.bytes;
        limit_work_done(&w->limit, r.bytes, w->now);
    }
}

/* Begin what may begin now; when is there more to begin? */
static uint64_t world_start(struct world *w)
{
    uint64_t next = w->now + MS;

    while (w->guest_n < w->depth && w->now >= w->next_guest) {
        limit_demand_begin(&w->limit, w->now);
        disk_put(w, 4 * KIB, true);
        w->guest_n++;
    }
    if (w->guest_n < w->depth) {
        next = MIN(next, w->next_guest);
    }
    for (;;) {
        uint64_t unit, wait;
        double rate;

        limit_tick(&w->limit, w->now);
        rate = w->fixed > 0 ? w->fixed : limit_rate(&w->limit);
        unit = w->fixed > 0 ? 64 * KIB : MIN(limit_unit(&w->limit), MIB);
        if (rate <= 0 || w->work_in_flight + unit > w->window) {
            return next;
        }
        if (w->bucket.rate != (isinf(rate) ? 0 : (uint64_t)rate)) {
            bucket_set_rate(&w->bucket, isinf(rate) ? 0 : (uint64_t)rate,
                            w->now);
        }
        wait = bucket_wait_ns(&w->bucket, w->now);
        if (w->source > 0 && w->source_free > w->now) {
            wait = MAX(wait, w->source_free - w->now);
        }
        if (wait) {
            return MIN(next, w->now + wait);
        }
        if (w->source > 0) {
            w->source_free = w->now +
                             (uint64_t)((double)unit * 1e9 / w->source);
        }
        bucket_take(&w->bucket, unit, w->now);
        limit_work_begin(&w->limit, unit);
        w->work += unit;
        w->work_in_flight += unit;
        disk_put(w, unit, false);
    }
}

/* Run for @ns; the p99 of guests' requests, ns, and MiB/s of the work. */
static uint64_t world_run(struct world *w, uint64_t ns, double *ret_mib_s)
{
    uint64_t end = w->now + ns, work = w->work;

    latency_clear(&w->took);
    while (w->now < end) {
        uint64_t next = world_start(w);
        unsigned first = 0;

        for (unsigned i = 1; i < w->n; i++) {
            first = w->q[i].due < w->q[first].due ? i : first;
        }
        if (w->n && w->q[first].due <= next) {
            w->now = MAX(w->now, w->q[first].due);
            disk_take(w, first);
        } else {
            w->now = next;
        }
    }
    *ret_mib_s = (double)(w->work - work) / (double)MIB / ((double)ns / 1e9);
    return latency_quantile(&w->took, 99);
}

static const struct disk disks[] = {
    { "virtio", 8, 60 * US, 1300 },
    { "nvme", 32, 70 * US, 3000 },
    { "sata", 4, 80 * US, 450 },
    { "hdd", 1, 5 * MS, 150 },
};

/* The best fixed rate whose p99 is within @target; 0: none. */
static double best_fixed(const struct disk *d, unsigned depth, uint64_t target,
                         unsigned seed)
{
    double best = 0;

    for (double rate = 2; rate < d->mib_s; rate *= 1.15) {
        struct world w;
        double got;
        uint64_t p99;

        world_init(&w, d, seed);
        w.depth = depth;
        w.fixed = rate * (double)MIB;
        world_run(&w, SEC, &got);
        p99 = world_run(&w, 5 * SEC, &got);
        best = p99 <= target && got >= 0.95 * rate ? rate : best;
        g_rand_free(w.rand);
    }
    return best;
}

/* A storage with guests whose undisturbed latency was seen before the work. */
static uint64_t world_settle(struct world *w, const struct disk *d,
                             double times)
{
    double rate;
    uint64_t idle;

    world_init(w, d, 7);
    w->depth = 4;
    w->limit.target.times = times;
    w->limit.works = 0;
    w->fixed = 1;
    idle = world_run(w, 2 * SEC, &rate);
    w->limit.works = 1;
    w->fixed = 0;
    return idle;
}

/* The target is kept, at four fifths of the best fixed rate. */
static void test_target(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(disks); i++) {
        for (double times = 1.5; times <= 6; times *= 2) {
            struct world w;
            uint64_t idle = world_settle(&w, &disks[i], times), p99, target;
            double rate, best;

            world_run(&w, 20 * SEC, &rate);
            p99 = world_run(&w, 20 * SEC, &rate);
            target = limit_target_ns(&w.limit);
            best = best_fixed(&disks[i], 4, target, 7);
            g_test_message("%-6s %.1f times: idle %u us, target %u, p99 %.2f "
                           "of it, %.0f MiB/s, %.2f of the best fixed",
                           disks[i].name, times, (unsigned)(idle / US),
                           (unsigned)(target / US),
                           (double)p99 / (double)target, rate, rate / best);
            g_assert_cmpfloat((double)target, >=, 0.9 * times * (double)idle);
            g_assert_cmpfloat((double)target, <=,
                              1.2 * times * (double)idle + 60 * (double)US);
            g_assert_cmpfloat((double)p99, <=, 1.2 * (double)target);
            /* Less than a job's floor is of no use anyway. */
            g_assert_true(best < 4 || rate >= 0.8 * best);
            g_rand_free(w.rand);
        }
    }
}

/* An absolute target needs no look at the undisturbed latency. */
static void test_absolute(void)
{
    struct world w;
    double rate;
    uint64_t p99;

    world_init(&w, &disks[2], 3);
    w.depth = 4;
    w.limit.target = (struct latency_target) { .ns = MS };
    world_run(&w, 10 * SEC, &rate);
    p99 = world_run(&w, 10 * SEC, &rate);
    g_test_message("p99 %u us, %.0f MiB/s", (unsigned)(p99 / US), rate);
    g_assert_cmpuint(p99, <=, 1200 * US);
    g_assert_cmpfloat(rate, >=, 0.8 * best_fixed(&disks[2], 4, MS, 3));
    g_rand_free(w.rand);
}

/* Nobody is about: nothing is limited. A guest comes: small units at once, and
 * a low rate within milliseconds. It goes: no limit a second later. */
static void test_comes_and_goes(void)
{
    struct world w;
    double alone, busy, after;

    world_init(&w, &disks[0], 1);
    world_run(&w, 3 * SEC, &alone);
    g_assert_cmpfloat(alone, >=, 1100);
    g_assert_cmpuint(limit_unit(&w.limit), ==, UINT64_MAX);
    w.depth = 4;
    world_run(&w, 5 * MS, &busy);
    g_assert_cmpuint(limit_unit(&w.limit), <=, 256 * KIB);
    world_run(&w, 100 * MS, &busy);
    g_test_message("alone %.0f, then %.0f MiB/s", alone, busy);
    g_assert_cmpfloat(busy, <=, alone / 4);
    w.depth = 0;
    world_run(&w, 1100 * MS, &after);
    world_run(&w, SEC, &after);
    g_assert_cmpfloat(after, >=, 1100);
    g_rand_free(w.rand);
}

/* The rate that was good a moment ago is where a guest that comes back finds
 * it, or little below. */
static void test_returns(void)
{
    struct world w;
    double before, rate;

    world_settle(&w, &disks[0], 3);
    world_run(&w, 10 * SEC, &before);
    world_run(&w, 5 * SEC, &before);
    w.depth = 0;
    world_run(&w, 5 * SEC, &rate);
    w.depth = 4;
    world_run(&w, SEC, &rate);
    g_test_message("before %.0f, on return %.0f MiB/s", before, rate);
    g_assert_cmpfloat(rate, >=, 0.5 * before);
    g_rand_free(w.rand);
}

/* A disk that becomes four times slower: the target is kept again soon. */
static void test_slows_down(void)
{
    struct world w;
    double rate;
    uint64_t p99;

    world_settle(&w, &disks[0], 4);
    w.limit.target = (struct latency_target) { .ns = 400 * US };
    world_run(&w, 10 * SEC, &rate);
    w.disk.mib_s /= 4;
    world_run(&w, 500 * MS, &rate);
    g_test_message("half a second later %.0f MiB/s", rate);
    world_run(&w, 3 * SEC, &rate);
    p99 = world_run(&w, 10 * SEC, &rate);
    g_test_message("then p99 %u us, %.0f MiB/s", (unsigned)(p99 / US), rate);
    g_assert_cmpuint(p99, <=, 480 * US);
    g_assert_cmpfloat(rate, >=, 0.8 * best_fixed(&w.disk, 4, 400 * US, 7));
    g_rand_free(w.rand);
}

/* A target that no rate keeps: the least rate, neither nothing nor more; the
 * undisturbed latency is looked at ever more seldom. */
static void test_impossible(void)
{
    struct world w;
    double rate;

    world_settle(&w, &disks[3], 2);
    w.limit.target = (struct latency_target) { .ns = MS };
    world_run(&w, 20 * SEC, &rate);
    world_run(&w, 20 * SEC, &rate);
    g_test_message("%.2f MiB/s", rate);
    g_assert_cmpfloat(rate, >=, 0.8);
    g_assert_cmpfloat(rate, <=, 4);
    g_rand_free(w.rand);
}

/* The load does not change: the rate comes to rest.  Its ups and downs in a
 * minute, added up, are less than a few times the rate itself. */
static void test_rests(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(disks); i++) {
        struct world w;
        double rate, last, sum = 0, moved = 0;
        unsigned n = 0;

        world_settle(&w, &disks[i], 3);
        world_run(&w, 20 * SEC, &rate);
        last = w.limit.rate;
        for (; n < 6000; n++) {
            world_run(&w, 10 * MS, &rate);
            moved += fabs(w.limit.rate - last);
            last = w.limit.rate;
            sum += last;
        }
        g_test_message("%-6s moved %.1f times its mean in a minute",
                       disks[i].name, moved / (sum / n));
        g_assert_cmpfloat(moved / (sum / n), <=, 12);
        g_rand_free(w.rand);
    }
}

/* A guest that asks for little, now and then: few requests still mean
 * something, and the work goes on. */
static void test_few_requests(void)
{
    struct world w;
    double rate;
    uint64_t p99;

    world_init(&w, &disks[2], 5);
    w.depth = 1;
    w.think_ns = 50 * MS;
    world_run(&w, 20 * SEC, &rate);
    p99 = world_run(&w, 60 * SEC, &rate);
    g_test_message("p99 %u us, target %u, %.0f MiB/s", (unsigned)(p99 / US),
                   (unsigned)(limit_target_ns(&w.limit) / US), rate);
    g_assert_cmpfloat(rate, >=, 20);
    g_assert_cmpfloat((double)p99, <=, 4 * (double)limit_target_ns(&w.limit));
    g_rand_free(w.rand);
}

/* What is slow for reasons of its own teaches nothing, and is not held back
 * when it becomes faster. */
static void test_slow_source(void)
{
    struct world w;
    double rate;

    world_settle(&w, &disks[0], 3);
    w.source = 20.0 * (double)MIB;
    world_run(&w, 10 * SEC, &rate);
    g_assert_cmpfloat(rate, >=, 18);
    w.source = 400.0 * (double)MIB;
    world_run(&w, 3 * SEC, &rate);
    world_run(&w, SEC, &rate);
    g_test_message("%.0f MiB/s", rate);
    g_assert_cmpfloat(rate, >=, 350);
    g_rand_free(w.rand);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/background/limit/target", test_target);
    g_test_add_func("/graph/background/limit/absolute", test_absolute);
    g_test_add_func("/graph/background/limit/comes-and-goes",
                    test_comes_and_goes);
    g_test_add_func("/graph/background/limit/returns", test_returns);
    g_test_add_func("/graph/background/limit/slows-down", test_slows_down);
    g_test_add_func("/graph/background/limit/impossible", test_impossible);
    g_test_add_func("/graph/background/limit/rests", test_rests);
    g_test_add_func("/graph/background/limit/few-requests", test_few_requests);
    g_test_add_func("/graph/background/limit/slow-source", test_slow_source);
    return g_test_run();
}
