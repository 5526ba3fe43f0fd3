/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streams beside guests on a simulated disk with queues and service times: real
 * images, real jobs, real admission control.
 *
 * A seed chooses the disk, the guests, the number of streams and what they are
 * told, and then what happens: guests come and go, the disk becomes slower, a
 * target cannot be kept and the floor has to do, a time is set by which all is
 * to be over.  What must hold is checked where it happens.
 */
#include <fcntl.h>
#include <glib.h>
#include <math.h>
#include <string.h>
#include "filter/filter.h"
#include "format/format.h"
#include "graph/background/control.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/stream/stream.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "sim/sim.h"
#include "storage/storage.h"

#define US UINT64_C(1000)
#define MS (1000 * US)
#define SEC (1000 * MS)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define JOBS_MAX 10
#define DEPTH_MAX 8
/* Of the virtual seconds of a seed, how many the streams would need alone. */
#define WORK_SECONDS 60

static const struct node_driver *const drivers[] = {
    &file_driver, &raw_driver, &qed_driver, &copy_on_read_driver, NULL,
};

struct world {
    uint64_t seed;
    GRand *rand;
    struct loop *loop;
    struct sim *sim;
    struct graph *graph;
    struct jobs *jobs;

    struct sim_disk disk;
    unsigned n;    /* streams */
    uint64_t size; /* of each */
    struct node *top[JOBS_MAX];
    struct background_limits limits;
    uint64_t speed;

    unsigned depth;
    uint64_t think_ns;
    unsigned writes; /* percent */
    bool away, quit;
    struct co_queue back;
    struct co_latch guests;
    struct backend *guest[JOBS_MAX];
    struct latency took;
    unsigned missed; /* events */
    unsigned ended;
};

#define must(call, err) \
    do { \
        int ret_ = (call); \
        g_assert_no_error(err); \
        g_assert_cmpint(ret_, >=, 0); \
    } while (0)

static uint64_t now(struct world *w)
{
    return loop_clock_ns(w->loop);
}

/* --- images --- */

static CO_FN struct node *open_co(struct world *w, const char *text)
{
    g_autofree char *json = g_strdup(text);
    struct node *n = NULL;
    GError *err = NULL;
    json_t *o;

    g_strdelimit(json, "'", '"');
    o = json_loads(json, 0, NULL);
    g_assert_nonnull(o);
    must(node_co_open(w->graph, o, NODE_RDWR, &n, &err), err);
    json_decref(o);
    return n;
}

static CO_FN void make_co_base(struct world *w)
{
    uint8_t *buf = g_malloc(MIB);
    struct io_file *f;

    for (unsigned i = 0; i < MIB; i++) {
        buf[i] = (uint8_t)(i % 251 + 1);
    }
    must(io_co_open("/base", O_RDWR | O_CREAT, 0600, &f), NULL);
    for (uint64_t off = 0; off < w->size; off += MIB) {
        struct iovec v;

        must(io_co_pwritev(f, off, iov_one(&v, buf, MIB), IO_TAG_DATA), NULL);
    }
    io_co_close(f);
    g_free(buf);
}

static CO_FN void make_co_top(struct world *w, unsigned i)
{
    g_autofree char *path = g_strdup_printf("/top%u", i);
    g_autofree char *file = g_strdup_printf("{'driver':'file','filename':'%s'}",
                                            path);
    g_autofree char *image = g_strdup_printf(
        "{'driver':'qed','node-name':'top%u','file':%s,'backing':{'driver':"
        "'raw','file':{'driver':'file','filename':'/base','read-only':true},"
        "'read-only':true}}",
        i, file);
    GError *err = NULL;
    struct io_file *f;
    struct node *n;
    struct opts *o;
    json_t *j;

    must(io_co_open(path, O_RDWR | O_CREAT, 0600, &f), NULL);
    io_co_close(f);
    n = open_co(w, file);
    j = json_pack("{s:I, s:i, s:s, s:s}", "size", (json_int_t)w->size,
                  "cluster_size", 4096, "backing_file", "/base", "backing_fmt",
                  "raw");
    o = opts_new(j);
    must(qed_driver.co_create(n, o, &err), err);
    opts_free(o);
    json_decref(j);
    node_co_unref(n);
    w->top[i] = open_co(w, image);
    must(backend_co_new(w->top[i], "guest", PERM_WRITE | PERM_CONSISTENT_READ,
                        PERM_ALL, NULL, NULL, &w->guest[i], &err),
         err);
}

/* --- guests --- */

static CO_FN void guest_entry(void *arg)
{
    struct world *w = arg;
    uint8_t *buf = g_malloc(4 * KIB);

    memset(buf, 7, 4 * KIB);
    while (!w->quit) {
        uint64_t begun,
            off = g_rand_int(w->rand) % (w->size / (4 * KIB)) * 4 * KIB;
        struct backend *u = w->guest[g_rand_int(w->rand) % w->n];
        struct iovec v;

        if (w->away) {
            co_queue_co_wait(&w->back);
            continue;
        }
        begun = now(w);
        if (g_rand_int(w->rand) % 100 < w->writes) {
            must(backend_co_pwritev(u, off, iov_one(&v, buf, 4 * KIB), 0),
                 NULL);
        } else {
            must(backend_co_preadv(u, off, iov_one(&v, buf, 4 * KIB), 0), NULL);
        }
        latency_add(&w->took, now(w) - begun);
        co_sleep(w->think_ns / 2 + g_rand_int(w->rand) % w->think_ns);
    }
    g_free(buf);
    co_latch_done(&w->guests);
}

static void guests_come(struct world *w)
{
    w->away = false;
    co_queue_wake_all(&w->back);
}

/* p99 of what guests see in the next @ns. */
static CO_FN uint64_t p99_co(struct world *w, uint64_t ns)
{
    latency_clear(&w->took);
    co_sleep(ns);
    return latency_quantile(&w->took, 99);
}

/* --- streams --- */

static void on_event(const char *name, json_t *data, void *arg)
{
    struct world *w = arg;

    w->missed += !strcmp(name, "BLOCK_JOB_DEADLINE_MISSED");
    if (!strcmp(name, "BLOCK_JOB_COMPLETED")) {
        g_assert_null(json_object_get(data, "error"));
        w->ended++;
    }
}

static CO_FN void stream_co(struct world *w, unsigned i)
{
    g_autofree char *id = g_strdup_printf("j%u", i);
    struct stream_params p = {
        .job = { .id = id,
                 .speed = w->speed,
                 .auto_finalize = true,
                 .auto_dismiss = true,
                 .limits = w->limits },
        .node = w->top[i],
    };
    struct job *job;
    GError *err = NULL;

    must(stream_co_start(w->jobs, &p, &job, &err), err);
}

static void change_job(struct job *j, void *arg)
{
    struct world *w = arg;
    GError *err = NULL;

    must(job_user_set_speed(j, (int64_t)w->speed, &err), err);
    must(job_user_set_limits(j, &w->limits, &err), err);
}

static void add_offset(struct job *j, void *arg)
{
    *(uint64_t *)arg += j->offset;
}

/* Of all streams, those that have ended included. */
static uint64_t work_done(struct world *w)
{
    uint64_t sum = w->ended * w->size;

    jobs_foreach(w->jobs, add_offset, &sum);
    return sum;
}

/* MiB/s of all streams in the next @ns. */
static CO_FN double rate_co(struct world *w, uint64_t ns)
{
    uint64_t before = work_done(w);

    co_sleep(ns);
    return (double)(work_done(w) - before) / (double)MIB * 1e9 / (double)ns;
}

static struct limit *limit_of(struct world *w)
{
    return &node_storage(w->top[0])->priv->control->limit;
}

#define tell(w, fmt, ...) \
    g_test_message("seed %u: %.1f s " fmt, (unsigned)(w)->seed, \
                   (double)now(w) / 1e9, __VA_ARGS__)

/* --- what happens --- */

/* A target that a slow stream keeps is kept, at more than that. */
static CO_FN uint64_t target_co_kept(struct world *w, uint64_t idle)
{
    unsigned times = 3 + g_rand_int(w->rand) % 3;
    bool absolute = g_rand_boolean(w->rand);
    uint64_t target = idle * times, slow, p99;
    double rate, last, moved = 0;

    w->limits.floor = 64 * KIB;
    w->limits.target = (struct latency_target) { 0 };
    w->speed = MIB / w->n;
    for (unsigned i = 0; i < w->n; i++) {
        stream_co(w, i);
    }
    co_sleep(SEC);
    slow = p99_co(w, 4 * SEC);
    w->limits.target = absolute ? (struct latency_target) { .ns = target }
                                : (struct latency_target) { .times = times };
    w->speed = 0;
    jobs_foreach(w->jobs, change_job, w);
    co_sleep(8 * SEC);
    last = limit_of(w)->rate;
    latency_clear(&w->took);
    rate = (double)work_done(w);
    for (unsigned i = 0; i < 1000; i++) {
        co_sleep(10 * MS);
        moved += fabs(limit_of(w)->rate - last);
        last = limit_of(w)->rate;
    }
    p99 = latency_quantile(&w->took, 99);
    /* Since the stream began, reads also populate: so they do undisturbed. */
    target = MAX(target, limit_target_ns(limit_of(w)));
    rate = ((double)work_done(w) - rate) / (double)MIB / 10;
    tell(w,
         "%u streams, idle %u us, target %u us%s, p99 %u us (at 1 MiB/s "
         "%u), %.1f MiB/s, moved %.1f",
         w->n, (unsigned)(idle / US), (unsigned)(target / US),
         absolute ? "" : " by idle", (unsigned)(p99 / US),
         (unsigned)(slow / US), rate, moved / (double)MIB);
    if (slow + slow / 10 <= target) {
        g_assert_cmpfloat((double)p99, <=, 1.2 * 1.07 * (double)target);
        g_assert_cmpfloat(rate, >=, 0.8);
    }
    g_assert_cmpfloat(moved, <=, 4 * (double)w->disk.bytes_per_s);
    return MAX(target, slow);
}

static CO_FN void target_co(struct world *w, uint64_t idle)
{
    (void)target_co_kept(w, idle);
}

/* Guests go: the streams have the disk. They return: they have it. */
static CO_FN void visit_co(struct world *w, uint64_t target)
{
    double alone, busy;
    uint64_t p99;

    w->away = true;
    co_sleep(4 * SEC);
    alone = rate_co(w, 4 * SEC);
    guests_come(w);
    co_sleep(3 * SEC); /* what is in flight has to end, in a slow disk */
    latency_clear(&w->took);
    busy = rate_co(w, 3 * SEC);
    p99 = latency_quantile(&w->took, 99);
    tell(w, "alone %.1f MiB/s, then %.1f, p99 %u us", alone, busy,
         (unsigned)(p99 / US));
    g_assert_cmpfloat(alone, >=,
                      0.3 * (double)w->disk.bytes_per_s / (double)MIB);
    g_assert_cmpuint(p99, <=, 4 * target);
}

/* A target that cannot be kept: each stream has its floor in any two
 * seconds. */
static CO_FN void floor_co(struct world *w, uint64_t idle)
{
    uint64_t floor = w->disk.bytes_per_s / 5 / w->n, before[JOBS_MAX];
    char id[16];

    w->limits.floor = floor;
    w->limits.target = (struct latency_target) { .ns = 20 * US };
    w->speed = 0;
    for (unsigned i = 0; i < w->n; i++) {
        stream_co(w, i);
    }
    co_sleep(SEC);
    for (unsigned k = 0; k < 6; k++) {
        double least = HUGE_VAL, most = 0;

        for (unsigned i = 0; i < w->n; i++) {
            g_snprintf(id, sizeof(id), "j%u", i);
            before[i] = jobs_find(w->jobs, id)->offset;
        }
        co_sleep(2 * SEC);
        for (unsigned i = 0; i < w->n; i++) {
            double got;

            g_snprintf(id, sizeof(id), "j%u", i);
            got = (double)(jobs_find(w->jobs, id)->offset - before[i]) / 2;
            least = MIN(least, got);
            most = MAX(most, got);
        }
        tell(w, "floor %u KiB/s, %u streams have %.0f to %.0f",
             (unsigned)(floor / KIB), w->n, least / 1024, most / 1024);
        /* Offsets grow by whole chunks, and not in order. */
        g_assert_cmpfloat(least + 64 * 1024, >=, 0.9 * (double)floor);
    }
}

/* A time that can be kept is kept, whatever guests feel; one that cannot is
 * told long before it comes. */
static CO_FN void deadline_co(struct world *w, uint64_t idle)
{
    double all = (double)w->n * (double)w->size;
    double best = (double)w->disk.bytes_per_s / 2;
    bool possible = g_rand_boolean(w->rand);
    uint64_t seconds = (uint64_t)(all / best * (possible ? 2.2 : 0.4));

    w->limits.target = (struct latency_target) { .ns = 20 * US };
    w->limits.floor = 64 * KIB;
    w->limits.finish_by = now(w) / SEC + seconds;
    w->speed = 0;
    for (unsigned i = 0; i < w->n; i++) {
        stream_co(w, i);
    }
    co_sleep(possible ? seconds * SEC : seconds * SEC * 3 / 4);
    tell(w, "%u s for %u of %u MiB: %u of %u streams ended, %u told",
         (unsigned)seconds, (unsigned)(work_done(w) / MIB),
         (unsigned)(all / (double)MIB), w->ended, w->n, w->missed);
    if (possible) {
        g_assert_cmpuint(w->ended, ==, w->n);
        g_assert_cmpuint(w->missed, ==, 0);
    } else {
        g_assert_cmpuint(w->missed, ==, w->n);
    }
}

/* The disk becomes three times slower: the target is kept again. */
static CO_FN void slower_co(struct world *w, uint64_t idle)
{
    uint64_t target = 8 * idle, slow, p99;
    double rate;

    w->limits.floor = 64 * KIB;
    w->limits.target = (struct latency_target) { .ns = target };
    w->speed = 0;
    for (unsigned i = 0; i < w->n; i++) {
        stream_co(w, i);
    }
    co_sleep(6 * SEC);
    w->disk.bytes_per_s /= 3;
    sim_set_disk(w->sim, &w->disk);
    co_sleep(10 * SEC);
    latency_clear(&w->took);
    rate = rate_co(w, 6 * SEC);
    p99 = latency_quantile(&w->took, 99);
    w->limits.target = (struct latency_target) { 0 };
    w->speed = MIB / w->n;
    jobs_foreach(w->jobs, change_job, w);
    co_sleep(2 * SEC);
    slow = p99_co(w, 4 * SEC);
    tell(w,
         "slower disk: target %u us, p99 %u us (at 1 MiB/s %u), %.1f "
         "MiB/s",
         (unsigned)(target / US), (unsigned)(p99 / US), (unsigned)(slow / US),
         rate);
    if (slow + slow / 10 <= target) {
        g_assert_cmpfloat((double)p99, <=, 1.2 * 1.07 * (double)target);
    }
    g_assert_cmpfloat(rate, >=, 0.5);
}

static CO_FN void target_and_visits_co(struct world *w, uint64_t idle)
{
    visit_co(w, target_co_kept(w, idle));
}

/* --- one seed --- */

static CO_FN void world_co_begin(struct world *w)
{
    w->size = MAX(w->disk.bytes_per_s / 2 * WORK_SECONDS / w->n / MIB, 1) * MIB;
    make_co_base(w);
    for (unsigned i = 0; i < w->n; i++) {
        make_co_top(w, i);
    }
    sim_set_disk(w->sim, &w->disk);
    for (unsigned i = 0; i < w->depth; i++) {
        co_latch_add(&w->guests);
        co_start(w->loop, guest_entry, w);
    }
}

static CO_FN void world_co_end(struct world *w)
{
    w->quit = true;
    guests_come(w);
    co_latch_co_wait(&w->guests);
    jobs_co_cancel_all(w->jobs);
    for (unsigned i = 0; i < w->n; i++) {
        backend_co_free(w->guest[i]);
        node_co_unref(w->top[i]);
    }
    graph_co_free(w->graph);
    jobs_free(w->jobs);
    loop_stop(w->loop);
}

static CO_FN void world_entry(void *arg)
{
    static CO_FN_PTR void (*const acts[])(struct world * w, uint64_t idle) = {
        target_and_visits_co, target_co, floor_co, deadline_co, slower_co,
    };
    struct world *w = arg;

    world_co_begin(w);
    co_sleep(SEC);
    acts[w->seed % G_N_ELEMENTS(acts)](w, p99_co(w, 2 * SEC));
    world_co_end(w);
}

static void world_choose(struct world *w)
{
    w->disk = (struct sim_disk) {
        .channels = 1u << g_rand_int_range(w->rand, 1, 5),
        .request_ns = (uint64_t)g_rand_int_range(w->rand, 50, 400) * US,
        .bytes_per_s = (uint64_t)g_rand_int_range(w->rand, 8, 24) * MIB,
        .spread = 30,
    };
    w->n = (unsigned)(g_rand_boolean(w->rand)
                          ? 1
                          : g_rand_int_range(w->rand, 2, JOBS_MAX + 1));
    w->depth = (unsigned)g_rand_int_range(w->rand, 1, DEPTH_MAX / 2 + 1);
    w->think_ns = (uint64_t)g_rand_int_range(w->rand, 2, 10) * MS;
    w->writes = g_rand_boolean(w->rand) ? 20 : 0;
    w->limits = (struct background_limits)BACKGROUND_LIMITS;
}

static void run_seed(uint64_t seed)
{
    struct loop_options o = SIM_OPTIONS(seed);
    struct world w = { .seed = seed };
    GError *err = NULL;

    w.rand = g_rand_new_with_seed((guint32)seed);
    world_choose(&w);
    must(loop_new(&o, &w.loop, &err), err);
    w.sim = loop_sim(w.loop);
    sim_log_reset(w.sim, false);
    w.graph = graph_new(w.loop, drivers);
    w.jobs = jobs_new(w.loop, on_event, &w);
    co_start(w.loop, world_entry, &w);
    loop_run(w.loop);
    loop_free(w.loop);
    g_rand_free(w.rand);
}

/* --- the program --- */

static gint64 first = 1, count = 10;

static void test_seeds(void)
{
    for (gint64 i = first; i < first + count; i++) {
        g_test_message("seed %u begins; alone: --first %u --count 1",
                       (unsigned)i, (unsigned)i);
        run_seed((uint64_t)i);
    }
}

int main(int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "first", 0, 0, G_OPTION_ARG_INT64, &first, "first seed", "N" },
        { "count", 0, 0, G_OPTION_ARG_INT64, &count, "how many", "N" },
        { NULL, 0, 0, 0, NULL, NULL, NULL },
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;

    g_option_context_set_ignore_unknown_options(context, TRUE);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        g_error("%s", err->message);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dst/background", test_seeds);
    return g_test_run();
}
