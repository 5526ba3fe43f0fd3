/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power loss on the simulated machine.  Writers of all kinds run at once on a
 * QED image; then, for many instants, a file is built of what must be durable
 * by then and any part of the rest.  It has to open, check without corruptions,
 * and hold nothing but what the guest was promised (G1 to G3, G8).
 *
 * That the test can fail is part of it: with half of the flushes ignored while
 * the file is built, states must turn up that break a promise.
 */
#include "util.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/endian.h"
#include "graph/image.h"
#include "graph/populate.h"
#include "loop/io.h"
#include "sim/sim.h"

enum {
    SECTORS = 4096,
    DISK = SECTORS * 512,
    OPS = 160,
    TASKS = 8,
    STATES = 80
};

/* --- history of the guest --- */

enum op_kind { OP_WRITE, OP_ZERO, OP_TRIM, OP_FLUSH };
struct op {
    enum op_kind kind;
    bool fua;
    uint32_t first, n;     /* sectors */
    uint64_t begun, ended; /* instants; 0 = not ended */
};
static struct op ops[OPS];
static unsigned n_ops;

/* What was logged, each record with the instant it is durable from. */
struct history {
    const struct sim_record **log;
    uint64_t *durable;
    size_t n;
};

struct config {
    uint32_t cluster_size, table_size;
    bool backing, pivot;
};
static const struct config *config;
static uint64_t seed;
static GRand *rnd;
static uint64_t pivot_ended; /* instant; 0 = never */

/* Sectors carry who wrote them and where; BASE is the base image's. */
#define BASE UINT64_C(1000000)

static void stamp(uint8_t *buf, uint64_t id, uint32_t sector)
{
    for (unsigned i = 0; i < 512; i += 16) {
        put_le64(buf + i, id);
        put_le64(buf + i + 8, sector);
    }
}

/* What stands in @buf: 0 for zeroes, an id, or UINT64_MAX for nonsense. */
static uint64_t stamp_of(const uint8_t *buf, uint32_t sector)
{
    uint8_t want[512] = { 0 };
    uint64_t id = get_le64(buf);

    if (id != 0) {
        stamp(want, id, sector);
    }
    return memcmp(buf, want, 512) ? UINT64_MAX : id;
}

static CO_FN void op_co_run(struct node *n, struct sim *sim, unsigned i)
{
    struct op *op = &ops[i];
    uint8_t *buf = g_malloc(op->n * 512 + 1);
    uint64_t off = (uint64_t)op->first * 512, len = (uint64_t)op->n * 512;
    unsigned flags = op->fua ? IO_FUA : 0;
    int ret = 0;

    op->begun = sim_mark(sim, "begin", i);
    switch (op->kind) {
    case OP_WRITE:
        for (uint32_t s = 0; s < op->n; s++) {
            stamp(buf + s * 512, i + 1, op->first + s);
        }
        ret = do_write(n, off, buf, len, flags);
        break;
    case OP_ZERO: ret = node_co_zero(n, off, len, flags | IO_MAY_UNMAP); break;
    case OP_TRIM: ret = node_co_discard(n, off, len); break;
    case OP_FLUSH: ret = node_co_flush(n); break;
    }
    g_assert_cmpint(ret, ==, 0);
    op->ended = sim_mark(sim, "end", i);
    g_free(buf);
}

static void op_choose(struct op *op)
{
    unsigned dice = (unsigned)g_rand_int_range(rnd, 0, 100);
    uint32_t cluster = config->cluster_size / 512;

    memset(op, 0, sizeof(*op));
    op->kind = dice < 60   ? OP_WRITE
               : dice < 72 ? OP_ZERO
               : dice < 80 ? OP_TRIM
                           : OP_FLUSH;
    op->fua = op->kind <= OP_ZERO && g_rand_int_range(rnd, 0, 8) == 0;
    /* Few places, so that they are met again. */
    op->first = (uint32_t)g_rand_int_range(rnd, 0, 24) * (SECTORS / 24);
    op->first += (uint32_t)g_rand_int_range(rnd, 0, (gint32)cluster);
    op->n = (uint32_t)g_rand_int_range(rnd, 1, (gint32)cluster * 3);
    if (op->kind == OP_ZERO || op->kind == OP_TRIM) {
        op->first -= op->first % cluster;
        op->n += cluster;
    }
    op->n = MIN(op->n, SECTORS - op->first);
    if (op->kind == OP_FLUSH) {
        op->n = 0;
    }
}

struct task {
    struct node *n;
    struct sim *sim;
    struct co_latch *latch;
};

static CO_FN void task_entry(void *arg)
{
    struct task *t = arg;

    while (n_ops < OPS) {
        unsigned i = n_ops++;

        op_choose(&ops[i]);
        op_co_run(t->n, t->sim, i);
    }
    co_latch_done(t->latch);
}

/* --- states after a crash --- */

static bool is_sync(const struct sim_record *r)
{
    return (r->op == SIM_FDATASYNC || r->op == SIM_FSYNC) && r->result >= 0;
}

/* From which instant on is @r durable? UINT64_MAX: never. @skip: every other
 * flush is ignored: 0 none, 1 the even ones, 2 the odd ones. */
static uint64_t durable_at(const struct sim_record *const *log, size_t n,
                           const struct sim_record *r, unsigned skip)
{
    unsigned count = 0;

    for (size_t i = 0; i < n; i++) {
        const struct sim_record *s = log[i];

        if (!is_sync(s) || s->file != r->file) {
            continue;
        }
        count++;
        if (skip && count % 2 == skip - 1) {
            continue;
        }
        if (r->completed && s->submitted > r->completed && s->completed) {
            return s->completed;
        }
    }
    return UINT64_MAX;
}

static gint by_completion(gconstpointer a, gconstpointer b)
{
    const struct sim_record *x = *(const struct sim_record *const *)a;
    const struct sim_record *y = *(const struct sim_record *const *)b;

    return x->completed < y->completed ? -1 : x->completed > y->completed;
}

/* How much of what is not durable persists. */
enum luck { LUCK_NONE, LUCK_ALL, LUCK_HALF, LUCK_FEW, LUCK_MOST, LUCK_COUNT };

static bool lucky(enum luck luck)
{
    static const int percent[] = { 0, 100, 50, 8, 92 };

    return g_rand_int_range(rnd, 0, 100) < percent[luck];
}

static void apply(struct sim_image *img, const struct sim_record *r,
                  bool durable, enum luck luck)
{
    switch (r->op) {
    case SIM_WRITE:
        for (uint64_t pos = 0; pos < r->len;) {
            uint64_t end = MIN(((r->off + pos) / 512 + 1) * 512 - r->off,
                               r->len);
            if (durable || lucky(luck)) {
                sim_image_write(img, r->file, r->off + pos, r->data + pos,
                                end - pos);
            }
            pos = end;
        }
        break;
    case SIM_TRUNCATE:
        if (durable || lucky(luck)) {
            sim_image_truncate(img, r->file, r->off);
        }
        break;
    case SIM_FALLOCATE:
        if (durable || lucky(luck)) {
            sim_image_fallocate(img, r->file, r->mode, r->off, r->len);
        }
        break;
    default: break;
    }
}

static struct sim_image *state_build(const struct sim_image *start,
                                     const struct history *h, uint64_t at,
                                     enum luck luck)
{
    struct sim_image *img = sim_image_copy(start);

    for (size_t i = 0; i < h->n; i++) {
        const struct sim_record *r = h->log[i];

        if (r->submitted <= at && r->result >= 0) {
            apply(img, r, h->durable[i] <= at, luck);
        }
    }
    if (pivot_ended && pivot_ended <= at) {
        sim_image_link(img, "/base", 0);
    }
    return img;
}

/* --- what the guest was promised --- */

static bool touches(const struct op *op, uint32_t sector)
{
    return op->kind != OP_FLUSH && op->begun && sector >= op->first &&
           sector < op->first + op->n;
}

/* Was @op durable, by what the guest was told until @at? */
static bool promised(const struct op *op, uint64_t at)
{
    if (!op->ended || op->ended > at) {
        return false;
    }
    if (op->fua) {
        return true;
    }
    for (unsigned i = 0; i < n_ops; i++) {
        const struct op *f = &ops[i];

        if (f->kind == OP_FLUSH && f->begun > op->ended && f->ended &&
            f->ended <= at) {
            return true;
        }
    }
    return false;
}

/* Must everything older than @op at its sectors be gone at @at? */
static bool hides(const struct op *op, const struct op *older, uint64_t at)
{
    return op->kind != OP_TRIM && promised(op, at) &&
           (!older || (older->ended && older->ended < op->begun));
}

static bool may_hold(uint32_t sector, uint64_t id, uint64_t at)
{
    bool base_ok = true, found = false;

    for (unsigned i = 0; i < n_ops; i++) {
        const struct op *op = &ops[i];
        bool zero = op->kind != OP_WRITE, hidden = false;

        if (!touches(op, sector) || op->begun > at) {
            continue;
        }
        for (unsigned k = 0; k < n_ops && !hidden; k++) {
            hidden = touches(&ops[k], sector) && ops[k].begun <= at &&
                     hides(&ops[k], op, at);
        }
        base_ok = base_ok && !hides(op, NULL, at);
        found = found || (!hidden && (zero ? id == 0 : id == i + 1));
    }
    return found || (base_ok && id == (config->backing ? BASE : 0));
}

/* NULL, or what is wrong with the image as it stands. */
static CO_FN char *state_co_verify(struct graph *g, uint64_t at)
{
    uint8_t *buf = g_malloc(DISK);
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    char *bad = NULL;
    struct node *n;

    if (try_open_image(g, "/top", NODE_CHECK, &n, &err) < 0) {
        g_free(buf);
        return g_strdup(err->message);
    }
    if (n->drv->co_check(n, 0, &res, &err) < 0) {
        bad = g_strdup(err->message);
    } else if (res.corruptions || res.check_errors) {
        bad = g_strdup_printf("%" PRIu64 " corruptions", res.corruptions);
    }
    node_co_unref(n);
    if (!bad && try_open_image(g, "/top", NODE_RDWR, &n, &err) < 0) {
        bad = g_strdup(err->message);
    }
    if (bad) {
        g_free(buf);
        return bad;
    }
    if (do_read(n, 0, buf, DISK) < 0) {
        bad = g_strdup("read error");
    }
    for (uint32_t s = 0; s < SECTORS && !bad; s++) {
        uint64_t id = stamp_of(buf + s * 512, s);

        if (!may_hold(s, id, at)) {
            bad = g_strdup_printf("sector %u holds %" PRIu64, s, id);
        }
    }
    node_co_unref(n);
    g_free(buf);
    return bad;
}

/* --- the test --- */

static CO_FN void base_co_make(void)
{
    uint8_t *buf = g_malloc(DISK);
    struct io_file *f;
    struct iovec v;

    for (uint32_t s = 0; s < SECTORS; s++) {
        stamp(buf + s * 512, BASE, s);
    }
    g_assert_cmpint(io_co_open("/base", O_RDWR | O_CREAT, 0600, &f), ==, 0);
    g_assert_cmpint(io_co_pwritev(f, 0, iov_one(&v, buf, DISK), IO_TAG_DATA),
                    ==, 0);
    io_co_close(f);
    g_free(buf);
}

/* While the guest writes, fill the image from its base and let go of it. */
static CO_FN void pivot_entry(void *arg)
{
    struct task *t = arg;
    struct populate_result res;

    g_assert_cmpint(node_co_populate(t->n, NULL, 0, DISK, 0, &res), ==, 0);
    g_assert_cmpint(node_co_change_backing(t->n, NULL, NULL, NULL), ==, 0);
    pivot_ended = sim_mark(t->sim, "pivot", 0);
    co_latch_done(t->latch);
}

static CO_FN void workload_co_run(struct graph *g, struct sim *sim)
{
    struct co_latch latch = { 0 };
    struct task t = { open_image(g, "/top", NODE_RDWR), sim, &latch };

    n_ops = 0;
    pivot_ended = 0;
    for (unsigned i = 0; i < TASKS; i++) {
        co_latch_add(&latch);
        co_start(graph_loop(g), task_entry, &t);
    }
    if (config->pivot) {
        co_latch_add(&latch);
        co_start(graph_loop(g), pivot_entry, &t);
    }
    co_latch_co_wait(&latch);
    node_co_unref(t.n);
}

/* How many of STATES states break a promise; the first is told. */
static CO_FN unsigned states_co_try(struct graph *g, struct sim *sim,
                                    const struct sim_image *start,
                                    const struct history *h, uint64_t last,
                                    unsigned skip)
{
    unsigned bad_states = 0;

    for (size_t i = 0; i < h->n; i++) {
        h->durable[i] = durable_at(h->log, h->n, h->log[i], skip);
    }
    for (unsigned i = 0; i < STATES; i++) {
        uint64_t at = 1 + g_rand_int(rnd) % last;
        enum luck luck = i % LUCK_COUNT;
        struct sim_image *img = state_build(start, h, at, luck);
        char *bad;

        sim_restore(sim, img);
        sim_image_free(img);
        bad = state_co_verify(g, at);
        if (bad && bad_states++ == 0) {
            g_test_message("instant %" PRIu64 " of %" PRIu64 ", luck %d, skip "
                           "%u: %s",
                           at, last, (int)luck, skip, bad);
        }
        g_free(bad);
    }
    return bad_states;
}

/* The log as it is now, in order of completion: it changes when the loop runs
 * on. All is complete, as the image was closed. */
static struct history history_take(struct sim *sim)
{
    size_t n;
    const struct sim_record *const *log = sim_log(sim, &n);
    struct history h = { g_new(const struct sim_record *, n),
                         g_new0(uint64_t, n), n };

    for (size_t i = 0; i < n; i++) {
        struct sim_record *copy = g_memdup2(log[i], sizeof(*copy));

        copy->data = log[i]->data ? g_memdup2(log[i]->data, log[i]->len) : NULL;
        h.log[i] = copy;
    }
    qsort(h.log, n, sizeof(*h.log), by_completion);
    return h;
}

static void history_drop(struct history *h)
{
    for (size_t i = 0; i < h->n; i++) {
        g_free(h->log[i]->data);
        g_free((gpointer)(uintptr_t)h->log[i]);
    }
    g_free(h->log);
    g_free(h->durable);
}

/* States that ignored flushes broke, by which were ignored. */
static unsigned broken[3];

static CO_FN void crash_run(struct graph *g)
{
    struct sim *sim = loop_sim(graph_loop(g));
    json_t *o = json_pack("{s:i,s:i,s:i}", "size", DISK, "cluster_size",
                          config->cluster_size, "table_size",
                          config->table_size);
    struct sim_image *start;
    struct history h;
    uint64_t last;

    if (config->backing) {
        base_co_make();
        json_object_set_new(o, "backing_file", json_string("/base"));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    make_image(g, "/top", o);
    start = sim_image_copy(sim_live(sim));
    sim_log_reset(sim, true);
    workload_co_run(g, sim);
    last = sim_instant(sim);
    h = history_take(sim);
    sim_log_reset(sim, false);
    g_assert_cmpuint(states_co_try(g, sim, start, &h, last, 0), ==, 0);
    for (unsigned skip = 1; skip <= 2; skip++) {
        broken[skip] += states_co_try(g, sim, start, &h, last, skip);
    }
    history_drop(&h);
    sim_image_free(start);
}

static void test_crash(gconstpointer data)
{
    config = data;
    broken[1] = broken[2] = 0;
    for (unsigned round = 0; round < 3; round++) {
        seed = (uint64_t)g_test_rand_int() & 0x7fffffff;
        g_test_message("seed %" PRIu64, seed);
        rnd = g_rand_new_with_seed((guint32)seed);
        run_graph_on_sim(seed, crash_run);
        g_rand_free(rnd);
    }
    g_assert_cmpuint(broken[1], >, 0);
    g_assert_cmpuint(broken[2], >, 0);
}

int main(int argc, char **argv)
{
    static const struct config configs[] = {
        { 4096, 1, false, false },  { 4096, 1, true, false },
        { 65536, 4, false, false }, { 65536, 4, true, false },
        { 4096, 1, true, true },    { 65536, 4, true, true },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(configs); i++) {
        g_autofree char *name = g_strdup_printf("/qed-crash/%u-%s",
                                                configs[i].cluster_size,
                                                configs[i].pivot     ? "pivot"
                                                : configs[i].backing ? "backing"
                                                                     : "plain");
        g_test_add_data_func(name, &configs[i], test_crash);
    }
    return g_test_run();
}
