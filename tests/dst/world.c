/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One seed from its first file to its last check.
 *
 *   images -> nodes, export -> phase 1: guests, manager, trouble
 *          -> phase 2: no trouble; everything comes to an end in bounded time
 *          -> all of the disk is read -> daemon stopped, nothing is left over
 *          -> image opened, checked, compared; so are states after power cuts
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include "control/control-int.h"
#include "dst.h"
#include "export/nbd/nbd-int.h"
#include "format/format.h"
#include "graph/graph-int.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/io.h"

enum {
    PHASE_1_S = 60,
    LIMIT_1_S = 300,
    LIMIT_2_S = 150,
    TOTAL_S = 3600,
    LAST_OPS = 30
};

uint64_t world_new_id(struct world *w)
{
    return ++w->last_id;
}

/* --- images --- */

/* Ids of the patterns that the chain shows so far, by sector. */
static void view_resize(GArray *view, uint64_t sectors)
{
    g_array_set_size(view, (guint)sectors);
}

static CO_FN void command_co(struct world *w, const char *name, json_t *args)
{
    g_autoptr(GError) err = NULL;
    json_t *ret = NULL;

    if (control_co_execute(w->control, name, args, &ret, &err) < 0) {
        fail(w, "%s: %s", name, err->message);
    }
    json_decref(ret);
    json_decref(args);
}

/* Write pattern @id, or zeroes, to sectors of @n and of the view. */
static CO_FN void extent_co_fill(struct world *w, struct node *n, GArray *view,
                                 uint64_t first, uint64_t count, uint64_t id)
{
    g_autofree uint8_t *buf = g_malloc(count * SECTOR);
    struct iovec v;
    int r;

    for (uint64_t i = 0; i < count; i++) {
        model_pattern(id, first + i, buf + i * SECTOR);
        g_array_index(view, uint64_t, first + i) = id;
    }
    r = id ? node_co_pwritev(n, first * SECTOR,
                             iov_one(&v, buf, count * SECTOR), 0)
           : node_co_zero(n, first * SECTOR, count * SECTOR, IO_MAY_UNMAP);
    if (r < 0) {
        fail(w, "writing an image: %s", g_strerror(-r));
    }
}

static CO_FN void layer_co_fill(struct world *w, struct node *n, GArray *view,
                                enum layer l)
{
    uint64_t sectors = w->cfg.size[l] / SECTOR, left;

    left = sectors * w->cfg.written[l] / 100;
    while (left > 0) {
        uint64_t most = MIN(left, 400);
        uint64_t count = 1 + rng_below(&w->rng, most);
        uint64_t first = rng_below(&w->rng, sectors - MIN(count, sectors) + 1);
        bool zero = rng_percent(&w->rng, 15);

        count = MIN(count, sectors);
        extent_co_fill(w, n, view, first, count, zero ? 0 : world_new_id(w));
        left -= MIN(left, count);
    }
}

static CO_FN void file_co_make(struct world *w, const char *path, uint64_t size)
{
    struct io_file *f;

    if (io_co_open(path, O_RDWR | O_CREAT, 0600, &f) < 0 ||
        io_co_truncate(f, size) < 0) {
        fail(w, "cannot make %s", path);
    }
    io_co_close(f);
}

/* Options of a format's own for a new image; owned. */
static json_t *create_options(const struct config *c, enum layer l)
{
    switch (c->format[l]) {
    case IMG_QED: return json_pack("{s:i}", "table_size", 1);
    case IMG_COW: return json_object();
    default:
        return json_pack("{s:s,s:b,s:b}", "compat", c->v2[l] ? "0.10" : "1.1",
                         "lazy_refcounts", c->lazy[l], "extended_l2",
                         c->extended[l]);
    }
}

static CO_FN void image_co_make(struct world *w, enum layer l, const char *path,
                                const char *backing, const char *backing_format)
{
    static const struct node_driver *const drivers[] = {
        [IMG_QED] = &qed_driver,
        [IMG_QCOW2] = &qcow2_driver,
        [IMG_COW] = &cow_driver,
    };
    json_t *o = json_pack(
        "{s:I,s:I,s:s*,s:s*}", "size", (json_int_t)w->cfg.size[l],
        "cluster_size", (json_int_t)w->cfg.cluster[l], "backing_file", backing,
        "backing_fmt", backing ? backing_format : NULL);
    g_autoptr(GError) err = NULL;

    json_object_update_new(o, create_options(&w->cfg, l));
    if (image_co_create(w->control->graph, drivers[w->cfg.format[l]], path, o,
                        &err) < 0) {
        fail(w, "%s: %s", path, err->message);
    }
    json_decref(o);
}

/* Compress some clusters that nobody has written to yet. */
static CO_FN void layer_co_compress(struct world *w, struct node *n,
                                    GArray *view, enum layer l)
{
    uint64_t sectors = w->cfg.cluster[l] / SECTOR;
    uint64_t clusters = view->len / sectors;
    g_autofree uint8_t *buf = g_malloc0(sectors * SECTOR);

    for (uint64_t i = 0; i < clusters; i += 1 + rng_below(&w->rng, 6)) {
        uint64_t id = world_new_id(w);
        struct iovec v;
        int r;

        /* One sector of content: it shrinks. */
        memset(buf, 0, sectors * SECTOR);
        model_pattern(id, i * sectors, buf);
        for (uint64_t k = 0; k < sectors; k++) {
            g_array_index(view, uint64_t, i * sectors + k) = k ? 0 : id;
        }
        r = node_co_pwritev(n, i * sectors * SECTOR,
                            iov_one(&v, buf, sectors * SECTOR), IO_COMPRESSED);
        if (r < 0) {
            fail(w, "compressing: %s", g_strerror(-r));
        }
    }
}

static CO_FN void layer_co_make(struct world *w, GArray *view, enum layer l,
                                const char *path, const char *backing,
                                const char *backing_format)
{
    const char *format = config_driver(&w->cfg, l);
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", format, "file",
                          "driver", "file", "filename", path);
    g_autoptr(GError) err = NULL;
    struct node *n;

    if (g_str_equal(format, "raw")) {
        file_co_make(w, path, w->cfg.size[l]);
    } else {
        image_co_make(w, l, path, backing, backing_format);
    }
    view_resize(view, w->cfg.size[l] / SECTOR);
    if (node_co_open(w->control->graph, o, NODE_RDWR, &n, &err) < 0) {
        fail(w, "%s: %s", path, err->message);
    }
    if (l == L_BASE && w->cfg.compressed) {
        layer_co_compress(w, n, view, l);
    }
    layer_co_fill(w, n, view, l);
    node_co_unref(n);
    json_decref(o);
}

/* With something in it, which is not to stay there. */
static CO_FN void target_co_make(struct world *w, unsigned i)
{
    g_autofree char *path = g_strdup_printf("/copy%u.img", i);
    uint64_t size = w->cfg.size[L_TOP], id = world_new_id(w);
    uint8_t buf[SECTOR];
    struct io_file *f;
    struct iovec v;

    file_co_make(w, path, size);
    if (io_co_open(path, O_RDWR, 0, &f) < 0) {
        fail(w, "cannot open %s", path);
    }
    for (uint64_t s = 0; s < size / SECTOR; s += 5) {
        model_pattern(id, s, buf);
        if (io_co_pwritev(f, s * SECTOR, iov_one(&v, buf, SECTOR),
                          IO_TAG_DATA) < 0) {
            fail(w, "cannot write %s", path);
        }
    }
    io_co_close(f);
}

static CO_FN void images_co_make(struct world *w)
{
    g_autoptr(GArray) view = g_array_new(FALSE, TRUE, sizeof(uint64_t));
    const char *base_format = config_driver(&w->cfg, L_BASE);
    const char *mid_format = config_driver(&w->cfg, L_MID);
    bool mid = w->cfg.has_mid;

    layer_co_make(w, view, L_BASE, "/base.img", NULL, NULL);
    if (mid) {
        layer_co_make(w, view, L_MID, "/mid.img", "/base.img", base_format);
    }
    layer_co_make(w, view, L_TOP, config_top_path(&w->cfg),
                  mid ? "/mid.img" : "/base.img",
                  mid ? mid_format : base_format);
    file_co_make(w, "/extra.img", 65536);
    for (unsigned i = 0; w->cfg.copies && i < COPIES; i++) {
        target_co_make(w, i);
    }
    w->model = model_new(view->len);
    for (guint i = 0; i < view->len; i++) {
        model_set(w->model, i, 1, g_array_index(view, uint64_t, i));
    }
    sim_log_reset(w->sim, true);
    w->start = sim_image_copy(sim_live(w->sim));
}

/* --- nodes --- */

static json_t *file_options(const struct config *c, const char *path)
{
    return json_pack("{s:s,s:s,s:s,s:{s:b}}", "driver", "file", "filename",
                     path, "discard", c->discard ? "unmap" : "ignore", "cache",
                     "direct", c->direct);
}

#define CACHE_BLOCK 4096

static json_t *chain_options(const struct config *c)
{
    json_t *o = json_pack("{s:s,s:s,s:o}", "driver", config_driver(c, L_BASE),
                          "node-name", "base", "file",
                          file_options(c, "/base.img"));

    if (c->cache) {
        o = json_pack("{s:s,s:s,s:s,s:i,s:i,s:o}", "driver", "cache",
                      "node-name", "keep", "path", "/cache", "size",
                      (int)(8192 + c->cache * (CACHE_BLOCK + 32)), "block-size",
                      CACHE_BLOCK, "file", o);
    }
    if (c->has_mid) {
        o = json_pack("{s:s,s:s,s:o,s:o}", "driver", config_driver(c, L_MID),
                      "node-name", "mid", "file", file_options(c, "/mid.img"),
                      "backing", o);
    }
    return json_pack("{s:s,s:s,s:s,s:s,s:o,s:o}", "driver",
                     config_driver(c, L_TOP), "node-name", "top", "discard",
                     c->discard ? "unmap" : "ignore", "detect-zeroes",
                     c->detect_zeroes ? "on" : "off", "file",
                     file_options(c, config_top_path(c)), "backing", o);
}

static CO_FN void filters_co_open(struct world *w)
{
    w->root = "top";
    if (w->cfg.view) {
        command_co(w, "blockdev-add",
                   json_pack("{s:s,s:s,s:s,s:s}", "driver", "raw", "node-name",
                             "view", "file", w->root, "discard",
                             w->cfg.discard ? "unmap" : "ignore"));
        w->root = "view";
    }
    if (w->cfg.copy_on_read) {
        command_co(w, "blockdev-add",
                   json_pack("{s:s,s:s,s:s}", "driver", "copy-on-read",
                             "node-name", "cor", "file", w->root));
        w->root = "cor";
    }
    if (w->cfg.throttle) {
        command_co(w, "object-add",
                   json_pack("{s:s,s:s,s:{s:i,s:i}}", "qom-type",
                             "throttle-group", "id", "tg", "limits",
                             "bps-total", 32 << 20, "iops-total", 2000));
        command_co(w, "blockdev-add",
                   json_pack("{s:s,s:s,s:s,s:s}", "driver", "throttle",
                             "node-name", "thr", "throttle-group", "tg", "file",
                             w->root));
        w->root = "thr";
    }
}

static CO_FN void drive_co_open(struct world *w)
{
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "id", "drive0", "file",
                          config_top_path(&w->cfg), "format",
                          config_driver(&w->cfg, L_TOP), "copy-on-read",
                          w->cfg.copy_on_read ? "on" : "off", "stream",
                          w->cfg.stream_at_start ? "on" : "off", "discard",
                          w->cfg.discard ? "unmap" : "ignore");
    g_autoptr(GError) err = NULL;

    if (control_co_add_drive(w->control, o, &err) < 0) {
        fail(w, "drive: %s", err->message);
    }
    json_decref(o);
    w->root = "drive0";
}

void world_co_export(struct world *w)
{
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:b,s:b}", "type", "nbd", "id",
                          "e1", "name", "e1", "node-name", w->root, "writable",
                          true, "writethrough", w->cfg.writethrough),
           *ret = NULL;
    g_autoptr(GError) err = NULL;

    /* It may be there, or on its way out. */
    if (control_co_execute(w->control, "block-export-add", o, &ret, &err) < 0) {
        story(w, "no export e1: %s", err->message);
    }
    json_decref(ret);
    json_decref(o);
}

static CO_FN void daemon_co_start(struct world *w)
{
    if (w->cfg.is_drive) {
        drive_co_open(w);
    } else {
        command_co(w, "blockdev-add", chain_options(&w->cfg));
        filters_co_open(w);
    }
    w->server = nbd_server_new(w->control->exports, 0);
    world_co_export(w);
    control_co_ready(w->control);
    manager_co_connect(w);
}

/* --- phases --- */

static CO_FN void watchdog_entry(void *arg)
{
    struct world *w = arg;

    while (!w->ended) {
        uint64_t now = loop_clock_ns(w->loop);
        uint64_t limit = (w->phase == 1 ? LIMIT_1_S : LIMIT_2_S) * SEC;
        g_autofree char *text = NULL;

        guests_collect(w);
        if (guests_oldest(w, &text) > limit) {
            fail(w, "a request is stuck: %s", text);
        }
        if (w->command_since && now - w->command_since > limit) {
            fail(w, "a command is stuck: %s", w->command);
        }
        if (now > TOTAL_S * SEC) {
            fail(w, "no end is in sight");
        }
        co_sleep(SEC);
    }
}

static CO_FN void cuts_entry(void *arg)
{
    struct world *w = arg;

    for (unsigned i = 0; i < w->cfg.cuts && w->phase == 1; i++) {
        unsigned at = w->asked + rng_below(&w->rng, w->cfg.ops / w->cfg.cuts);

        while (w->asked < at && w->phase == 1) {
            co_sleep(MS);
        }
        co_sleep(rng_below(&w->rng, 3 * MS));
        power_mark(w);
    }
    co_latch_done(&w->trouble);
}

static CO_FN void phases_co_run(struct world *w)
{
    w->phase = 1;
    co_latch_add(&w->trouble);
    co_start(w->loop, cuts_entry, w);
    faults_start(w);
    for (unsigned i = 0; i < w->cfg.guests; i++) {
        guest_start(w, i);
    }
    manager_start(w);
    while (w->asked < w->cfg.ops * (100 - LAST_OPS) / 100 &&
           loop_clock_ns(w->loop) < PHASE_1_S * SEC) {
        co_sleep(5 * MS);
    }
    faults_co_stop(w);
    if (guest_co_sweep(w, true) < 0) {
        w->broken = true;
        if (!faults_hit_top(w)) {
            fail(w, "flushes fail, and nothing was wrong");
        }
    }
    w->phase = 2;
    story(w, "--- phase 2%s", w->broken ? ", a flush has failed" : "");
    co_latch_co_wait(&w->trouble);
    co_latch_co_wait(&w->busy);
    manager_co_settle(w);
    (void)guest_co_sweep(w, false);
    w->final = model_cut_new(w->model);
    disk_file_get(w, &w->final_disk);
}

static CO_FN void world_entry(void *arg)
{
    struct world *w = arg;
    g_autoptr(GError) err = NULL;

    if (control_co_start(w->control, &err) < 0) {
        fail(w, "%s", err->message);
    }
    w->control->graph->early_always = w->cfg.early;
    images_co_make(w);
    daemon_co_start(w);
    co_start(w->loop, watchdog_entry, w);
    phases_co_run(w);
    w->ended = true;
    manager_co_disconnect(w);
    control_co_stop(w->control);
    w->server = NULL;
    co_sleep(2 * SEC);
    guests_free(w);
    loop_stop(w->loop);
}

/* --- the end --- */

static void check_leaks(struct world *w)
{
    if (co_count(w->loop)) {
        fail(w, "%u coroutines are left", co_count(w->loop));
    }
    if (sim_open_files(w->sim)) {
        fail(w, "%u files are open", sim_open_files(w->sim));
    }
}

static void check_base(struct world *w)
{
    uint64_t id = sim_image_find(w->start, "/base.img");
    uint64_t size = sim_image_size(w->start, id);
    g_autofree uint8_t *a = g_malloc(size), *b = g_malloc(size);

    sim_image_read(w->start, id, 0, a, size);
    sim_image_read(sim_live(w->sim), id, 0, b, size);
    if (size != sim_image_size(sim_live(w->sim), id) || memcmp(a, b, size)) {
        fail(w, "the base was written to");
    }
}

uint64_t world_run(uint64_t seed)
{
    struct loop_options o = SIM_OPTIONS(seed);
    struct world w = { .seed = seed, .rng.state = seed ^ 0x5eed };
    struct control_params p = { 0 };
    g_autoptr(GError) err = NULL;
    g_autofree char *text = NULL;

    /* A new cow overlay has a random name. */
    g_random_set_seed((guint32)seed);
    config_make(&w.cfg, seed);
    story_begin(&w);
    text = config_describe(&w.cfg);
    story(&w, "%s", text);
    if (loop_new(&o, &w.loop, &err) < 0) {
        fail(&w, "%s", err->message);
    }
    w.sim = loop_sim(w.loop);
    w.guests = g_ptr_array_new();
    w.cuts = g_ptr_array_new();
    w.snapshots = g_ptr_array_new_with_free_func(
        (GDestroyNotify)snapshot_unref);
    w.copies = copies_new();
    p.loop = p.data = w.loop;
    p.state_dir = w.cfg.journal ? "/state" : NULL;
    sim_shuffle(w.loop, w.cfg.shuffle, seed);
    w.control = control_new(&p);
    co_start(w.loop, world_entry, &w);
    loop_run(w.loop);
    check_leaks(&w);
    if (!w.committed) {
        check_base(&w);
    }
    power_verify(&w, sim_live(w.sim), w.final, &w.final_disk, false,
                 w.snapshots, "the end");
    power_check(&w);
    story(&w, "log %016" PRIx64, sim_log_hash(w.sim));
    control_free(w.control);
    sim_image_free(w.start);
    model_cut_free(w.final);
    g_ptr_array_unref(w.cuts);
    g_ptr_array_unref(w.snapshots);
    g_ptr_array_unref(w.copies);
    model_free(w.model);
    loop_free(w.loop);
    w.loop = NULL;
    return story_end(&w);
}
