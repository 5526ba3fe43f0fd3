/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The images that guests run on, and what lies below them.
 */
#include "crash.h"
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/io.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define QED(b) .format = &format_qed, .backing = (b), .table = 2
#define CHECKPOINT \
    &format_raw, 4096, 2, 4 * MIB + 10 * KIB, \
        .co_run = checkpoint_co_play, .co_verify = checkpoint_co_verify, \
        .co_prepare = checkpoint_co_prepare
#define COW(b) .format = &format_cow, .backing = (b), .table = 2
#define QCOW2_TABLE(b, t) .format = &format_qcow2, .backing = (b), .table = (t)
#define QCOW2(b) QCOW2_TABLE(b, 1)
/* The second window holds the end of what one L2 table maps. */
const struct crash_config crash_configs[] = {
    { "4k", QED(false), .cluster = 4096, .size = 4 * MIB + 14 * KIB - 512 },
    { "4k-base", QED(true), .cluster = 4096, .size = 4 * MIB + 14 * KIB - 512,
      .base_size = 4 * MIB + 14 * KIB - 512 },
    { "4k-mid", QED(true), .mid = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 3 * KIB },
    { "4k-short", QED(true), .cluster = 4096, .size = 4 * MIB + 6 * KIB,
      .base_size = 9 * KIB + 512 },
    { "4k-long", QED(true), .cluster = 4096, .size = 4 * MIB + 6 * KIB,
      .base_size = 4 * MIB + 16 * KIB },
    { "4k-direct", QED(true), .direct = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB },
    { "4k-shared", QED(true), .shares = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 14 * KIB - 512 },
    { "4k-far", QED(true), .far = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 3 * KIB },
    { "64k", QED(false), .cluster = 65536, .size = KIB * MIB + 96 * KIB },
    { "64k-base", QED(true), .cluster = 65536, .size = KIB * MIB + 96 * KIB,
      .base_size = KIB * MIB + 96 * KIB },
    { "raw", &format_raw, 4096, 2, 4 * MIB + 14 * KIB - 512 },
    { "q4k", QCOW2(false), .snapshots = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512 },
    { "q4k-base", QCOW2(true), .snapshots = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 14 * KIB - 512 },
    { "q4k-compressed", QCOW2(true), .cluster = 4096, .base_format = "qcow2",
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 8 * KIB },
    { "q4k-lazy", QCOW2(false), .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512,
      .options = "{\"lazy_refcounts\": \"on\"}" },
    { "q4k-v2", QCOW2(false), .cluster = 4096, .size = 2 * MIB + 14 * KIB - 512,
      .options = "{\"compat\": \"0.10\"}" },
    { "q4k-v2-long", QCOW2(true), .cluster = 4096, .size = 2 * MIB + 6 * KIB,
      .base_size = 2 * MIB + 16 * KIB, .options = "{\"compat\": \"0.10\"}" },
    { "q4k-lazy-short", QCOW2(true), .cluster = 4096, .size = 2 * MIB + 6 * KIB,
      .base_size = 9 * KIB + 512, .options = "{\"lazy_refcounts\": \"on\"}" },
    { "q4k-long", QCOW2(true), .cluster = 4096, .size = 2 * MIB + 6 * KIB,
      .base_size = 2 * MIB + 16 * KIB },
    { "q4k-mid", QCOW2(true), .mid = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 3 * KIB },
    { "q4k-far", QCOW2(true), .far = true, .snapshots = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 3 * KIB },
    { "q4k-direct", QCOW2(true), .direct = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB },
    /* The L1 table has a cluster, and must have another for the next byte. */
    { "q512", QCOW2_TABLE(false, 64), .cluster = 512, .size = 2 * MIB - 512,
      .options = "{\"refcount_bits\": 64}", .fill = 56 },
    /* The refcount table, too. */
    { "q512-full", QCOW2_TABLE(true, 64), .cluster = 512, .size = 2 * MIB - 512,
      .base_size = 2 * MIB - 512, .options = "{\"refcount_bits\": 64}",
      .fill = 3960 },
    { "q512-base", QCOW2_TABLE(true, 64), .cluster = 512, .size = 2 * MIB - 512,
      .base_size = 2 * MIB - 512 },
    { "q16k-sub", QCOW2(true), .cluster = 16384, .size = 32 * MIB + 24 * KIB,
      .base_size = 32 * MIB + 24 * KIB,
      .options = "{\"extended_l2\": \"on\"}" },
    { "q16k-sub-alone", QCOW2(false), .cluster = 16384,
      .size = 32 * MIB + 24 * KIB, .options = "{\"extended_l2\": \"on\"}" },
    { "q4k-data", QCOW2(true), .data_file = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 16 * KIB },
    { "q4k-data-raw", QCOW2(false), .data_file = true, .data_raw = true,
      .cluster = 4096, .size = 2 * MIB + 14 * KIB - 512 },
    { "q16k-data-sub", QCOW2(true), .data_file = true, .cluster = 16384,
      .size = 32 * MIB + 24 * KIB, .base_size = 32 * MIB + 24 * KIB,
      .options = "{\"extended_l2\": \"on\"}" },
    { "q4k-bitmap", QCOW2(true), .bitmap = true, .cluster = 4096,
      .size = 2 * MIB + 14 * KIB - 512, .base_size = 2 * MIB + 14 * KIB - 512 },
    { "q512-bitmap", QCOW2_TABLE(false, 64), .bitmap = true, .cluster = 512,
      .size = 2 * MIB - 512 },
    { "c4k", COW(false), .cluster = 4096, .size = 4 * MIB + 14 * KIB - 512 },
    { "c4k-base", COW(true), .cluster = 4096, .size = 4 * MIB + 14 * KIB - 512,
      .base_size = 4 * MIB + 14 * KIB - 512 },
    { "c4k-mid", COW(true), .mid = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 3 * KIB },
    { "c4k-short", COW(true), .cluster = 4096, .size = 4 * MIB + 6 * KIB,
      .base_size = 9 * KIB + 512 },
    { "c4k-long", COW(true), .cluster = 4096, .size = 4 * MIB + 6 * KIB,
      .base_size = 4 * MIB + 16 * KIB },
    { "c4k-far", COW(true), .far = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 3 * KIB },
    { "c4k-direct", COW(true), .direct = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB },
    { "c4k-shared", COW(true), .shares = true, .cluster = 4096,
      .size = 4 * MIB + 14 * KIB - 512, .base_size = 4 * MIB + 14 * KIB - 512 },
    /* Two groups of clusters. */
    { "c4k-groups", .format = &format_cow, .backing = true, .table = 64,
      .cluster = 4096, .size = 128 * MIB + 14 * KIB - 512,
      .base_size = 128 * MIB + 14 * KIB - 512 },
    { "c64k-base", .format = &format_cow, .backing = true, .table = 1,
      .cluster = 65536, .size = 512 * MIB + 96 * KIB,
      .base_size = 512 * MIB + 96 * KIB },
    { "raw-direct", &format_raw, 4096, 2, 4 * MIB + 14 * KIB - 512,
      .direct = true },
    { "raw-throttle", &format_raw, 4096, 2, 4 * MIB + 14 * KIB - 512,
      .throttle = true },
    { "file", &format_raw, 4096, 2, 5 * MIB, .co_run = file_co_play,
      .co_verify = file_co_verify, .alphabet = "n" },
    { "journal", &format_raw, 4096, 2, 5 * MIB, .co_run = journal_co_play,
      .co_verify = journal_co_verify, .alphabet = "12345678" },
    { "mirror", CHECKPOINT, .sequences = checkpoint_mirrors },
    { "mirror-qed", CHECKPOINT, .base_format = "qed",
      .sequences = checkpoint_mirrors },
    { "commit", CHECKPOINT, .mid = true, .sequences = checkpoint_commits },
};
const unsigned crash_n_configs = G_N_ELEMENTS(crash_configs);

/* Cluster 3 of the base is a hole. */
static bool base_has(const struct crash_config *c, uint64_t sector)
{
    return c->backing && (sector + 1) * GRAIN <= c->base_size &&
           sector / (c->cluster / GRAIN) != 3;
}

static CO_FN void image_co_make(const char *path, const char *backing)
{
    const struct crash_config *c = world.config;
    json_t *o = c->options ? json_loads(c->options, 0, NULL) : json_object();
    g_autoptr(GError) err = NULL;

    json_object_set_new(o, "size", json_integer((json_int_t)c->size));
    if (backing) {
        json_object_set_new(o, "backing_file", json_string(backing));
        json_object_set_new(o, "backing_fmt",
                            json_string(g_str_equal(backing, "/mid")
                                            ? c->format->name
                                        : c->base_format ? c->base_format
                                                         : "raw"));
    }
    if (c->data_file) {
        json_object_set_new(o, "data_file", json_string("/data"));
        json_object_set_new(o, "data_file_raw", json_boolean(c->data_raw));
    }
    if (!c->format->is_raw) {
        json_object_set_new(o, "cluster_size", json_integer(c->cluster));
    }
    if (c->format == &format_qed) {
        json_object_set_new(o, "table_size", json_integer(c->table));
    }
    if (image_co_create(world.graph, c->format->drv, path, o, &err) < 0) {
        g_error("create: %s", err->message);
    }
    json_decref(o);
}

/* Where the data is, if not in the image. */
static void options_add_data(json_t *o)
{
    const struct crash_config *c = world.config;

    if (c->data_file) {
        json_object_set_new(o, "data-file",
                            json_pack("{s:s,s:s,s:s,s:s,s:{s:b}}", "driver",
                                      "file", "filename", "/data", "locking",
                                      "off", "discard", "unmap", "cache",
                                      "direct", c->direct));
    }
}

static CO_FN struct node *image_co_open_at(const char *path)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver",
                          world.config->format->name, "file", "driver", "file",
                          "filename", path);
    g_autoptr(GError) err = NULL;
    struct node *n;

    options_add_data(o);
    if (node_co_open(world.graph, o, NODE_RDWR, &n, &err) < 0) {
        g_error("open: %s", err->message);
    }
    json_decref(o);
    return n;
}

/* Cluster @i of window @w: write it with @id. */
static CO_FN void cluster_co_put(struct node *n, unsigned w, uint64_t i,
                                 uint64_t id)
{
    uint64_t grains = world.config->cluster / GRAIN;
    g_autofree uint8_t *buf = g_malloc(world.config->cluster);
    struct window win[N_WINDOWS];
    struct iovec v;
    uint64_t first;

    windows_get(world.config, win);
    first = win[w].first + i * grains;
    for (uint64_t s = 0; s < grains; s++) {
        stamp_put(buf + s * GRAIN, id, first + s);
    }
    g_assert(node_co_pwritev(n, first * GRAIN, iov_one(&v, buf, grains * GRAIN),
                             0) == 0);
}

/* The same as a raw one, in a format: parts of it compressed, and the hole a
 * zero cluster. */
static CO_FN void base_co_make_compressed(void)
{
    const struct crash_config *c = world.config;
    struct window w[N_WINDOWS];
    struct node *n;

    image_co_make("/base", NULL);
    n = image_co_open_at("/base");
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t k = 0; k * c->cluster / GRAIN < w[i].n; k++) {
            uint64_t first = w[i].first + k * c->cluster / GRAIN;

            if ((first * GRAIN + c->cluster) <= c->base_size &&
                base_has(c, first)) {
                cluster_co_put(n, i, k, ID_BASE_FILE);
            }
        }
    }
    cluster_co_put(n, 0, 3, ID_BASE_FILE);
    g_assert(node_co_zero(n, 3 * (uint64_t)c->cluster, c->cluster, 0) == 0);
    node_co_unref(n);
    c->format->compress(sim_live(world.sim), "/base", 0, 3);
    c->format->compress(sim_live(world.sim), "/base",
                        w[1].first * GRAIN / c->cluster, 2);
}

/* Data in the windows, holes elsewhere. */
/* A raw file with what the disk holds at the start, as far as the base has it;
 * else zeroes. */
static CO_FN void raw_co_make(const char *path, uint64_t size)
{
    const struct crash_config *c = world.config;
    struct window w[N_WINDOWS];
    uint8_t buf[GRAIN];
    struct io_file *f;
    struct iovec v;

    g_assert(io_co_open(path, O_RDWR | O_CREAT, 0600, &f) == 0);
    g_assert(io_co_truncate(f, size) == 0);
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first; s < w[i].first + w[i].n; s++) {
            if (c->backing && base_has(c, s)) {
                stamp_put(buf, ID_BASE_FILE, s);
                g_assert(io_co_pwritev(f, s * GRAIN, iov_one(&v, buf, GRAIN),
                                       IO_TAG_DATA) == 0);
            }
        }
    }
    io_co_close(f);
}

void world_co_make_base(void)
{
    const struct crash_config *c = world.config;

    if (c->base_format) {
        base_co_make_compressed();
    } else if (c->backing) {
        raw_co_make("/base", c->base_size);
    }
    if (c->bitmap) {
        raw_co_make("/copy", c->size);
    }
}

/* What the middle image of a chain holds itself: a cluster of each window, and
 * one that is zero. */
static CO_FN void mid_co_fill(void)
{
    uint64_t cluster = world.config->cluster;
    struct node *n = image_co_open_at("/mid");

    for (unsigned w = 0; w < N_WINDOWS; w++) {
        cluster_co_put(n, w, 1, ID_MID);
    }
    g_assert(node_co_zero(n, 2 * cluster, cluster, 0) == 0);
    node_co_unref(n);
}

/* What the middle image has at @grain. */
static bool mid_has(const struct crash_config *c, uint64_t grain,
                    uint64_t *ret_id)
{
    uint64_t per = c->cluster / GRAIN;
    struct window w[N_WINDOWS];

    if (!c->mid) {
        return false;
    }
    *ret_id = 0;
    if (grain / per == 2) {
        return true;
    }
    *ret_id = ID_MID;
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        if (grain >= w[i].first + per && grain < w[i].first + 2 * per) {
            return true;
        }
    }
    return false;
}

/* So that tables are nearly full before the guest begins. */
static CO_FN void image_co_fill_up(void)
{
    uint64_t left = (uint64_t)world.config->fill * world.config->cluster;
    g_autofree uint8_t *zeroes = g_malloc0(left);
    struct node *n = image_co_open_at("/top");
    struct window w[N_WINDOWS];
    uint64_t at = 64 * KIB;

    windows_get(world.config, w);
    while (left > 0) {
        uint64_t middle = w[2].first * GRAIN;
        uint64_t len = at < middle ? MIN(left, middle - at) : left;
        struct iovec v;

        g_assert(node_co_pwritev(n, at, iov_one(&v, zeroes, len), 0) == 0);
        left -= len;
        at = middle + w[2].n * GRAIN;
    }
    node_co_unref(n);
}

static CO_FN void image_co_add_bitmap(void)
{
    struct bitmap_args args = { .granularity = 512 };
    struct node *n = image_co_open_at("/top");

    g_assert(node_co_bitmap(n, BITMAP_ADD, "b", &args, NULL) == 0);
    node_co_unref(n);
}

void world_co_make_image(void)
{
    const struct crash_config *c = world.config;

    if (c->mid && !world.made_again) {
        image_co_make("/mid", "/base");
        mid_co_fill();
    }
    image_co_make("/top", c->mid       ? "/mid"
                          : c->far     ? FAR_PREFIX "/base"
                          : c->backing ? "/base"
                                       : NULL);
    if (c->fill) {
        image_co_fill_up();
    }
    if (c->bitmap) {
        image_co_add_bitmap();
    }
}

void world_co_abandon(void)
{
    struct node *n = image_co_open_at("/top");

    cluster_co_put(n, 0, 1, ID_BEFORE);
    cluster_co_put(n, 1, 0, ID_BEFORE);
    node_co_unref(n);
    world.config->format->abandon(sim_live(world.sim));
    world.made_again = true;
}

void world_set_autoclear(void)
{
    world.config->format->set_autoclear(sim_live(world.sim));
    cover(COVER_AUTOCLEAR);
}

/* Clusters 0 to 3, of which 1 and 2 are to get lost if @lose. */
static CO_FN void image_co_fill(struct oracle *o, bool lose)
{
    uint64_t grains = world.config->cluster / GRAIN;
    struct node *n = image_co_open_at("/top");

    for (unsigned i = 0; i < 4; i++) {
        bool lost = lose && (i == 1 || i == 2);

        cluster_co_put(n, 0, i, ID_BEFORE);
        for (uint64_t s = i * grains; s < (i + 1) * grains; s++) {
            o->init[s] = lost ? 0 : ID_BEFORE;
            o->loose[s] = lost;
        }
    }
    node_co_unref(n);
}

void world_co_compress(struct oracle *o)
{
    image_co_fill(o, false);
    if (world.config->data_file) { /* never compressed */
        return;
    }
    world.config->format->compress(sim_live(world.sim), "/top", 0, 3);
    cover(COVER_COMPRESSED);
}

/* What the second table led to reads as zeroes. */
static void table_lose(struct oracle *o)
{
    const struct crash_config *c = world.config;
    uint64_t span = (uint64_t)c->cluster * c->table / 8 * (c->cluster / GRAIN);
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = MAX(w[i].first, span); s < w[i].first + w[i].n; s++) {
            o->init[slot_of(c, s)] = 0;
        }
    }
}

void world_co_damage(struct oracle *o, bool worse)
{
    image_co_fill(o, world.config->format->loses);
    world.config->format->damage(sim_live(world.sim), world.config, worse);
    if (worse && world.config->format->loses_table) {
        table_lose(o);
    }
    o->repaired = UINT64_MAX;
}

json_t *world_over_options(const struct node *disk)
{
    return json_pack("{s:s, s:s, s:n, s:{s:s, s:s, s:s, s:s}}", "driver",
                     node_driver_name(disk), "discard", "unmap", "backing",
                     "file", "driver", "file", "filename", "/over", "locking",
                     "off", "discard", "unmap");
}

int world_co_open(bool writable, struct node **ret_n, GError **err)
{
    const struct crash_config *c = world.config;
    json_t *o = json_pack("{s:s,s:s,s:{s:s,s:s,s:s,s:s,s:{s:b}}}", "driver",
                          c->format->name, "discard", "unmap", "file", "driver",
                          "file", "filename", "/top", "locking", "off",
                          "discard", "unmap", "cache", "direct", c->direct);
    const char *raw = c->format->ended_as
                          ? c->format->ended_as(sim_live(world.sim))
                          : NULL;
    int ret;

    if (!world.moved) {
        options_add_data(o);
    }
    if (world.over) {
        json_object_set_new(json_object_get(o, "file"), "filename",
                            json_string("/over"));
    }
    if (world.moved) {
        json_object_set_new(
            o, "driver", json_string(c->base_format ? c->base_format : "raw"));
        json_object_set_new(json_object_get(o, "file"), "filename",
                            json_string("/base"));
    }
    if (raw) { /* there is nothing else any more */
        json_object_set_new(o, "driver", json_string("raw"));
        json_object_set_new(json_object_get(o, "file"), "filename",
                            json_string(raw));
    }
    if (c->throttle) {
        o = json_pack("{s:s,s:s,s:o}", "driver", "throttle", "throttle-group",
                      "g", "file", o);
    }

    if (writable && c->backing) {
        o = json_pack("{s:s,s:s,s:o}", "driver", "copy-on-read", "discard",
                      "unmap", "file", o);
    }
    ret = node_co_open(world.graph, o, writable ? NODE_RDWR : 0, ret_n, err);
    json_decref(o);
    return ret;
}

void world_init(struct oracle *o)
{
    const struct crash_config *c = o->config;
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first; s < w[i].first + w[i].n; s++) {
            uint64_t id;

            /* Past the end of the disk there are zeroes, base or not. */
            if ((s + 1) * GRAIN > c->size) {
                continue;
            }
            if (mid_has(c, s, &id)) {
                o->init[slot_of(c, s)] = id;
            } else if (base_has(c, s)) {
                o->init[slot_of(c, s)] = ID_BASE_FILE;
            }
        }
    }
}
