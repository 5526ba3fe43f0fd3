/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is asked of a state: it opens, read-only and writable; its check finds no
 * corruption; each sector holds what it may; both opens show the same.  Then,
 * of some, that a guest can go on: writes, a stream to the end, all of it still
 * right after the image was closed and the base is gone; and of some of these
 * that the power may fail once more on the way.
 */
#include "crash.h"
#include <glib/gstdio.h>
#include <inttypes.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"

bool verify_outside;

/* Which states are looked into further, by hash. */
#define EVERY_DEEP    8
#define EVERY_TWICE   10
#define EVERY_OUTSIDE 997

/* Read all windows of @n: an id per slot. Slots past the end: 0. */
static CO_FN char *ids_co_read(struct node *n, uint64_t *ids)
{
    const struct crash_config *c = world.config;
    uint64_t size = n->size / SECTOR;
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        uint64_t end = CLAMP(size, w[i].first, w[i].first + w[i].n);
        uint64_t count = end - w[i].first;
        g_autofree uint8_t *buf = g_malloc(count * SECTOR);
        struct iovec v;
        int ret = node_co_preadv(n, w[i].first * SECTOR,
                                 iov_one(&v, buf, count * SECTOR), 0);

        if (ret < 0) {
            return g_strdup_printf("window %u: read error: %s", i,
                                   g_strerror(-ret));
        }
        for (uint64_t s = 0; s < count; s++) {
            ids[slot_of(c, w[i].first + s)] =
                stamp_get(buf + s * SECTOR, w[i].first + s);
        }
    }
    return NULL;
}

static char *ids_compare(const struct oracle *o, const uint64_t *ids,
                         uint64_t sectors)
{
    struct window w[N_WINDOWS];

    if (!oracle_may_have_size(o, sectors)) {
        return g_strdup_printf("the disk has %" PRIu64 " sectors", sectors);
    }
    for (unsigned i = 0; i < windows_get(o->config, w); i++) {
        for (uint64_t s = w[i].first; s < MIN(w[i].first + w[i].n, sectors);
             s++) {
            unsigned slot = slot_of(o->config, s);

            if (!oracle_may_hold(o, slot, ids[slot])) {
                g_autofree char *want = oracle_describe(o, slot);

                return g_strdup_printf("sector %" PRIu64 " holds %" PRId64
                                       ", may hold: %s", s,
                                       (int64_t) ids[slot], want);
            }
        }
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
                               " check errors", res.corruptions,
                               res.check_errors);
    }
    return NULL;
}

/* Open, check, read, close. @ids is filled. */
static CO_FN char *image_co_look(bool writable, uint64_t *ids,
                                 uint64_t *ret_sectors)
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
    *ret_sectors = n->size / SECTOR;
    node_co_unref(n);
    return bad;
}

/* --- going on after the crash --- */

/* What was read after the crash is what the guest has now. */
static void oracle_after(struct oracle *next, const struct oracle *o,
                         const uint64_t *ids, uint64_t sectors)
{
    oracle_init(next, o->config);
    memcpy(next->init, ids, windows_slots(o->config) * sizeof(*ids));
    next->init_size = sectors;
    next->id_base = ID_RECOVERY;
}

static CO_FN char *recovery_co_check(struct oracle *next)
{
    g_autofree uint64_t *ids = g_new0(uint64_t, windows_slots(next->config));
    uint64_t sectors = 0;
    char *bad;

    for (unsigned i = 0; i < next->n_ops; i++) {
        next->ops[i].promised = true;           /* it was closed in order */
    }
    next->at = UINT64_MAX;
    bad = image_co_look(false, ids, &sectors);
    return bad ? bad : ids_compare(next, ids, sectors);
}

static CO_FN char *recovery_co_run(struct oracle *next)
{
    g_autoptr(GError) err = NULL;
    struct node *n;
    char *bad;

    if (world_co_open(true, &n, &err) < 0) {
        return g_strdup_printf("open: %s", err->message);
    }
    bad = world_co_recover(n, next);
    node_co_unref(n);
    return bad;
}

static CO_FN char *state_co_go_on(struct state *st, const uint64_t *ids,
                                  uint64_t sectors)
{
    static const struct limits again = { .per_instant = 4, .random = 2,
                                         .instants = 6 };
    bool twice = st->hash / EVERY_DEEP % EVERY_TWICE == 0;
    struct history h;
    struct oracle next;
    char *bad;

    tally.deep++;
    sim_restore(world.sim, st->img);
    oracle_after(&next, st->o, ids, sectors);
    sim_log_reset(world.sim, twice);
    bad = recovery_co_run(&next);
    oracle_index(&next);
    if (twice) {
        history_take(&h, world.sim, sim_image_copy(st->img), st->o->config);
        sim_log_reset(world.sim, false);
    }
    if (!bad) {
        sim_image_link(sim_live(world.sim), "/base", 0);
        bad = recovery_co_check(&next);
    }
    if (twice && !bad) {
        g_autoptr(GRand) rnd = g_rand_new_with_seed((guint32) st->hash);

        tally.twice++;
        bad = states_co_try(&h, &next, &again, rnd, 1);
    }
    if (twice) {
        history_done(&h);
    }
    oracle_done(&next);
    return bad ? g_strdup_printf("going on after the crash: %s", bad) : NULL;
}

/* --- qemu-img --- */

static void file_export(const struct sim_image *img, const char *name,
                        const char *dir)
{
    uint64_t id = sim_image_find(img, name);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree uint8_t *buf = NULL;
    uint64_t size = id ? sim_image_size(img, id) : 0;

    if (id) {
        buf = g_malloc(size);
        sim_image_read(img, id, 0, buf, size);
        g_assert_true(g_file_set_contents(path, (char *) buf, (gssize) size,
                                          NULL));
    }
}

/* Corruptions by the peer's count: exit code 2. */
static char *outside_check(const struct state *st)
{
    g_autofree char *dir = g_dir_make_tmp("sluice-crash-XXXXXX", NULL);
    g_autofree char *top = g_build_filename(dir, "top", NULL);
    g_autofree char *line = g_strdup_printf(
        "qemu-img check 'json:{\"driver\":\"qed\",\"backing\":null,\"file\":"
        "{\"driver\":\"file\",\"filename\":\"%s\"}}' 2>&1", top);
    const char *argv[] = { "/bin/sh", "-c", line, NULL };
    g_autofree char *out = NULL;
    char *bad = NULL;
    int status = 0;

    file_export(st->img, "top", dir);
    if (g_spawn_sync(NULL, (char **) (uintptr_t) argv, NULL, G_SPAWN_DEFAULT,
                     NULL, NULL, &out, NULL, &status, NULL)) {
        tally.outside++;
        /* 0: clean, 3: leaks; else corruptions or no image. */
        if (status >> 8 != 0 && status >> 8 != 3) {
            bad = g_strdup_printf("qemu-img check: %s", out);
        }
    }
    g_unlink(top);
    g_rmdir(dir);
    return bad;
}

/* --- all of it --- */

/* A file that begins with the magic must be a whole image. */
static bool is_image(const struct sim_image *img)
{
    uint64_t id = sim_image_find(img, "/top");
    uint8_t head[4];

    if (id) {
        sim_image_read(img, id, 0, head, sizeof(head));
    }
    return id && memcmp(head, "QED", 4) == 0;
}

char *state_co_verify(struct state *st, unsigned depth)
{
    unsigned slots = windows_slots(st->o->config);
    g_autofree uint64_t *ids = g_new0(uint64_t, slots);
    g_autofree uint64_t *again = g_new0(uint64_t, slots);
    uint64_t sectors = 0, sectors_again = 0;
    char *bad;

    sim_restore(world.sim, st->img);
    sim_reseed(world.sim, st->hash);
    bad = image_co_look(false, ids, &sectors);
    if (bad && st->at < st->o->created && !is_image(st->img)) {
        g_free(bad);            /* not made yet, and it says so */
        return NULL;
    }
    if (!bad) {
        bad = ids_compare(st->o, ids, sectors);
    }
    if (!bad) {
        bad = image_co_look(true, again, &sectors_again);
    }
    if (!bad && (sectors != sectors_again ||
                 memcmp(ids, again, slots * sizeof(*ids)))) {
        bad = g_strdup("a writable open changed what is read");
    }
    if (!bad && depth == 0 && st->hash % EVERY_DEEP == 0) {
        bad = state_co_go_on(st, ids, sectors);
    }
    if (!bad && depth == 0 && verify_outside && !st->o->config->raw &&
        st->hash % EVERY_OUTSIDE == 0) {
        bad = outside_check(st);
    }
    return bad;
}

/* --- the story --- */

static const char *const class_names[] = {
    "data", "header", "L1", "L2", "name"
};
static const char *const choice_names[] = {
    "lost", "there", "only its size", "one sector", "all but a sector",
    "its head", "its tail", "random sectors"
};

char *state_story(const struct state *st, const char *bad)
{
    GString *s = g_string_new(NULL);

    g_string_append_printf(s, "%s\ncrash at instant %" PRIu64 " of %" PRIu64
                           ", state: %s, hash %016" PRIx64 "\n", bad, st->at,
                           st->h->last, st->how, st->hash);
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
        g_string_append_printf(s, "  %5" PRIu64 "-%-5" PRIu64 " %-9s %s %-6s "
                               "%#" PRIx64 "+%#" PRIx64 " %s",
                               rec->r.submitted, rec->r.completed,
                               sim_op_name(rec->r.op), rec->r.path,
                               class_names[rec->cls], rec->r.off, rec->r.len,
                               open ? choice_names[st->choices[k].kind]
                               : "durable");
        if (open && st->choices[k].kind >= KEEP_ONE) {
            g_string_append_printf(s, " %" PRIu64, st->choices[k].arg);
        }
        g_string_append_c(s, '\n');
        k += open;
    }
    return g_string_free(s, FALSE);
}
