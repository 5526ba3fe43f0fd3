/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a seed switches on.  Most seeds leave most of it out: with everything
 * on at once, some paths never meet alone.
 */
#include <inttypes.h>
#include "dst.h"

static uint64_t pick_size(struct rng *r)
{
    static const uint64_t sizes[] = { 256 << 10, 512 << 10, 1 << 20, 2 << 20,
                                      3 << 20 };
    uint64_t size = sizes[rng_below(r, G_N_ELEMENTS(sizes))];

    /* Now and then no multiple of any cluster. */
    return rng_percent(r, 30) ? size - SECTOR * (1 + rng_below(r, 100)) : size;
}

static void make_images(struct config *c, struct rng *r)
{
    bool base_qed = rng_percent(r, 30);

    c->has_mid = rng_percent(r, 40);
    c->format[L_TOP] = c->format[L_MID] = IMG_QED;
    c->format[L_BASE] = base_qed ? IMG_QED : IMG_RAW;
    for (int l = 0; l < L_COUNT; l++) {
        c->size[l] = pick_size(r);
        c->cluster[l] = rng_percent(r, 60) ? 4096 : 65536;
        c->written[l] = rng_below(r, 101);
    }
    c->written[L_TOP] = rng_percent(r, 50) ? 0 : rng_below(r, 50);
    if (rng_percent(r, 60)) {
        c->size[L_BASE] = c->size[L_MID] = c->size[L_TOP];
    }
    c->is_drive = rng_percent(r, 30);
    c->copy_on_read = rng_percent(r, 40);
    c->stream_at_start = c->is_drive && rng_percent(r, 50);
    c->throttle = !c->is_drive && rng_percent(r, 15);
    c->writethrough = rng_percent(r, 10);
    c->discard = rng_percent(r, 50);
    c->detect_zeroes = rng_percent(r, 15);
    c->direct = rng_percent(r, 20);
}

/* What came later has numbers of its own: seeds without it stay what they
 * were. */
static void make_qcow2(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0xd1342543de82ef95u + 2 };
    static const uint32_t clusters[] = { 512, 4096, 4096, 16384, 65536 };

    if (rng_percent(&r, 40)) {
        return;
    }
    for (int l = 0; l < L_COUNT; l++) {
        if (!rng_percent(&r, l == L_TOP ? 85 : 50)) {
            continue;
        }
        c->format[l] = IMG_QCOW2;
        c->cluster[l] = clusters[rng_below(&r, G_N_ELEMENTS(clusters))];
        c->v2[l] = rng_percent(&r, 20);
        c->lazy[l] = !c->v2[l] && rng_percent(&r, 25);
        c->extended[l] = !c->v2[l] && c->cluster[l] >= 16384 &&
                         rng_percent(&r, 50);
    }
    c->compressed = c->format[L_BASE] == IMG_QCOW2 && rng_percent(&r, 50);
    c->snapshots = c->format[L_TOP] == IMG_QCOW2 && rng_percent(&r, 50)
                       ? 10 + rng_below(&r, 40)
                       : 0;
}

static void make_view(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0xda942042e4dd58b5u + 3 };

    /* Raw does not follow when the image below it is resized by its name. */
    c->view = !c->is_drive && !c->resize && rng_percent(&r, 20);
}

static void make_cache(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0x94d049bb133111ebu + 7 };

    /* A drive opens its chain by the names in headers. */
    if (!c->is_drive && rng_percent(&r, 25)) {
        c->cache = 8 + rng_below(&r, 200);
    }
}

/* The number is one with which no seed that once failed has it. */
static void make_cow(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0x8cb92ba72f3d8dd7u + 6 };

    if (c->format[L_TOP] == IMG_QED && rng_percent(&r, 40)) {
        c->format[L_TOP] = IMG_COW;
    }
}

const char *config_top_path(const struct config *c)
{
    return c->format[L_TOP] == IMG_COW ? "/top.img.cow" : "/top.img";
}

static void make_early(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0xd6e8feb86659fd93u + 11 };

    c->early = rng_percent(&r, 50);
}

const char *config_driver(const struct config *c, enum layer l)
{
    static const char *const names[] = { "raw", "qed", "qcow2", "cow" };

    return names[c->format[l]];
}

static void make_guests(struct config *c, struct rng *r)
{
    static const unsigned weights[G_OPS] = {
        [G_READ] = 40, [G_WRITE] = 40, [G_ZERO] = 8,   [G_TRIM] = 6,
        [G_FLUSH] = 4, [G_CACHE] = 3,  [G_STATUS] = 6,
    };

    c->guests = 1 + rng_below(r, 4);
    c->ops = 60 + rng_below(r, 200);
    c->window = 1 + rng_below(r, 12);
    for (int i = 0; i < G_OPS; i++) {
        c->weight[i] = i < G_ZERO || rng_percent(r, 65) ? weights[i] : 0;
    }
    c->unaligned = rng_percent(r, 40) ? 5 + rng_below(r, 40) : 0;
    c->fua = rng_percent(r, 30) ? rng_below(r, 40) : 0;
    c->hot = rng_percent(r, 60) ? rng_below(r, 90) : 0;
    c->leave = rng_percent(r, 50) ? rng_below(r, 8) : 0;
}

static void make_trouble(struct config *c, struct rng *r)
{
    bool any = rng_percent(r, 55);

    for (int i = 0; i < F_COPY_WRITE; i++) {
        c->fault[i] = any && rng_percent(r, 25);
    }
    c->fault_gap_ms = 1 + rng_below(r, 60);
    c->cuts = rng_percent(r, 35) ? 1 + rng_below(r, 3) : 0;
}

/* Clients that go while the server has more of theirs than it takes at once. */
static void make_crowd(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0xaf251af3b0f025b5u + 5 };

    if (!rng_percent(&r, 15)) {
        return;
    }
    c->guests = 2 + rng_below(&r, 3);
    c->ops = 400 + rng_below(&r, 400);
    c->window = 66 + rng_below(&r, 64);
    c->leave = 1 + rng_below(&r, 3);
    c->hot = 60 + rng_below(&r, 40);
    c->fault[F_BASE_HANG] = c->fault[F_BASE_SLOW] = true;
    c->crowd = true;
}

/* The number is one with which no seed that once failed has copies: those stay
 * what they were.  A switch must not change the name of the node that guests use:
 * there is a filter, or a drive. */
static void make_copies(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0xbea225f9eb34556du + 64 };
    bool any;

    if (c->snapshots || c->resize || c->crowd || !rng_percent(&r, 70)) {
        return;
    }
    c->view = false;
    c->ops *= 2;
    c->copies = 20 + rng_below(&r, 60);
    c->copy_on_read = c->copy_on_read || (!c->is_drive && !c->throttle);
    c->commands = MAX(c->commands, 20 + rng_below(&r, 40));
    any = rng_percent(&r, 40);
    for (int i = F_COPY_WRITE; i < F_KINDS; i++) {
        c->fault[i] = any && rng_percent(&r, 40);
    }
}

void config_make(struct config *c, uint64_t seed)
{
    struct rng r = { .state = seed * 0x9e3779b97f4a7c15u + 1 };

    *c = (struct config) { 0 };
    make_images(c, &r);
    make_guests(c, &r);
    c->commands = rng_percent(&r, 85) ? rng_below(&r, 60) : 0;
    c->jobs = 30 + rng_below(&r, 60);
    c->resize = rng_percent(&r, 20) ? 5 : 0;
    c->exports = rng_percent(&r, 25) ? 8 : 0;
    make_trouble(c, &r);
    c->shuffle = rng_percent(&r, 40) ? 1 + rng_below(&r, 50) : 0;
    c->journal = rng_percent(&r, 20);
    c->slow_speed = rng_percent(&r, 60);
    make_qcow2(c, seed);
    make_cow(c, seed);
    make_view(c, seed);
    make_crowd(c, seed);
    make_cache(c, seed);
    make_early(c, seed);
    make_copies(c, seed);
}

char *config_describe(const struct config *c)
{
    static const char *const layers[] = { "top", "mid", "base" };
    static const char *const faults[] = {
        "base-read",  "base-hang",    "base-slow", "top-read",
        "top-write",  "top-nospace",  "top-sync",  "short",
        "copy-write", "copy-nospace", "copy-slow",
    };
    GString *s = g_string_new("config:");

    G_STATIC_ASSERT(G_N_ELEMENTS(faults) == F_KINDS);
    for (int l = 0; l < L_COUNT; l++) {
        if (l != L_MID || c->has_mid) {
            g_string_append_printf(
                s, " %s %s %" PRIu64 "/%u/%u%%%s%s%s", layers[l],
                config_driver(c, l), c->size[l], c->cluster[l], c->written[l],
                c->v2[l] ? " v2" : "", c->lazy[l] ? " lazy" : "",
                c->extended[l] ? " extended" : "");
        }
    }
    g_string_append_printf(
        s, "%s%s%s%s%s%s%s%s%s", c->compressed ? " compressed" : "",
        c->is_drive ? " drive" : "", c->copy_on_read ? " copy-on-read" : "",
        c->stream_at_start ? " stream" : "", c->throttle ? " throttle" : "",
        c->writethrough ? " writethrough" : "", c->discard ? " discard" : "",
        c->detect_zeroes ? " detect-zeroes" : "", c->direct ? " direct" : "");
    g_string_append_printf(s, "%s%s shuffle %u", c->journal ? " journal" : "",
                           c->slow_speed ? " slow-speed" : "", c->shuffle);
    g_string_append(s, c->crowd ? " crowd" : "");
    g_string_append_printf(s, " guests %u ops %u window %u commands %u cuts %u",
                           c->guests, c->ops, c->window, c->commands, c->cuts);
    if (c->view) {
        g_string_append(s, " view");
    }
    if (c->cache) {
        g_string_append_printf(s, " cache %u", c->cache);
    }
    g_string_append(s, c->early ? " early" : "");
    if (c->copies) {
        g_string_append_printf(s, " copies %u%%", c->copies);
    }
    if (c->snapshots) {
        g_string_append_printf(s, " snapshots %u%%", c->snapshots);
    }
    for (int i = 0; i < F_KINDS; i++) {
        if (c->fault[i]) {
            g_string_append_printf(s, " %s", faults[i]);
        }
    }
    return g_string_free(s, FALSE);
}
