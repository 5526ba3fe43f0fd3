/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images on the simulated machine and what a guest does with them.
 *
 * A sequence is a string of letters, each an operation; with '|' before it an
 * operation begins without waiting for the one before.  Small letters have
 * fixed places, so that sequences can be enumerated; capitals at the end of the
 * table draw theirs from the seed.  After '~' an operation runs on in the
 * background while the others go on one after the other.
 */
#include "crash.h"
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "filter/filter.h"
#include "filter/throttle/throttle.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/overlay.h"
#include "job/commit/commit.h"
#include "job/backup/backup.h"
#include "job/mirror/mirror.h"
#include "job/stream/stream.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "storage/storage.h"

struct world world;

/* A guest does not resize; whoever does, does so for it. */
#define GUEST_PERMS (PERM_CONSISTENT_READ | PERM_WRITE)

static const struct node_driver *const drivers[] = {
    &file_driver,         &raw_driver,
    &qed_driver,          &qcow2_driver,
    &cow_driver,          &commit_top_driver,
    &copy_on_read_driver, &throttle_driver,
    &mirror_top_driver,   &copy_before_write_driver,
    &far_driver,          NULL
};

/* --- the machine --- */

struct run {
    void (*fn)(void *arg);
    void *arg;
};

/* Backups have this id: nobody waits for their events. */
#define BACKUP_JOB "b"

static bool is_backup(const json_t *data)
{
    return g_strcmp0(json_string_value(json_object_get(data, "device")),
                     BACKUP_JOB) == 0;
}

static void on_event(const char *name, json_t *data, void *arg)
{
    if (is_backup(data)) {
        if (g_str_equal(name, "BLOCK_JOB_COMPLETED") &&
            !json_object_get(data, "error")) {
            cover(COVER_BACKUP);
        }
        return;
    }
    if (world.config->far && g_str_equal(name, "BLOCK_JOB_COMPLETED") &&
        json_object_get(data, "error")) {
        cover(COVER_FAR_STREAM);
    }
    if (g_str_equal(name, "BLOCK_JOB_CANCELLED")) {
        world.job_cancelled = true;
    }
    if (g_str_equal(name, "BLOCK_JOB_COMPLETED") && !world.moved &&
        !json_object_get(data, "error") && !world.job_done) {
        world.job_done = sim_mark(world.sim, "completed", 0);
    }
}

static CO_FN void world_entry(void *arg)
{
    struct run *run = arg;

    world.graph = graph_new(world.loop, drivers);
    world.jobs = jobs_new(world.loop, on_event, NULL);
    if (world.config->throttle) {
        json_t *none = json_object();

        g_assert(throttle_group_add(world.graph, "g", none, NULL) == 0);
        json_decref(none);
    }
    run->fn(run->arg);
    jobs_free(world.jobs);
    if (world.config->throttle) {
        g_assert(throttle_group_del(world.graph, "g", NULL) == 0);
    }
    graph_co_free(world.graph);
    loop_stop(world.loop);
}

void world_run(const struct crash_config *c, uint64_t seed,
               void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = SIM_OPTIONS(seed);
    struct run run = { fn, arg };

    world = (struct world) { .config = c };
    far_reset(seed);
    if (loop_new(&opts, &world.loop, NULL) < 0) {
        g_error("no simulated machine");
    }
    world.sim = loop_sim(world.loop);
    g_random_set_seed((guint32)seed); /* of uuids */
    sim_set_shares(world.sim, c->shares);
    sim_set_block(world.sim, 4096);
    if (seed % 2) { /* they may outlive a pass */
        sim_set_latency(world.sim, SIM_READ, 10000, 30000000);
        sim_set_latency(world.sim, SIM_FALLOCATE, 10000, 3000000);
    }
    co_start(world.loop, world_entry, &run);
    loop_run(world.loop);
    while (loop_turn(world.loop, false)) {
    }
    g_assert(co_count(world.loop) == 0);
    loop_free(world.loop);
}

/* --- operations --- */

struct guest {
    struct oracle *o;
    struct node *n;
    struct backend *u;
    uint64_t cursor; /* of stream steps */
    GRand *rnd;
    unsigned n_snapshots;
    struct co_mutex managing; /* no command repairs while another resizes */
    struct co_latch running;
    struct co_latch behind; /* nobody waits for them before the end */
    struct co_latch jobs;
};

struct task {
    struct guest *g;
    struct op *op;
    struct co_latch *latch;
};

/* Where an operation works: in units of sectors, from the begin of a window.
 * Lengths in sectors, or clusters where it says so. */
static CO_FN int guest_co_write(struct guest *g, struct op *op)
{
    g_autofree uint8_t *buf = g_malloc(op->n * GRAIN);
    uint64_t id = g->o->id_base + (uint64_t)(op - g->o->ops) + 1;
    struct iovec v;

    for (uint64_t s = 0; s < op->n; s++) {
        stamp_put(buf + s * GRAIN, id, op->first + s);
    }
    if (op->first % 2 || op->n % 2) {
        cover(COVER_UNALIGNED);
    }
    return backend_co_pwritev(g->u, op->first * GRAIN,
                              iov_one(&v, buf, op->n * GRAIN),
                              op->fua ? IO_FUA : 0);
}

/* Does the overlay itself have all of @op's range?  -1 where there is no base,
 * or where others could have put it there. */
static CO_FN int guest_co_has_all(struct guest *g, const struct op *op)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    uint64_t at = op->first * GRAIN, end = at + op->n * GRAIN;

    if (!node_backing(n) || g->running.count > 1 || g->jobs.count) {
        return -1;
    }
    while (at < end) {
        struct extent ext = { 0 };

        if (node_co_status(n, at, end - at, &ext) < 0 ||
            !(ext.flags & STATUS_ALLOCATED)) {
            return 0;
        }
        at += ext.len;
    }
    return 1;
}

static CO_FN int guest_co_read(struct guest *g, struct op *op)
{
    g_autofree uint8_t *buf = g_malloc(op->n * GRAIN);
    int had = guest_co_has_all(g, op);
    struct iovec v;
    int ret = backend_co_preadv(g->u, op->first * GRAIN,
                                iov_one(&v, buf, op->n * GRAIN), 0);

    if (had == 0 && guest_co_has_all(g, op) == 1) {
        cover(COVER_COPY_ON_READ);
    }

    for (uint64_t s = 0; ret == 0 && s < op->n; s++) {
        uint64_t id = stamp_get(buf + s * GRAIN, op->first + s);

        if (!oracle_may_read(g->o, op->begun, op->first + s, id)) {
            g_free(world.bad_read);
            world.bad_read = g_strdup_printf(
                "a read that began at instant %" G_GUINT64_FORMAT
                " saw %" G_GINT64_FORMAT " in grain %" G_GUINT64_FORMAT
                " (G2, G7)",
                op->begun, (gint64)id, op->first + s);
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
static CO_FN int guest_co_stream(struct guest *g, bool wait, struct node *base)
{
    struct stream_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .node = backend_node(g->u),
        .base = base,
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

/* What is below the middle of the chain, or NULL. */
static struct node *guest_base(struct guest *g)
{
    struct node *n = node_backing(node_skip_filters(backend_node(g->u)));

    n = n ? node_backing(node_skip_filters(n)) : NULL;
    return n ? node_skip_filters(n) : NULL;
}

static CO_FN int guest_co_stream_to(struct guest *g)
{
    struct node *base = guest_base(g);
    uint64_t before = world.job_done;
    int ret;

    if (!base) {
        return -EINVAL;
    }
    world.job_done = 0;
    ret = guest_co_stream(g, true, base);
    if (ret == 0 && world.job_done) {
        g->o->mid_gone = world.job_done;
        cover(COVER_STREAM_TO);
    }
    world.job_done = before;
    return ret;
}

/* Merge the middle of the chain down: the base alone holds it all. */
static CO_FN int guest_co_commit(struct guest *g)
{
    struct node *top = node_skip_filters(backend_node(g->u));
    struct commit_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .node = top,
        .top = node_skip_filters(node_backing(top)),
        .base = guest_base(g),
    };
    uint64_t before = world.job_done;
    struct job *j;
    int ret = p.base ? 0 : -EINVAL;

    world.job_done = 0;
    if (ret == 0) {
        ret = commit_co_start(world.jobs, &p, &j, NULL);
    }
    if (ret == 0) {
        job_co_wait_concluded(j);
        if (world.job_done) {
            g->o->mid_gone = world.job_done;
            cover(COVER_COMMIT);
        }
    }
    world.job_done = before;
    return ret;
}

/* Can the base be the disk? Then it has the size of the disk. */
static bool can_move(struct node *base)
{
    const struct crash_config *c = world.config;

    return base && !c->mid && !c->bitmap && !world.over &&
           c->base_size <= c->size;
}

/* Can "/over" be? One file of the same format then says it all. */
static bool can_overlay(void)
{
    const struct crash_config *c = world.config;

    return c->format != &format_cow && !c->data_file && !c->bitmap &&
           !world.over && !world.moved;
}

/* Merge the disk down into its base: go on there (alone), or @stay. */
static CO_FN int guest_co_merge(struct guest *g, bool stay)
{
    struct node *top = node_skip_filters(backend_node(g->u));
    struct mirror_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .is_commit = true,
        .node = top,
        .target = node_skip_filters(node_backing(top)),
        .bottom = top,
        .unmap = true,
    };
    uint64_t before = world.job_done;
    struct job *j;
    int ret = can_move(p.target) ? 0 : -EINVAL;

    world.job_done = 0;
    if (ret == 0) {
        ret = mirror_co_start(world.jobs, &p, &j, NULL);
    }
    while (ret == 0 && (j = jobs_find(world.jobs, "j")) &&
           j->state != JOB_READY) {
        co_sleep(100000);
    }
    if (ret == 0 && j) {
        ret = stay ? job_user_cancel(j, false, NULL)
                   : job_user_co_complete(j, NULL);
        job_co_wait_concluded(j);
    }
    if (ret == 0 && world.job_done) {
        cover(stay ? COVER_MERGE : COVER_MOVE);
        world.moved = !stay;
        g->o->moved = stay ? 0 : world.job_done;
    }
    world.job_done = before;
    return ret;
}

/* An overlay takes the place of the disk; once. */
static CO_FN int guest_co_overlay(struct guest *g)
{
    struct overlay_step s = { node_skip_filters(backend_node(g->u)), NULL };
    json_t *o = json_pack("{s:I, s:s, s:s}", "size", (json_int_t)s.disk->size,
                          "backing_file", "/top", "backing_fmt",
                          node_driver_name(s.disk));
    int ret = can_overlay() ? 0 : -EINVAL;

    if (ret == 0) {
        ret = image_co_create(world.graph, s.disk->drv, "/over", o, NULL);
    }
    json_decref(o);
    if (ret == 0) {
        o = world_over_options(s.disk);
        ret = node_co_open(world.graph, o, NODE_RDWR, &s.overlay, NULL);
        json_decref(o);
    }
    if (ret == 0) {
        node_ref(s.disk);
        ret = overlays_co_put(&s, 1, NULL);
        node_co_unref(s.overlay);
        node_co_unref(s.disk);
    }
    if (ret == 0) {
        cover(COVER_OVERLAY);
        world.over = true;
        g->o->over = sim_mark(world.sim, "overlay", 0);
    }
    return ret;
}

/* What "/copy" lacks, by the bitmap. */
static CO_FN int guest_co_backup(struct guest *g)
{
    struct node *disk = node_skip_filters(backend_node(g->u));
    struct backup_params p = {
        .job = { .id = BACKUP_JOB,
                 .auto_finalize = true,
                 .auto_dismiss = true },
        .node = disk,
        .sync = BACKUP_BITMAP,
        .bitmap = "b",
        .bitmap_node = disk,
    };
    json_t *o = json_pack("{s:s, s:{s:s, s:s}}", "driver", "raw", "file",
                          "driver", "file", "filename", "/copy");
    struct job *j;
    int ret = g->o->config->bitmap
                  ? node_co_open(world.graph, o, NODE_RDWR, &p.target, NULL)
                  : -EINVAL;

    json_decref(o);
    if (ret < 0) {
        return ret;
    }
    ret = backup_co_create(world.jobs, &p, &j, NULL);
    if (ret == 0) {
        job_start(j);
        job_co_wait_concluded(j);
    }
    node_co_unref(p.target);
    return ret;
}

/* Read-only, and back: the guest is gone meanwhile. */
static CO_FN int guest_co_reopen(struct guest *g)
{
    g_autoptr(GError) err = NULL;
    int ret;

    backend_co_free(g->u);
    ret = node_co_set_read_only(g->n, true, &err);
    if (ret == 0) {
        cover(COVER_REOPEN);
        if (node_co_set_read_only(g->n, false, &err) < 0) {
            g_error("writable again: %s", err->message);
        }
    }
    if (backend_co_new(g->n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g->u,
                       &err) < 0) {
        g_error("guest after a reopen: %s", err->message);
    }
    return ret;
}

static CO_FN int guest_co_repair(struct guest *g)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    struct check_result res = { 0 };

    if (!n->drv->co_check) {
        return 0;
    }
    node_ref(n);
    co_mutex_co_lock(&g->managing);
    node_co_check(n, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS, &res, NULL);
    co_mutex_unlock(&g->managing);
    node_co_unref(n);
    return 0;
}

static CO_FN bool is_version_2(struct node *n)
{
    json_t *info = json_object(), *data;
    bool is;

    g_assert(node_co_info(n, info, NULL) == 0);
    data = json_object_get(json_object_get(info, "format-specific"), "data");
    is = !g_strcmp0(json_string_value(json_object_get(data, "compat")), "0.10");
    json_decref(info);
    return is;
}

/* qcow2: to the other version, where that can be. */
static CO_FN int guest_co_amend(struct guest *g)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    bool old = n->drv == &qcow2_driver && is_version_2(n);
    json_t *o = json_pack("{s:s}", "compat", old ? "1.1" : "0.10");
    int ret = node_check_op(n, BLOCK_OP_CHANGE, NULL);

    node_ref(n);
    if (ret == 0) {
        co_mutex_co_lock(&g->managing);
        ret = node_co_amend(n, o, NULL);
        co_mutex_unlock(&g->managing);
    }
    if (ret == 0 && !old) {
        cover(COVER_AMEND);
    }
    node_co_unref(n);
    json_decref(o);
    return ret;
}

/* Take an internal snapshot, or delete the newest. */
static CO_FN int guest_co_snapshot(struct guest *g, enum snapshot_op what)
{
    g_autofree char *name = g_strdup_printf(
        "s%u", g->n_snapshots - (what == SNAPSHOT_DELETE));
    int ret = node_co_snapshot(node_skip_filters(backend_node(g->u)), what,
                               name, NULL);

    if (ret == 0) {
        g->n_snapshots += what == SNAPSHOT_CREATE ? 1 : UINT_MAX;
        cover(what == SNAPSHOT_CREATE ? COVER_SNAPSHOT : COVER_FORGET);
    }
    return ret;
}

/* Take one, change the tables but not what the disk holds (reads copy clusters
 * from the base), go back to it, and forget it. */
static CO_FN int guest_co_restore(struct guest *g)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    g_autofree uint8_t *buf = g_malloc(world.config->cluster);
    int ret = node_co_snapshot(n, SNAPSHOT_CREATE, "back", NULL);

    for (unsigned i = 0; i < 4 && ret == 0; i++) {
        struct iovec v;

        ret = backend_co_preadv(g->u, i * world.config->cluster,
                                iov_one(&v, buf, world.config->cluster), 0);
    }
    if (ret == 0) {
        ret = node_co_snapshot(n, SNAPSHOT_APPLY, "back", NULL);
    }
    if (ret == 0) {
        ret = node_co_snapshot(n, SNAPSHOT_DELETE, "back", NULL);
    }
    if (ret == 0) {
        cover(COVER_RESTORE);
    }
    return ret;
}

/* Offline work: nobody else is there. */
static CO_FN int guest_co_empty(struct guest *g)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    int ret = node_co_make_empty(n, NULL);

    if (ret == 0) {
        cover(COVER_EMPTY);
    }
    return ret;
}

static CO_FN int guest_co_cancel(struct guest *g, struct op *op)
{
    struct job *j = jobs_find(world.jobs, "j");
    int ret = 0;

    if (!j) {
        ret = guest_co_stream(g, false, NULL);
        co_sleep(g_rand_int_range(g->rnd, 0, 3000) * UINT64_C(1000));
        j = jobs_find(world.jobs, "j");
    }
    if (ret == 0 && j) {
        world.job_cancelled = false;
        job_user_cancel(j, false, NULL);
        co_latch_co_wait(&g->jobs);
        if (world.job_cancelled) {
            cover(COVER_CANCEL);
        }
    }
    return ret;
}

/* A stream may begin while this waits for its turn. */
static CO_FN int guest_co_resize(struct guest *g, struct op *op)
{
    struct node *n;
    int ret;

    co_mutex_co_lock(&g->managing);
    n = backend_node(g->u);
    ret = node_check_op(node_skip_filters(n), BLOCK_OP_RESIZE, NULL);
    if (ret == 0) {
        node_ref(n);
        ret = node_co_truncate(n, op->n * GRAIN, NULL);
        if (ret == 0) {
            cover(COVER_RESIZE);
        }
        node_co_unref(n);
    }
    co_mutex_unlock(&g->managing);
    return ret;
}

/* Most of the disk is cut off, with tables and refcounts, and comes back. */
static CO_FN int guest_co_shrink(struct guest *g, struct op *op)
{
    struct node *n = node_skip_filters(backend_node(g->u));
    uint64_t size = n->size;
    int ret;

    node_ref(n);
    co_mutex_co_lock(&g->managing);
    ret = node_co_truncate(n, op->first * GRAIN, NULL);
    if (ret == 0) {
        ret = node_co_truncate(n, size, NULL);
    }
    co_mutex_unlock(&g->managing);
    if (ret == 0) {
        cover(COVER_SHRINK);
    }
    node_co_unref(n);
    return ret;
}

static CO_FN int op_co_do(struct guest *g, struct op *op)
{
    uint64_t off = op->first * GRAIN, len = op->n * GRAIN;
    uint64_t ret_len, ret_off;

    switch (op->kind) {
    case OP_WRITE: return guest_co_write(g, op);
    case OP_ZERO:
        return backend_co_zero(g->u, off, len,
                               IO_MAY_UNMAP | (op->fua ? IO_FUA : 0));
    case OP_TRIM: return backend_co_discard(g->u, off, len);
    case OP_SHRINK: return guest_co_shrink(g, op);
    case OP_FLUSH: return backend_co_flush(g->u);
    case OP_READ: return guest_co_read(g, op);
    case OP_STEP:
        return stream_co_step(world.jobs, backend_node(g->u), "top", &g->cursor,
                              &ret_len, &ret_off, NULL);
    case OP_STREAM: return guest_co_stream(g, true, NULL);
    case OP_STREAM_BG: return guest_co_stream(g, false, NULL);
    case OP_STREAM_TO: return guest_co_stream_to(g);
    case OP_COMMIT: return guest_co_commit(g);
    case OP_MERGE: return guest_co_merge(g, true);
    case OP_MOVE: return guest_co_merge(g, false);
    case OP_OVERLAY: return guest_co_overlay(g);
    case OP_CANCEL: return guest_co_cancel(g, op);
    case OP_RESIZE: return guest_co_resize(g, op);
    case OP_WAIT: co_sleep(op->n * 1000000); return 0;
    case OP_LEAVE: far_leave(op->n); return 0;
    case OP_DRAIN:
        node_co_drain_begin(g->n);
        node_drain_end(g->n);
        return 0;
    case OP_BACKUP: return guest_co_backup(g);
    case OP_REOPEN: return guest_co_reopen(g);
    case OP_EMPTY: return guest_co_empty(g);
    case OP_SNAPSHOT: return guest_co_snapshot(g, SNAPSHOT_CREATE);
    case OP_FORGET: return guest_co_snapshot(g, SNAPSHOT_DELETE);
    case OP_RESTORE: return guest_co_restore(g);
    case OP_REPAIR: return guest_co_repair(g);
    case OP_AMEND: return guest_co_amend(g);
    default: return 0;
    }
}

static void op_cover(struct guest *g, const struct op *op)
{
    if (op->result < 0) {
        return;
    }
    if (op->fua) {
        cover(COVER_FUA);
    }
    switch (op->kind) {
    case OP_ZERO: cover(COVER_ZERO); break;
    case OP_TRIM: cover(COVER_TRIM); break;
    case OP_STEP:
    case OP_STREAM:
        if (world.job_done > op->begun) {
            cover(op->kind == OP_STEP ? COVER_STREAM_STEP : COVER_STREAM);
        }
        break;
    default: break;
    }
    if (g->running.count > 1) {
        cover(COVER_BESIDE);
    }
}

/* May it fail when the base is away?  What covers clusters must not: what is
 * below them is not asked for, and flushes have nothing to do with it. */
static bool needs_base(const struct guest *g, const struct op *op)
{
    uint64_t cluster = g->o->config->cluster / GRAIN;
    uint64_t end = op->first + op->n;

    if (op->kind == OP_READ) {
        return true;
    }
    return op->kind != OP_FLUSH &&
           (op->first % cluster || (end % cluster && end < g->n->size / GRAIN));
}

static CO_FN void op_entry(void *arg)
{
    struct task *t = arg;
    unsigned i = (unsigned)(t->op - t->g->o->ops);
    uint64_t failed = far_failed();

    t->op->begun = sim_mark(world.sim, "begin", i);
    t->op->result = op_co_do(t->g, t->op);
    t->op->ended = sim_mark(world.sim, "end", i);
    if (t->op->result < 0 && t->op->kind <= OP_READ) {
        if (!needs_base(t->g, t->op) || far_failed() == failed) {
            g_error("op %u failed: %s", i + 1, g_strerror(-t->op->result));
        }
        cover(COVER_FAR_OP);
    }
    op_cover(t->g, t->op);
    co_latch_done(t->latch);
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
    bool odd; /* a grain later, a grain less */
};
static const struct letter letters[] = {
    { 'a', OP_WRITE, false, 0, 2, 2 }, /* a cluster */
    { 'u', OP_WRITE, false, 0, 3, 2 }, /* across two */
    { 'f', OP_WRITE, true, 1, 3, 2 },  /* FUA, across two tables */
    { 'b', OP_WRITE, false, 1, 2, 4 }, /* two tables */
    { 'e', OP_WRITE, false, 1, 4, 0 }, /* the end of the disk */
    { 'x', OP_ZERO, true, 0, 0, 4 },   /* FUA */
    { 'z', OP_ZERO, false, 0, 2, 4 },
    { 't', OP_TRIM, false, 0, 2, 4 },
    { 'F', OP_FLUSH },
    { 'm', OP_WRITE, true, 1, 4, 0 },        /* the same, FUA */
    { 'v', OP_WRITE, false, 0, 3, 2, true }, /* parts of sectors */
    { 'r', OP_READ, false, 0, 0, 8 },
    { 'q', OP_READ, false, 1, 1, 0 },
    { 'p', OP_STEP },
    { 's', OP_STREAM },
    { 'S', OP_STREAM_BG },
    { 'k', OP_STREAM_TO },
    { 'C', OP_COMMIT },
    { 'M', OP_MERGE },
    { 'V', OP_MOVE },
    { 'O', OP_OVERLAY },
    { 'I', OP_BACKUP },
    { 'd', OP_DRAIN },
    { 'o', OP_REOPEN },
    { 'n', OP_SNAPSHOT },
    { 'l', OP_FORGET },
    { 'j', OP_RESTORE },
    { 'h', OP_EMPTY, true },
    { 'G', OP_SHRINK },
    { 'y', OP_REPAIR },
    { 'A', OP_AMEND },
    { 'c', OP_CANCEL },
    { 'g', OP_RESIZE },
    { 'w', OP_WAIT },
    { 'W', OP_WAIT },
    { 'X', OP_LEAVE },
    { 'Y', OP_LEAVE }, /* at a request to come */
    { 'R', OP_READ },
    { 'D', OP_WRITE },
    { 'U', OP_WRITE, true },
    { 'Z', OP_ZERO },
    { 'T', OP_TRIM },
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
    unsigned i = (unsigned)g_rand_int_range(g->rnd, 0, N_GUEST_WINDOWS);

    op->first = w[i].first +
                (uint64_t)g_rand_int_range(g->rnd, 0, (gint32)(4 * cluster));
    op->n = (uint64_t)g_rand_int_range(g->rnd, 1, (gint32)(2 * cluster));
    if (op->kind == OP_WRITE && g_rand_boolean(g->rnd)) {
        op->first &= ~UINT64_C(1); /* whole sectors */
        op->n += op->n & 1;
    } else if (op->kind == OP_ZERO || op->kind == OP_TRIM) {
        op->first -= op->first % cluster;
        op->n += cluster - 1;
        op->n -= op->n % cluster;
    }
    if (i == 0) {
        op->n = MIN(op->n, w[0].n - op->first);
    }
}

CO_FN_LOOKS static void place(struct guest *g, const struct letter *l,
                              struct op *op)
{
    const struct crash_config *c = g->o->config;
    uint64_t cluster = c->cluster / GRAIN, end = g->n->size / GRAIN;
    struct window w[N_WINDOWS];

    windows_get(c, w);
    if (l->kind == OP_SHRINK) {
        op->first = 2 * cluster;
        op->n = end - op->first;
        /* The raw file becomes shorter before the disk does. */
        if (g->jobs.count || c->data_raw || world.moved) {
            op->kind = OP_DRAIN; /* not with this one */
        }
        return;
    }
    if (l->kind == OP_EMPTY) {
        struct node *n = node_skip_filters(g->n);

        if (!node_backing(n) || !n->drv->co_make_empty || g->jobs.count ||
            world.over) {
            op->kind = OP_DRAIN; /* not with this one */
            op->fua = false;
        }
        return;
    }
    if (l->kind == OP_FLUSH || l->kind >= OP_STEP) {
        op->n = l->kind == OP_WAIT ? (l->letter == 'W' ? 7000 : 1500) : 0;
        op->n += l->letter == 'Y';
        if (l->kind == OP_RESIZE) {
            op->n = MIN(w[1].first + w[1].n, end + cluster + 2);
        }
        return;
    }
    if (strchr("RDUZT", l->letter)) {
        place_random(g, op, w, cluster);
    } else {
        op->first = w[l->window].first + l->from * cluster / 2;
        op->n = l->len ? l->len * cluster / 2 : end;
        op->first += l->odd;
        op->n -= l->odd;
    }
    op->first = MIN(op->first, end - 1);
    op->n = MIN(op->n, end - op->first);
}

/* Internal snapshots: no job runs then, either. */
static bool is_snapshot(enum op_kind kind)
{
    return kind == OP_SNAPSHOT || kind == OP_FORGET || kind == OP_RESTORE;
}

/* Without whom? */
static bool is_alone(enum op_kind kind)
{
    return kind == OP_REOPEN || kind == OP_EMPTY || kind == OP_SHRINK ||
           kind == OP_MOVE || kind == OP_OVERLAY || is_snapshot(kind);
}

static CO_FN void guest_co_play(struct guest *g, const char *sequence)
{
    bool was_alone = false;

    for (const char *p = sequence; *p; p++) {
        bool beside = *p == '|', behind = *p == '~';
        const struct letter *l = letter_find(*(p += beside || behind));
        struct task *t = g_new(struct task, 1);
        struct op op = { .kind = l->kind, .fua = l->fua };

        if (!(beside || behind) || was_alone || is_alone(l->kind)) {
            co_latch_co_wait(&g->running);
        }
        if (is_alone(l->kind)) {
            co_latch_co_wait(&g->behind);
        }
        if (is_snapshot(l->kind) || l->kind == OP_MOVE ||
            l->kind == OP_OVERLAY) {
            co_latch_co_wait(&g->jobs);
        }
        was_alone = is_alone(l->kind);
        place(g, l, &op);
        *t = (struct task) { g, oracle_add(g->o, &op),
                             behind ? &g->behind : &g->running };
        co_latch_add(t->latch);
        co_start(world.loop, op_entry, t);
    }
    co_latch_co_wait(&g->running);
    co_latch_co_wait(&g->behind);
    co_latch_co_wait(&g->jobs);
}

void world_co_run(const char *sequence, GRand *rnd, struct oracle *o)
{
    struct guest g = { .o = o, .rnd = rnd };
    g_autoptr(GError) err = NULL;

    struct op *close;

    world.job_done = 0;
    if (world_co_open(true, &g.n, &err) < 0 ||
        backend_co_new(g.n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                       &err) < 0) {
        g_error("open: %s", err->message);
    }
    if (o->repaired) { /* whoever opens it does that */
        o->repaired = sim_mark(world.sim, "repaired", 0);
        cover(COVER_REPAIR);
    }
    guest_co_play(&g, sequence);
    close = oracle_add(o, &(struct op) { .kind = OP_CLOSE });
    close->begun = sim_mark(world.sim, "close", 0);
    backend_co_free(g.u);
    node_co_unref(g.n);
    close->ended = sim_mark(world.sim, "closed", 0);
    o->gone = world.job_done;
    if (o->gone && !o->mid_gone) {
        o->mid_gone = o->gone;
    }
    oracle_index(o);
}

/* --- after a crash --- */

/* A disk whose snapshots show its base keeps it: they go first. */
static CO_FN void snapshots_co_delete(struct node *n)
{
    json_t *info = json_object(), *s;
    size_t i;

    if (n->drv->co_snapshot && node_co_info(n, info, NULL) == 0) {
        json_array_foreach(json_object_get(info, "snapshots"), i, s) {
            (void)node_co_snapshot(n, SNAPSHOT_DELETE,
                                   json_string_value(json_object_get(s, "id")),
                                   NULL);
        }
    }
    json_decref(info);
}

char *world_co_recover(struct node *n, struct oracle *o)
{
    struct guest g = { .o = o, .n = n };
    bool streams = node_backing(node_skip_filters(n)) != NULL;
    g_autoptr(GError) err = NULL;

    world.job_done = 0;
    if (backend_co_new(n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                       &err) < 0) {
        return g_strdup(err->message);
    }
    if (streams) {
        snapshots_co_delete(node_skip_filters(n));
    }
    if (streams && o->config->far) {
        guest_co_play(&g, "uFYr|Se|bW");
        far_reset(0);
    }
    guest_co_play(&g, streams ? "uFr|Se|b" : "vFbzrw");
    backend_co_free(g.u);
    o->gone = world.job_done;
    if (world.bad_read) {
        return g_steal_pointer(&world.bad_read);
    }
    if (streams && !o->gone) {
        return g_strdup("the stream after the crash did not end");
    }
    return NULL;
}
