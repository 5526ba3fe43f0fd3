/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images on the simulated machine and what a guest does with them.
 *
 * A sequence is a string of letters, each an operation; with '|' before it an
 * operation begins without waiting for the one before.  Small letters have
 * fixed places, so that sequences can be enumerated; capitals at the end of the
 * table draw theirs from the seed.
 */
#include "crash.h"
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "filter/filter.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/stream.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "storage/storage.h"

struct world world;

/* A guest does not resize; whoever does, does so for it. */
#define GUEST_PERMS (PERM_CONSISTENT_READ | PERM_WRITE)

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
/* The second window holds the end of what one L2 table maps. */
const struct crash_config crash_configs[] = {
    { "4k", false, false, 4096, 2, 4 * MIB + 14 * KIB - 512, 0 },
    { "4k-base", false, true, 4096, 2, 4 * MIB + 14 * KIB - 512,
      4 * MIB + 14 * KIB - 512 },
    { "4k-short", false, true, 4096, 2, 4 * MIB + 6 * KIB, 9 * KIB + 512 },
    { "4k-long", false, true, 4096, 2, 4 * MIB + 6 * KIB, 4 * MIB + 16 * KIB },
    { "64k", false, false, 65536, 2, KIB * MIB + 96 * KIB, 0 },
    { "64k-base", false, true, 65536, 2, KIB * MIB + 96 * KIB,
      KIB * MIB + 96 * KIB },
    { "4k-shared", false, true, 4096, 2, 4 * MIB + 14 * KIB - 512,
      4 * MIB + 14 * KIB - 512, .shares = true },
    { "raw", true, false, 4096, 2, 4 * MIB + 14 * KIB - 512, 0 },
};
const unsigned crash_n_configs = G_N_ELEMENTS(crash_configs);

static const struct node_driver *const drivers[] = {
    &file_driver, &raw_driver, &qed_driver, &copy_on_read_driver, NULL
};

/* --- the machine --- */

struct run {
    void (*fn)(void *arg);
    void *arg;
};

static void on_event(const char *name, json_t *data, void *arg)
{
    if (g_str_equal(name, "BLOCK_JOB_COMPLETED") &&
        !json_object_get(data, "error") && !world.job_done) {
        world.job_done = sim_mark(world.sim, "completed", 0);
    }
}

static CO_FN void world_entry(void *arg)
{
    struct run *run = arg;

    world.graph = graph_new(world.loop, drivers);
    world.jobs = jobs_new(world.loop, on_event, NULL);
    run->fn(run->arg);
    jobs_free(world.jobs);
    graph_co_free(world.graph);
    loop_stop(world.loop);
}

void world_run(const struct crash_config *c, uint64_t seed,
               void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = { .engine = IO_ENGINE_SIM, .sim_seed = seed };
    struct run run = { fn, arg };

    world = (struct world) { .config = c };
    if (loop_new(&opts, &world.loop, NULL) < 0) {
        g_error("no simulated machine");
    }
    world.sim = loop_sim(world.loop);
    sim_set_shares(world.sim, c->shares);
    co_start(world.loop, world_entry, &run);
    loop_run(world.loop);
    while (loop_turn(world.loop, false)) {
    }
    g_assert(co_count(world.loop) == 0);
    loop_free(world.loop);
}

/* --- images --- */

/* Cluster 3 of the base is a hole. */
static bool base_has(const struct crash_config *c, uint64_t sector)
{
    return c->backing && (sector + 1) * SECTOR <= c->base_size &&
        sector / (c->cluster / SECTOR) != 3;
}

/* Data in the windows, holes elsewhere. */
void world_co_make_base(void)
{
    const struct crash_config *c = world.config;
    struct window w[N_WINDOWS];
    uint8_t buf[SECTOR];
    struct io_file *f;
    struct iovec v;

    if (!c->backing) {
        return;
    }
    g_assert(io_co_open("/base", O_RDWR | O_CREAT, 0600, &f) == 0);
    g_assert(io_co_truncate(f, c->base_size) == 0);
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first; s < w[i].first + w[i].n; s++) {
            if (base_has(c, s)) {
                stamp_put(buf, ID_BASE_FILE, s);
                g_assert(io_co_pwritev(f, s * SECTOR,
                                       iov_one(&v, buf, SECTOR),
                                       IO_TAG_DATA) == 0);
            }
        }
    }
    io_co_close(f);
}

void world_co_make_image(void)
{
    const struct crash_config *c = world.config;
    json_t *o = json_pack("{s:I}", "size", (json_int_t) c->size);
    g_autoptr(GError) err = NULL;

    if (c->backing) {
        json_object_set_new(o, "backing_file", json_string("/base"));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    if (!c->raw) {
        json_object_set_new(o, "cluster_size", json_integer(c->cluster));
        json_object_set_new(o, "table_size", json_integer(c->table));
    }
    if (image_co_create(world.graph, c->raw ? &raw_driver : &qed_driver,
                        "/top", o, &err) < 0) {
        g_error("create: %s", err->message);
    }
    json_decref(o);
}

int world_co_open(bool writable, struct node **ret_n, GError **err)
{
    const struct crash_config *c = world.config;
    json_t *o = json_pack("{s:s,s:{s:s,s:s,s:s}}", "driver",
                          c->raw ? "raw" : "qed", "file", "driver", "file",
                          "filename", "/top", "locking", "off");
    int ret;

    if (writable && c->backing) {
        o = json_pack("{s:s,s:o}", "driver", "copy-on-read", "file", o);
    }
    ret = node_co_open(world.graph, o, writable ? NODE_RDWR : 0, ret_n, err);
    json_decref(o);
    return ret;
}

/* --- operations --- */

struct guest {
    struct oracle *o;
    struct node *n;
    struct user *u;
    uint64_t cursor;            /* of stream steps */
    GRand *rnd;
    struct co_latch running;
    struct co_latch jobs;
};

struct task {
    struct guest *g;
    struct op *op;
};

/* Where an operation works: in units of sectors, from the begin of a window.
 * Lengths in sectors, or clusters where it says so. */
static CO_FN int guest_co_write(struct guest *g, struct op *op)
{
    g_autofree uint8_t *buf = g_malloc(op->n * SECTOR);
    uint64_t id = g->o->id_base + (uint64_t) (op - g->o->ops) + 1;
    struct iovec v;

    for (uint64_t s = 0; s < op->n; s++) {
        stamp_put(buf + s * SECTOR, id, op->first + s);
    }
    return user_co_pwritev(g->u, op->first * SECTOR,
                           iov_one(&v, buf, op->n * SECTOR),
                           op->fua ? IO_FUA : 0);
}

static CO_FN int guest_co_read(struct guest *g, struct op *op)
{
    g_autofree uint8_t *buf = g_malloc(op->n * SECTOR);
    struct iovec v;
    int ret = user_co_preadv(g->u, op->first * SECTOR,
                             iov_one(&v, buf, op->n * SECTOR), 0);

    for (uint64_t s = 0; ret == 0 && s < op->n; s++) {
        uint64_t id = stamp_get(buf + s * SECTOR, op->first + s);

        if (!oracle_may_read(g->o, op->begun, op->first + s, id)) {
            g_error("G7: a read that began at instant %" G_GUINT64_FORMAT
                    " sees %" G_GUINT64_FORMAT " in sector %" G_GUINT64_FORMAT,
                    op->begun, id, op->first + s);
        }
    }
    return ret;
}

static CO_FN void job_wait_entry(void *arg)
{
    struct guest *g = arg;
    struct job *j = jobs_find(world.jobs, "j");

    if (j) {
        job_co_wait_concluded(j);
    }
    co_latch_done(&g->jobs);
}

/* -EBUSY when one runs, -EINVAL when there is nothing to stream: fine. */
static CO_FN int guest_co_stream(struct guest *g, bool wait)
{
    struct stream_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .node = user_node(g->u),
    };
    struct job *j;
    int ret = stream_co_start(world.jobs, &p, &j, NULL);

    if (ret < 0) {
        return ret;
    }
    if (wait) {
        job_co_wait_concluded(j);
    } else {
        co_latch_add(&g->jobs);
        co_start(world.loop, job_wait_entry, g);
    }
    return 0;
}

static CO_FN int guest_co_cancel(struct guest *g, struct op *op)
{
    struct job *j = jobs_find(world.jobs, "j");
    int ret = 0;

    if (!j) {
        ret = guest_co_stream(g, false);
        co_co_sleep(g_rand_int_range(g->rnd, 0, 3000) * UINT64_C(1000));
        j = jobs_find(world.jobs, "j");
    }
    if (ret == 0 && j) {
        job_user_cancel(j, false, NULL);
        co_latch_co_wait(&g->jobs);
    }
    return ret;
}

static CO_FN int guest_co_resize(struct guest *g, struct op *op)
{
    struct node *n = user_node(g->u);
    int ret;

    ret = node_check_op(node_skip_filters(n), BLOCK_OP_RESIZE, NULL);
    if (ret == 0) {
        node_ref(n);
        ret = node_co_truncate(n, op->n * SECTOR, NULL);
        node_co_unref(n);
    }
    return ret;
}

static CO_FN int op_co_do(struct guest *g, struct op *op)
{
    uint64_t off = op->first * SECTOR, len = op->n * SECTOR;
    uint64_t ret_len, ret_off;

    switch (op->kind) {
    case OP_WRITE:
        return guest_co_write(g, op);
    case OP_ZERO:
        return user_co_zero(g->u, off, len,
                            IO_MAY_UNMAP | (op->fua ? IO_FUA : 0));
    case OP_TRIM:
        return user_co_discard(g->u, off, len);
    case OP_FLUSH:
        return user_co_flush(g->u);
    case OP_READ:
        return guest_co_read(g, op);
    case OP_STEP:
        return stream_co_step(world.jobs, user_node(g->u), "top", &g->cursor,
                              &ret_len, &ret_off, NULL);
    case OP_STREAM:
        return guest_co_stream(g, true);
    case OP_STREAM_BG:
        return guest_co_stream(g, false);
    case OP_CANCEL:
        return guest_co_cancel(g, op);
    case OP_RESIZE:
        return guest_co_resize(g, op);
    case OP_WAIT:
        co_co_sleep(op->n * 1000000);
        return 0;
    }
    return 0;
}

static CO_FN void op_entry(void *arg)
{
    struct task *t = arg;
    unsigned i = (unsigned) (t->op - t->g->o->ops);

    t->op->begun = sim_mark(world.sim, "begin", i);
    t->op->result = op_co_do(t->g, t->op);
    t->op->ended = sim_mark(world.sim, "end", i);
    if (t->op->result < 0 && t->op->kind <= OP_READ) {
        g_error("op %u failed: %s", i + 1, g_strerror(-t->op->result));
    }
    co_latch_done(&t->g->running);
    g_free(t);
}

/* --- sequences --- */

/* Halves of clusters from the begin of the window; @len 0: to the end of the
 * disk. */
struct letter {
    char letter;
    enum op_kind kind;
    bool fua;
    unsigned window, from, len;
};
static const struct letter letters[] = {
    { 'a', OP_WRITE, false, 0, 2, 2 },          /* a cluster */
    { 'u', OP_WRITE, false, 0, 3, 2 },          /* across two */
    { 'f', OP_WRITE, true, 1, 3, 2 },           /* FUA, across two tables */
    { 'b', OP_WRITE, false, 1, 2, 4 },          /* two tables */
    { 'e', OP_WRITE, false, 1, 4, 0 },          /* the end of the disk */
    { 'x', OP_ZERO, true, 0, 0, 4 },            /* FUA */
    { 'z', OP_ZERO, false, 0, 2, 4 },
    { 't', OP_TRIM, false, 0, 2, 4 },
    { 'F', OP_FLUSH },
    { 'r', OP_READ, false, 0, 0, 8 },
    { 'q', OP_READ, false, 1, 1, 0 },
    { 'p', OP_STEP }, { 's', OP_STREAM }, { 'S', OP_STREAM_BG },
    { 'c', OP_CANCEL }, { 'g', OP_RESIZE }, { 'w', OP_WAIT }, { 'W', OP_WAIT },
    { 'R', OP_READ }, { 'D', OP_WRITE }, { 'U', OP_WRITE, true },
    { 'Z', OP_ZERO }, { 'T', OP_TRIM },
};

static const struct letter *letter_find(char ch)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(letters); i++) {
        if (letters[i].letter == ch) {
            return &letters[i];
        }
    }
    g_error("no operation '%c'", ch);
}

static void place_random(struct guest *g, struct op *op, const struct window *w,
                         uint64_t cluster)
{
    unsigned i = (unsigned) g_rand_int_range(g->rnd, 0, N_WINDOWS);

    op->first = w[i].first +
        (uint64_t) g_rand_int_range(g->rnd, 0, (gint32) (4 * cluster));
    op->n = (uint64_t) g_rand_int_range(g->rnd, 1, (gint32) (2 * cluster));
    if (op->kind == OP_ZERO || op->kind == OP_TRIM) {
        op->first -= op->first % cluster;
        op->n += cluster - 1;
        op->n -= op->n % cluster;
    }
    if (i == 0) {
        op->n = MIN(op->n, w[0].n - op->first);
    }
}

static void place(struct guest *g, const struct letter *l, struct op *op)
{
    const struct crash_config *c = g->o->config;
    uint64_t cluster = c->cluster / SECTOR, end = g->n->size / SECTOR;
    struct window w[N_WINDOWS];

    windows_get(c, w);
    if (l->kind == OP_FLUSH || l->kind >= OP_STEP) {
        op->n = l->kind == OP_WAIT ? (l->letter == 'W' ? 7000 : 1500) : 0;
        if (l->kind == OP_RESIZE) {
            op->n = MIN(w[1].first + w[1].n, end + cluster + 1);
        }
        return;
    }
    if (strchr("RDUZT", l->letter)) {
        place_random(g, op, w, cluster);
    } else {
        op->first = w[l->window].first + l->from * cluster / 2;
        op->n = l->len ? l->len * cluster / 2 : end;
    }
    op->first = MIN(op->first, end - 1);
    op->n = MIN(op->n, end - op->first);
}

static CO_FN void guest_co_play(struct guest *g, const char *sequence)
{
    for (const char *p = sequence; *p; p++) {
        bool beside = *p == '|';
        const struct letter *l = letter_find(*(p += beside));
        struct task *t = g_new(struct task, 1);
        struct op op = { .kind = l->kind, .fua = l->fua };

        if (!beside) {
            co_latch_co_wait(&g->running);
        }
        place(g, l, &op);
        *t = (struct task) { g, oracle_add(g->o, &op) };
        co_latch_add(&g->running);
        co_start(world.loop, op_entry, t);
    }
    co_latch_co_wait(&g->running);
    co_latch_co_wait(&g->jobs);
}

static void base_init(struct oracle *o)
{
    const struct crash_config *c = o->config;
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first; s < w[i].first + w[i].n; s++) {
            /* Past the end of the disk there are zeroes, base or not. */
            if (base_has(c, s) && (s + 1) * SECTOR <= c->size) {
                o->init[slot_of(c, s)] = ID_BASE_FILE;
            }
        }
    }
}

void world_co_run(const char *sequence, GRand *rnd, struct oracle *o)
{
    struct guest g = { .o = o, .rnd = rnd };
    g_autoptr(GError) err = NULL;

    base_init(o);
    world.job_done = 0;
    if (world_co_open(true, &g.n, &err) < 0 ||
        user_co_new(g.n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                    &err) < 0) {
        g_error("open: %s", err->message);
    }
    guest_co_play(&g, sequence);
    user_co_free(g.u);
    node_co_unref(g.n);
    o->gone = world.job_done;
    oracle_index(o);
}

/* --- after a crash --- */

char *world_co_recover(struct node *n, struct oracle *o)
{
    struct guest g = { .o = o, .n = n };
    bool streams = node_backing(node_skip_filters(n)) != NULL;
    g_autoptr(GError) err = NULL;

    world.job_done = 0;
    if (user_co_new(n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                    &err) < 0) {
        return g_strdup(err->message);
    }
    guest_co_play(&g, streams ? "uFr|Se|b" : "uFbzrw");
    user_co_free(g.u);
    o->gone = world.job_done;
    if (streams && !o->gone) {
        return g_strdup("the stream after the crash did not end");
    }
    return NULL;
}
