/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts.  A mark remembers an instant of the run and what the guests were
 * promised by then.  After the run the files are rebuilt from the log as the
 * cut may have left them, on a machine of their own: everything that had
 * completed; only what a sync had made durable; that and any sectors of the
 * rest, of requests under way too (A1 to A4).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "control/control-int.h"
#include "control/drivers.h"
#include "dst.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/io.h"

enum persist {
    ALL_COMPLETED,
    DURABLE_ONLY,
    ANY_SECTORS,
    ANY_SECTORS_2,
    PERSISTS
};

static const char *const persist_names[PERSISTS] = {
    [ALL_COMPLETED] = "all that completed",
    [DURABLE_ONLY] = "what was synced",
    [ANY_SECTORS] = "any sectors",
    [ANY_SECTORS_2] = "other sectors",
};

struct cut {
    uint64_t instant; /* of the machine */
    uint64_t ns;
    bool independent; /* the daemon uses no base any more */
    struct disk_file disk;
    struct model_cut *promised;
    GPtrArray *snapshots;
};

bool power_is_independent(struct world *w)
{
    struct node *top = copies_disk(w);

    return top && !node_header_backing(top, NULL);
}

void disk_file_get(struct world *w, struct disk_file *ret)
{
    struct node *n = copies_moved(w) ? copies_disk(w) : NULL;

    g_strlcpy(ret->path, n ? node_filename(n) : config_top_path(&w->cfg),
              sizeof(ret->path));
    g_strlcpy(ret->driver,
              n ? node_driver_name(n) : config_driver(&w->cfg, L_TOP),
              sizeof(ret->driver));
}

void power_mark(struct world *w)
{
    struct cut *cut = g_new0(struct cut, 1);

    cut->instant = sim_instant(w->sim);
    cut->ns = loop_clock_ns(w->loop);
    cut->independent = power_is_independent(w);
    disk_file_get(w, &cut->disk);
    cut->promised = model_cut_new(w->model);
    cut->snapshots = snapshots_copy(w);
    g_ptr_array_add(w->cuts, cut);
    story(w, "power may be cut here: instant %" PRIu64 "%s", cut->instant,
          cut->independent ? ", no base needed" : "");
    if (copies_moved(w)) {
        story(w, "the disk is %s", cut->disk.path);
    }
}

/* --- files after a cut --- */

static bool is_of_names(const struct sim_record *r)
{
    return r->op == SIM_RENAME || r->op == SIM_UNLINK;
}

/* What @s has waited for would make @r durable. */
static bool is_sync_of(const struct sim_record *s, const struct sim_record *r)
{
    g_autofree char *dir = NULL;

    if (!is_of_names(r)) {
        return (s->op == SIM_FDATASYNC || s->op == SIM_FSYNC) &&
               s->file == r->file;
    }
    dir = g_path_get_dirname(r->path);
    return s->op == SIM_FSYNC_DIR && g_str_equal(s->path, dir);
}

static bool is_durable(const struct sim_record *r, uint64_t instant,
                       const struct sim_record *const *log, size_t n)
{
    if (!r->completed || r->completed > instant) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const struct sim_record *s = log[i];

        if (s->result >= 0 && s->completed && s->completed <= instant &&
            s->submitted > r->completed && is_sync_of(s, r)) {
            return true;
        }
    }
    return false;
}

/* What decides which sectors stay as they are from some time on. */
struct some {
    struct rng *rng;
    GHashTable *stopped; /* sectors of files, as "file:sector" numbers */
};

/* A sector has its durable version or any later one, but no later one without
 * those between: a part that is written goes to a page that has all of them. */
static bool sector_goes_on(struct some *some, uint64_t file, uint64_t sector)
{
    void *key = GSIZE_TO_POINTER(file << 40 | sector);

    if (g_hash_table_contains(some->stopped, key)) {
        return false;
    }
    if (rng_percent(some->rng, 50)) {
        return true;
    }
    g_hash_table_add(some->stopped, key);
    return false;
}

static void apply_range(struct sim_image *img, const struct sim_record *r,
                        uint64_t off, uint64_t len)
{
    if (r->op == SIM_WRITE) {
        sim_image_write(img, r->file, off, r->data + (off - r->off), len);
    } else {
        (void)sim_image_fallocate(img, r->file, r->mode, off, len);
    }
}

static void apply_sectors(struct sim_image *img, const struct sim_record *r,
                          uint64_t len, struct some *some)
{
    for (uint64_t at = 0; at < len;) {
        uint64_t off = r->off + at;
        uint64_t n = MIN(SECTOR - off % SECTOR, len - at);

        if (sector_goes_on(some, r->file, off / SECTOR)) {
            apply_range(img, r, off, n);
        }
        at += n;
    }
}

/* Directories are synced between two changes of names that matter. */
static void apply_names(struct sim_image *img, const struct sim_record *r)
{
    sim_image_link(img, r->path, 0);
    if (r->op == SIM_RENAME) {
        sim_image_link(img, r->path2, r->file);
    }
}

static void apply(struct sim_image *img, const struct sim_record *r, bool done,
                  struct some *some)
{
    uint64_t len = done && r->op == SIM_WRITE ? (uint64_t)MAX(r->result, 0)
                                              : r->len;

    if (!sim_image_has(img, r->file) || (done && r->result < 0)) {
        return;
    }
    if (r->op == SIM_WRITE || r->op == SIM_FALLOCATE) {
        if (some) {
            apply_sectors(img, r, len, some);
        } else {
            apply_range(img, r, r->off, len);
        }
    } else if (r->op == SIM_TRUNCATE && !(some && rng_percent(some->rng, 50))) {
        sim_image_truncate(img, r->file, r->off);
    } else if (is_of_names(r) && !(some && rng_percent(some->rng, 50))) {
        apply_names(img, r);
    }
}

static gint by_completion(gconstpointer a, gconstpointer b)
{
    const struct sim_record *x = *(const struct sim_record *const *)a;
    const struct sim_record *y = *(const struct sim_record *const *)b;
    uint64_t cx = x->completed ? x->completed : UINT64_MAX;
    uint64_t cy = y->completed ? y->completed : UINT64_MAX;

    return cx < cy ? -1 : cx > cy;
}

static struct sim_image *build(struct world *w, const struct cut *cut,
                               enum persist how, struct rng *rng)
{
    struct sim_image *img = sim_image_copy(w->start);
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    g_autoptr(GHashTable) stopped = g_hash_table_new(NULL, NULL);
    struct some some = { rng, stopped };
    size_t n;
    const struct sim_record *const *log = sim_log(w->sim, &n);

    for (size_t i = 0; i < n; i++) {
        if (log[i]->submitted <= cut->instant) {
            g_ptr_array_add(order, (void *)(uintptr_t)log[i]);
        }
    }
    g_ptr_array_sort(order, by_completion);
    for (unsigned i = 0; i < order->len; i++) {
        const struct sim_record *r = order->pdata[i];
        bool done = r->completed && r->completed <= cut->instant;

        if (how == ALL_COMPLETED ? done : is_durable(r, cut->instant, log, n)) {
            apply(img, r, true, NULL);
        } else if (how >= ANY_SECTORS) {
            apply(img, r, done, &some);
        }
    }
    return img;
}

/* --- looking at them --- */

struct verify {
    struct world *w;
    struct loop *loop;
    const struct model_cut *cut;
    const struct disk_file *disk;
    bool independent;
    const GPtrArray *snapshots;
    const char *what;
    struct graph *graph;
};

static CO_FN struct node *top_co_open(struct verify *v, unsigned flags)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", v->disk->driver,
                          "file", "driver", "file", "filename", v->disk->path);
    g_autoptr(GError) err = NULL;
    struct node *n;

    if (node_co_open(v->graph, o, flags, &n, &err) < 0) {
        fail(v->w, "%s: the image does not open: %s", v->what, err->message);
    }
    json_decref(o);
    return n;
}

static void report_line(void *arg, const char *line)
{
    story(arg, "check: %s", line);
}

/* As it lies there, before anybody repairs it. Is the base still needed? */
static CO_FN bool image_co_check(struct verify *v)
{
    struct node *n = top_co_open(v, 0);
    struct check_result res = { .report = report_line, .report_arg = v->w };
    g_autoptr(GError) err = NULL;
    bool needed = node_header_backing(n, NULL);

    if (!g_str_equal(v->disk->driver, "raw") &&
        node_co_check(n, 0, &res, &err) < 0) {
        fail(v->w, "%s: check fails: %s", v->what, err->message);
    }
    if (res.corruptions || res.check_errors) {
        fail(v->w, "%s: %" PRIu64 " corruptions", v->what, res.corruptions);
    }
    node_co_unref(n);
    return needed;
}

static CO_FN void image_co_compare(struct verify *v)
{
    struct node *n = top_co_open(v, NODE_RDWR);
    uint64_t sectors = model_cut_sectors(v->cut);
    g_autofree uint8_t *all = g_malloc0(sectors * SECTOR);
    uint64_t len = MIN(n->size, sectors * SECTOR);
    struct iovec iov;
    int r = node_co_preadv(n, 0, iov_one(&iov, all, len), 0);

    if (r < 0) {
        fail(v->w, "%s: reading: %s", v->what, g_strerror(-r));
    }
    for (uint64_t i = 0; i < sectors; i++) {
        g_autofree char *why = NULL;

        if (!model_cut_check(v->cut, i, all + i * SECTOR, &why)) {
            fail(v->w, "%s: %s", v->what, why);
        }
    }
    node_co_unref(n);
}

static CO_FN void base_co_remove(const struct verify *v, const char *path)
{
    g_autofree char *gone = g_strdup_printf("/gone-%s", path + 1);

    if (!g_str_equal(path, v->disk->path)) {
        io_co_rename(path, gone);
    }
}

static CO_FN void verify_entry(void *arg)
{
    struct verify *v = arg;

    v->graph = graph_new(v->loop, node_drivers);
    if (image_co_check(v)) {
        if (v->independent) {
            fail(v->w, "%s: the header names a base again", v->what);
        }
    } else {
        /* P2: whoever needs no base may lose it. */
        base_co_remove(v, "/base.img");
        base_co_remove(v, "/mid.img");
    }
    image_co_compare(v);
    (void)image_co_check(v);
    snapshots_co_verify(v->w, v->graph, v->snapshots, v->what);
    graph_co_free(v->graph);
    loop_stop(v->loop);
}

void power_verify(struct world *w, const struct sim_image *img,
                  const struct model_cut *cut, const struct disk_file *disk,
                  bool independent, const GPtrArray *snapshots,
                  const char *what)
{
    struct loop_options o = SIM_OPTIONS(w->seed);
    struct verify v = { .w = w,
                        .cut = cut,
                        .disk = disk,
                        .what = what,
                        .independent = independent,
                        .snapshots = snapshots };
    g_autoptr(GError) err = NULL;

    story(w, "verify: %s", what);
    if (loop_new(&o, &v.loop, &err) < 0) {
        fail(w, "%s", err->message);
    }
    sim_log_reset(loop_sim(v.loop), false);
    sim_restore(loop_sim(v.loop), img);
    co_start(v.loop, verify_entry, &v);
    loop_run(v.loop);
    if (co_count(v.loop)) {
        fail(w, "%s: %u coroutines are left", what, co_count(v.loop));
    }
    loop_free(v.loop);
}

/* For a person who replays a seed: what reached the files, by instant. */
static void log_show(struct world *w)
{
    size_t n;
    const struct sim_record *const *log = sim_log(w->sim, &n);

    for (size_t i = 0; i < n; i++) {
        const struct sim_record *r = log[i];

        printf("%8" PRIu64 " .. %8" PRIu64 "  %s %s %" PRIu64 "+%" PRIu64
               " = %" PRId64 "\n",
               r->submitted, r->completed, sim_op_name(r->op),
               r->path ? r->path : "-", r->off, r->len, r->result);
    }
}

void power_check(struct world *w)
{
    struct rng rng = { .state = w->seed };

    if (story_loud && w->cuts->len) {
        log_show(w);
    }

    for (unsigned i = 0; i < w->cuts->len; i++) {
        struct cut *cut = w->cuts->pdata[i];

        for (int how = 0; how < PERSISTS; how++) {
            struct sim_image *img = build(w, cut, how, &rng);
            g_autofree char *what = g_strdup_printf(
                "power cut at %.3f ms, %s left", (double)cut->ns / 1e6,
                persist_names[how]);

            power_verify(w, img, cut->promised, &cut->disk, cut->independent,
                         cut->snapshots, what);
            sim_image_free(img);
        }
        model_cut_free(cut->promised);
        g_ptr_array_unref(cut->snapshots);
        g_free(cut);
    }
}
