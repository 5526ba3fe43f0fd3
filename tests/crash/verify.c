/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is asked of a state: it opens, read-only and writable; its check finds no
 * corruption; each sector holds what it may; both opens show the same.  Then,
 * of some, that a guest can go on: writes, a stream to the end, all of it still
 * right after the image was closed and the base is gone; and of some of these
 * that the power may fail once more on the way.
 */
#include "crash.h"
#include <inttypes.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"

bool verify_outside;

/* Which states are looked into further, by hash. */
#define EVERY_DEEP 8
#define EVERY_TWICE 10
#define EVERY_OUTSIDE 997
#define EVERY_COMPARED 1999

/* Read all windows of @n: an id per slot. Slots past the end: 0. */
static CO_FN char *ids_co_read(struct node *n, uint64_t *ids)
{
    const struct crash_config *c = world.config;
    uint64_t size = n->size / GRAIN;
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        uint64_t end = CLAMP(size, w[i].first, w[i].first + w[i].n);
        uint64_t count = end - w[i].first;
        g_autofree uint8_t *buf = g_malloc(count * GRAIN);
        struct iovec v;
        int ret = node_co_preadv(n, w[i].first * GRAIN,
                                 iov_one(&v, buf, count * GRAIN), 0);

        if (ret < 0) {
            return g_strdup_printf("window %u: read error: %s", i,
                                   g_strerror(-ret));
        }
        for (uint64_t s = 0; s < count; s++) {
            ids[slot_of(c, w[i].first + s)] = stamp_get(buf + s * GRAIN,
                                                        w[i].first + s);
        }
    }
    return NULL;
}

/* A raw data file holds what @n shows, at any instant. */
static CO_FN char *data_file_co_verify(struct node *n)
{
    const struct sim_image *img = sim_live(world.sim);
    uint64_t id = sim_image_find(img, "/data");
    struct window w[N_WINDOWS];

    if (!world.config->data_raw) {
        return NULL;
    }
    if (sim_image_size(img, id) < n->size) {
        return g_strdup("the raw data file is shorter than the disk");
    }
    for (unsigned i = 0; i < windows_get(world.config, w); i++) {
        uint64_t at = MIN(w[i].first * GRAIN, n->size);
        uint64_t len = MIN(w[i].n * GRAIN, n->size - at);
        g_autofree uint8_t *here = g_malloc(len), *there = g_malloc(len);
        struct iovec v;

        if (node_co_preadv(n, at, iov_one(&v, here, len), 0) < 0) {
            return g_strdup_printf("window %u cannot be read", i);
        }
        sim_image_read(img, id, at, there, len);
        if (memcmp(here, there, len)) {
            return g_strdup_printf("the raw data file differs from the disk in "
                                   "window %u",
                                   i);
        }
    }
    return NULL;
}

/* G3: a sector that was only ever written as a whole holds one write. */
static char *ids_check_mix(const struct oracle *o, const uint64_t *ids,
                           uint64_t grain)
{
    unsigned slot = slot_of(o->config, grain);

    if (grain % 2 == 1 && ids[slot] != ids[slot - 1] &&
        !oracle_may_mix(o, grain)) {
        return g_strdup_printf("the sector of grain %" PRIu64 " mixes %" PRId64
                               " and %" PRId64 " (G3)",
                               grain, (int64_t)ids[slot - 1],
                               (int64_t)ids[slot]);
    }
    return NULL;
}

static char *ids_compare(const struct oracle *o, const uint64_t *ids,
                         uint64_t grains)
{
    struct window w[N_WINDOWS];
    char *bad;

    if (!oracle_may_have_size(o, grains)) {
        return g_strdup_printf("the disk has %" PRIu64 " bytes",
                               grains * GRAIN);
    }
    for (unsigned i = 0; i < windows_get(o->config, w); i++) {
        for (uint64_t s = w[i].first; s < MIN(w[i].first + w[i].n, grains);
             s++) {
            unsigned slot = slot_of(o->config, s);

            if (!oracle_may_hold(o, slot, ids[slot])) {
                g_autofree char *want = oracle_describe(o, slot);

                return g_strdup_printf("grain %" PRIu64 " holds %" PRId64
                                       ", may hold: %s",
                                       s, (int64_t)ids[slot], want);
            }
            if ((bad = ids_check_mix(o, ids, s)) != NULL) {
                return bad;
            }
        }
    }
    return NULL;
}

static bool in_windows(uint64_t grain, uint64_t *ret_end)
{
    struct window w[N_WINDOWS];
    bool inside = false;

    for (unsigned i = 0; i < windows_get(world.config, w); i++) {
        if (grain < w[i].first) {
            *ret_end = MIN(*ret_end, w[i].first);
        } else if (grain < w[i].first + w[i].n) {
            *ret_end = MIN(*ret_end, w[i].first + w[i].n);
            inside = true;
        }
    }
    return inside;
}

/* Outside the windows nobody wrote, and the base holds nothing. */
static CO_FN char *rest_co_verify(struct node *n)
{
    for (uint64_t at = 0, end; at < n->size / GRAIN; at = end) {
        struct extent ext = { 0 };

        end = n->size / GRAIN;
        if (in_windows(at, &end)) {
            continue;
        }
        if (node_co_status_above(n, NULL, at * GRAIN, (end - at) * GRAIN,
                                 &ext) < 0) {
            return g_strdup_printf("no status at grain %" PRIu64, at);
        }
        if ((ext.flags & STATUS_DATA) && !(ext.flags & STATUS_ZERO)) {
            g_autofree uint8_t *buf = g_malloc(ext.len);
            struct iovec v;

            if (node_co_preadv(n, at * GRAIN, iov_one(&v, buf, ext.len), 0) <
                    0 ||
                buf[0] || memcmp(buf, buf + 1, ext.len - 1)) {
                return g_strdup_printf(
                    "data outside the windows, at grain %" PRIu64, at);
            }
        }
        end = at + MAX(ext.len / GRAIN, 1);
    }
    return NULL;
}

static CO_FN char *node_co_verify(struct node *n)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;

    n = node_skip_filters(n);
    if (!n->drv->co_check) {
        return NULL;
    }
    if (node_co_check(n, 0, &res, &err) < 0) {
        return g_strdup_printf("check: %s", err->message);
    }
    if (res.corruptions || res.check_errors) {
        return g_strdup_printf("%" PRIu64 " corruptions, %" PRIu64
                               " check errors",
                               res.corruptions, res.check_errors);
    }
    return NULL;
}

/* Open, check, read, close. @ids is filled. */
static CO_FN char *image_co_look(bool writable, uint64_t *ids,
                                 uint64_t *ret_grains)
{
    g_autoptr(GError) err = NULL;
    struct node *n;
    char *bad;

    if (world_co_open(writable, &n, &err) < 0) {
        return g_strdup_printf("open: %s", err->message);
    }
    bad = node_co_verify(n);
    if (!bad) {
        bad = ids_co_read(node_skip_filters(n), ids);
    }
    if (!bad) {
        bad = data_file_co_verify(node_skip_filters(n));
    }
    if (!bad) {
        bad = rest_co_verify(node_skip_filters(n));
    }
    *ret_grains = n->size / GRAIN;
    node_co_unref(n);
    return bad;
}

/* --- going on after the crash --- */

/* What was read after the crash is what the guest has now. */
static void oracle_after(struct oracle *next, const struct oracle *o,
                         const uint64_t *ids, uint64_t grains)
{
    oracle_init(next, o->config);
    memcpy(next->init, ids, windows_slots(o->config) * sizeof(*ids));
    next->init_size = grains;
    next->moved = world.moved;
    next->over = world.over;
    if (o->at < o->repaired) { /* still broken */
        next->repaired = UINT64_MAX;
        memcpy(next->loose, o->loose,
               windows_slots(o->config) * sizeof(*o->loose));
    }
    next->id_base = ID_RECOVERY;
}

static CO_FN char *recovery_co_check(struct oracle *next)
{
    g_autofree uint64_t *ids = g_new0(uint64_t, windows_slots(next->config));
    uint64_t grains = 0;
    char *bad;

    for (unsigned i = 0; i < next->n_ops; i++) {
        next->ops[i].promised = true; /* it was closed in order */
    }
    next->at = UINT64_MAX;
    bad = image_co_look(false, ids, &grains);
    return bad ? bad : ids_compare(next, ids, grains);
}

static CO_FN char *recovery_co_run(struct oracle *next)
{
    g_autoptr(GError) err = NULL;
    struct node *n;
    char *bad;

    if (world_co_open(true, &n, &err) < 0) {
        return g_strdup_printf("open: %s", err->message);
    }
    if (next->repaired) {
        next->repaired = sim_mark(world.sim, "repaired", 0);
    }
    bad = world_co_recover(n, next);
    node_co_unref(n);
    return bad;
}

static CO_FN char *state_co_go_on(struct state *st, const uint64_t *ids,
                                  uint64_t grains)
{
    static const struct limits again = { .per_instant = 4,
                                         .random = 2,
                                         .instants = 6 };
    bool twice = st->hash / EVERY_DEEP % EVERY_TWICE == 0;
    struct history h;
    struct oracle next;
    char *bad;

    tally.deep++;
    cover(COVER_GO_ON);
    sim_restore(world.sim, st->img);
    oracle_after(&next, st->o, ids, grains);
    sim_log_reset(world.sim, twice);
    bad = recovery_co_run(&next);
    oracle_index(&next);
    if (twice) {
        history_take(&h, world.sim, sim_image_copy(st->img), st->o->config);
        sim_log_reset(world.sim, false);
    }
    if (!bad && !world.moved) {
        sim_image_link(sim_live(world.sim), "/base", 0);
        sim_image_link(sim_live(world.sim), "/mid", 0);
        bad = recovery_co_check(&next);
    }
    if (twice && !bad) {
        g_autoptr(GRand) rnd = g_rand_new_with_seed((guint32)st->hash);

        tally.twice++;
        cover(COVER_TWICE);
        bad = states_co_try(&h, &next, &again, rnd, 1);
    }
    if (twice) {
        history_done(&h);
    }
    oracle_done(&next);
    return bad ? g_strdup_printf("going on after the crash: %s", bad) : NULL;
}

/* --- all of it --- */

/* A file that begins with the magic must be a whole image. */
static bool is_whole(const struct state *st)
{
    const struct crash_format *f = st->o->config->format;

    return f->is_whole && f->is_whole(st->img);
}

/* Before its repair has ended an image may be looked at by a repair only. */
static CO_FN char *state_co_look(const struct state *st, uint64_t *ids,
                                 uint64_t *ret_grains)
{
    bool broken = st->at < st->o->repaired;
    char *bad = image_co_look(broken, ids, ret_grains);

    if (!bad) {
        bad = ids_compare(st->o, ids, *ret_grains);
    }
    return bad ? bad : bitmap_check(st, ids, *ret_grains);
}

static CO_FN char *state_co_look_again(const struct state *st,
                                       const uint64_t *ids, uint64_t grains)
{
    unsigned slots = windows_slots(st->o->config);
    g_autofree uint64_t *again = g_new0(uint64_t, slots);
    uint64_t grains_again = 0;
    char *bad = image_co_look(true, again, &grains_again);

    if (!bad &&
        (grains != grains_again || memcmp(ids, again, slots * sizeof(*ids)))) {
        bad = g_strdup("a writable open changed what is read");
    }
    return bad;
}

static char *state_look_outside(const struct state *st, const uint64_t *ids,
                                uint64_t grains)
{
    char *bad = NULL;

    if (!verify_outside || st->o->config->format->is_raw ||
        st->o->config->format == &format_cow || st->at < st->o->repaired ||
        world.moved || world.over) {
        return NULL;
    }
    if (st->hash % EVERY_OUTSIDE == 0) {
        bad = outside_check(st);
    }
    if (!bad && st->hash % EVERY_COMPARED == 0) {
        bad = outside_compare(st, ids, grains);
    }
    return bad;
}

char *state_co_verify(struct state *st, unsigned depth)
{
    unsigned slots = windows_slots(st->o->config);
    g_autofree uint64_t *ids = g_new0(uint64_t, slots);
    uint64_t grains = 0;
    char *bad;

    sim_restore(world.sim, st->img);
    sim_reseed(world.sim, st->hash);
    far_reset(st->hash);
    world.moved = st->o->moved && st->o->moved <= st->at;
    world.over = st->o->over && st->o->over <= st->at;
    if (st->o->config->co_verify) {
        return st->o->config->co_verify(st);
    }
    bad = state_co_look(st, ids, &grains);
    if (bad && st->at < st->o->created && !is_whole(st)) {
        g_free(bad); /* not made yet, and it says so */
        return NULL;
    }
    if (!bad) {
        bad = state_co_look_again(st, ids, grains);
    }
    if (!bad && depth == 0 && st->hash % EVERY_DEEP == 0) {
        bad = state_co_go_on(st, ids, grains);
    }
    if (!bad && depth == 0) {
        bad = state_look_outside(st, ids, grains);
    }
    return bad;
}

/* --- the story --- */

static const char *const class_names[] = { "data", "header",   "L1",
                                           "L2",   "refcount", "name" };
static const char *const choice_names[] = {
    "lost",     "there",    "only its size", "one sector", "all but a sector",
    "its head", "its tail", "random sectors"
};

char *state_story(const struct state *st, const char *bad)
{
    GString *s = g_string_new(NULL);

    g_string_append_printf(s,
                           "%s\ncrash at instant %" PRIu64 " of %" PRIu64
                           ", state: %s, hash %016" PRIx64 "\n",
                           bad, st->at, st->h->last, st->how, st->hash);
    for (unsigned i = 0; i < st->o->n_ops; i++) {
        g_autofree char *line = op_describe(&st->o->ops[i], i);

        g_string_append_printf(s, "  %s\n", line);
    }
    for (unsigned i = 0, k = 0; i < st->h->n; i++) {
        const struct rec *rec = &st->h->recs[i];
        bool open = k < st->n && st->open[k] == i;

        if (rec->r.submitted > st->at) {
            continue;
        }
        g_string_append_printf(
            s,
            "  %5" PRIu64 "-%-5" PRIu64 " %-9s %s %-6s "
            "%#" PRIx64 "+%#" PRIx64 " %s",
            rec->r.submitted, rec->r.completed, sim_op_name(rec->r.op),
            rec->r.path, class_names[rec->cls], rec->r.off, rec->r.len,
            open ? choice_names[st->choices[k].kind] : "durable");
        if (open && st->choices[k].kind >= KEEP_ONE) {
            g_string_append_printf(s, " %" PRIu64, st->choices[k].arg);
        }
        g_string_append_c(s, '\n');
        k += open;
    }
    return g_string_free(s, FALSE);
}
