/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mirrors, commits and backups of the disk.  A backup holds what the disk was at
 * some instant of its command; a mirror that ends without taking the disk's place
 * what it was at some instant between the command to end it and the event.  After
 * the others the disk goes on, on another image perhaps: guests see, and so do
 * power cuts, of which power.c is told the image (copies_disk()).
 */
#include <inttypes.h>
#include <string.h>
#include "control/control-int.h"
#include "dst.h"
#include "graph/image.h"
#include "graph/node.h"

enum copy_kind { MIRROR, BACKUP, COMMIT, ACTIVE };

struct copy {
    char id[8], target[8], path[16];
    enum copy_kind kind;
    struct model_cut *shows; /* of a backup */
    uint64_t asked_to_stay;  /* instant, 0: never */
    bool ready, ended;
};

static const char *pick(struct rng *r, const char *const *names, size_t n)
{
    return names[rng_below(r, n)];
}
#define PICK(r, names) pick(r, names, G_N_ELEMENTS(names))

static const char *const policies[] = { "report", "stop", "ignore", "enospc" };

static void copy_free(void *p)
{
    struct copy *c = p;

    if (c->shows) {
        model_cut_free(c->shows);
    }
    g_free(c);
}

GPtrArray *copies_new(void)
{
    return g_ptr_array_new_with_free_func(copy_free);
}

struct node *copies_disk(struct world *w)
{
    struct graph *g = w->control->graph;
    struct device *dev = device_find(g, "drive0");
    struct node *n = dev           ? backend_node(dev->backend)
                     : w->cfg.view ? node_find(g, "top", NULL)
                                   : node_find(g, w->root, NULL);

    return n ? node_skip_filters(n) : NULL;
}

bool copies_moved(struct world *w)
{
    struct node *n = copies_disk(w);

    /* An overlay that is complete is still the disk. */
    return n && !g_str_has_prefix(node_filename(n), "/top.img");
}

/* --- what they hold --- */

static void copy_check(struct world *w, const struct copy *c,
                       const struct model_cut *shows)
{
    const struct sim_image *img = sim_live(w->sim);
    uint64_t id = sim_image_find(img, c->path);
    uint64_t sectors = MIN(model_cut_sectors(shows),
                           sim_image_size(img, id) / SECTOR);
    uint8_t data[SECTOR];

    for (uint64_t i = 0; i < sectors; i++) {
        g_autofree char *why = NULL;

        sim_image_read(img, id, i * SECTOR, data, SECTOR);
        if (!model_cut_check(shows, i, data, &why)) {
            fail(w, "%s is no copy: %s", c->id, why);
        }
    }
    story(w, "%s is a copy", c->id);
}

static void mirror_check(struct world *w, const struct copy *c)
{
    struct node *disk = copies_disk(w);
    struct model_cut *shows;

    if (g_strcmp0(node_filename(disk), c->path) == 0) {
        story(w, "the disk is %s now", c->path);
        return;
    }
    if (!c->asked_to_stay) {
        fail(w, "%s has ended and is not the disk", c->id);
    }
    shows = model_view_new(w->model, c->asked_to_stay);
    copy_check(w, c, shows);
    model_cut_free(shows);
}

static struct copy *copy_find(struct world *w, const char *id)
{
    for (guint i = 0; i < w->copies->len; i++) {
        struct copy *c = w->copies->pdata[i];

        if (!g_strcmp0(c->id, id)) {
            return c;
        }
    }
    return NULL;
}

void copies_ended(struct world *w, const char *id, bool ok)
{
    struct copy *c = copy_find(w, id);

    if (!c) {
        return;
    }
    c->ended = true;
    if (ok && c->kind == MIRROR) {
        mirror_check(w, c);
    } else if (ok && c->kind == BACKUP) {
        copy_check(w, c, c->shows);
    }
}

void copies_ready(struct world *w, const char *id)
{
    struct copy *c = copy_find(w, id);

    if (c) {
        c->ready = true;
    }
}

/* --- what the manager asks --- */

static CO_FN bool ask_co(struct world *w, const char *name, json_t *args)
{
    json_t *answer = manager_co_command(w, name, args);
    bool ok = json_object_get(answer, "return") != NULL;

    json_decref(answer);
    return ok;
}

static CO_FN bool target_co_add(struct world *w, const struct copy *c)
{
    return ask_co(w, "blockdev-add",
                  json_pack("{s:s,s:s,s:s,s:{s:s,s:s,s:s}}", "driver", "raw",
                            "node-name", c->target, "discard", "unmap", "file",
                            "driver", "file", "filename", c->path, "discard",
                            "unmap"));
}

/* What the commands have in common. */
static json_t *copy_args(struct world *w, const struct copy *c)
{
    struct rng *r = &w->rng;
    json_t *args = json_pack("{s:s,s:s,s:b,s:b}", "job-id", c->id, "device",
                             w->root, "auto-finalize", rng_percent(r, 80),
                             "auto-dismiss", rng_percent(r, 80));

    if (rng_percent(r, 30)) {
        json_object_set_new(args, "speed",
                            json_integer(1 << (19 + rng_below(r, 5))));
    }
    return args;
}

static CO_FN bool mirror_co_start(struct world *w, struct copy *c)
{
    static const char *const modes[] = { "background", "write-blocking" };
    struct rng *r = &w->rng;
    json_t *args = copy_args(w, c);

    json_object_update_new(
        args,
        json_pack("{s:s,s:s,s:s,s:s,s:s}", "target", c->target, "sync", "full",
                  "copy-mode", PICK(r, modes), "on-source-error",
                  PICK(r, policies), "on-target-error", PICK(r, policies)));
    if (rng_percent(r, 40)) {
        json_object_set_new(args, "granularity",
                            json_integer(1 << (9 + rng_below(r, 10))));
    }
    return target_co_add(w, c) && ask_co(w, "blockdev-mirror", args);
}

static CO_FN bool backup_co_start(struct world *w, struct copy *c)
{
    struct rng *r = &w->rng;
    json_t *args = copy_args(w, c);
    bool breaks_copy = rng_percent(r, 60), ok;
    uint64_t since;

    if (rng_percent(r, 30)) {
        json_object_set_new(args, "cbw-timeout", json_integer(1));
    }
    json_object_set_new(
        args, "on-cbw-error",
        json_string(breaks_copy ? "break-snapshot" : "break-guest-write"));
    json_object_update_new(
        args, json_pack("{s:s,s:s,s:s,s:s}", "target", c->target, "sync",
                        "full", "on-source-error", PICK(r, policies),
                        "on-target-error", PICK(r, policies)));
    ok = target_co_add(w, c);
    if (!ok) {
        json_decref(args);
        return false;
    }
    since = model_now(w->model);
    ok = ask_co(w, "blockdev-backup", args);
    w->breaks_guests = w->breaks_guests || (ok && !breaks_copy);
    c->shows = ok ? model_view_new(w->model, since) : NULL;
    return ok;
}

/* The image that a commit of the disk goes to; "base", unless a stream of the
 * middle has taken that away. */
static struct node *lowest(struct world *w)
{
    struct node *n = copies_disk(w);

    while (n && node_backing(n)) {
        n = node_skip_filters(node_backing(n));
    }
    return n;
}

/* A disk that goes on on a larger image becomes larger, as in QEMU; guests here
 * do not expect that.  The base grows when a larger middle is merged into it. */
static bool may_go_on(const struct world *w, const struct node *n)
{
    return n && node_size(n) <= w->cfg.size[L_TOP];
}

static CO_FN bool commit_co_start(struct world *w, struct copy *c)
{
    json_t *args = copy_args(w, c);

    json_object_set_new(args, "on-error", json_string(PICK(&w->rng, policies)));
    if (c->kind == COMMIT) {
        json_object_update_new(args, json_pack("{s:s,s:s}", "top-node", "mid",
                                               "base-node", "base"));
    } else if (w->cfg.has_mid && w->cfg.size[L_MID] <= w->cfg.size[L_TOP] &&
               rng_percent(&w->rng, 50)) {
        json_object_set_new(args, "base-node", json_string("mid"));
    } else if (!may_go_on(w, lowest(w))) {
        json_decref(args);
        return false;
    }
    return ask_co(w, "block-commit", args);
}

static CO_FN void start_co(struct world *w)
{
    struct copy *c = g_new0(struct copy, 1);
    guint i = w->copies->len;
    unsigned dice = rng_below(&w->rng, 100);
    bool ok;

    c->kind = dice < 35                     ? MIRROR
              : dice < 60                   ? BACKUP
              : dice < 80 && w->cfg.has_mid ? COMMIT
                                            : ACTIVE;
    g_snprintf(c->id, sizeof(c->id), "c%u", i);
    g_snprintf(c->target, sizeof(c->target), "cp%u", i);
    g_snprintf(c->path, sizeof(c->path), "/copy%u.img", i);
    g_ptr_array_add(w->copies, c);
    ok = c->kind == MIRROR   ? mirror_co_start(w, c)
         : c->kind == BACKUP ? backup_co_start(w, c)
                             : commit_co_start(w, c);
    w->committed = w->committed || (ok && c->kind >= COMMIT);
    c->ended = c->ended || !ok;
}

static CO_FN void verb_co(struct world *w, struct copy *c)
{
    static const char *const verbs[] = { "block-job-pause", "block-job-resume",
                                         "block-job-resume",
                                         "block-job-complete",
                                         "block-job-complete" };
    struct rng *r = &w->rng;
    unsigned dice = rng_below(r, 100);
    /* Best while guests write. */
    bool end = c->ready && rng_percent(r, 70);

    if (end && dice >= 25) {
        ask_co(w, "block-job-complete", json_pack("{s:s}", "device", c->id));
    } else if (end || dice < 12) {
        bool force = !end && rng_percent(r, 25);

        if (!force && !c->asked_to_stay) {
            c->asked_to_stay = model_now(w->model);
        }
        ask_co(w, "block-job-cancel",
               json_pack("{s:s,s:b}", "device", c->id, "force", force));
    } else if (dice < 35) {
        ask_co(w, "block-job-set-speed",
               json_pack("{s:s,s:i}", "device", c->id, "speed",
                         rng_percent(r, 80) ? 0 : 1 << (17 + rng_below(r, 7))));
    } else if (dice < 42) {
        ask_co(w, "block-job-change",
               json_pack("{s:s,s:s,s:s}", "id", c->id, "type", "mirror",
                         "copy-mode", "write-blocking"));
    } else {
        ask_co(w, PICK(r, verbs), json_pack("{s:s}", "device", c->id));
    }
}

bool copies_run(const struct world *w)
{
    for (guint i = 0; i < w->copies->len; i++) {
        const struct copy *c = w->copies->pdata[i];

        if (!c->ended) {
            return true;
        }
    }
    return false;
}

void copies_co_ask(struct world *w)
{
    g_autoptr(GPtrArray) live = g_ptr_array_new();

    for (guint i = 0; i < w->copies->len; i++) {
        struct copy *c = w->copies->pdata[i];

        if (!c->ended) {
            g_ptr_array_add(live, c);
        }
    }
    if (w->copies->len < COPIES && rng_percent(&w->rng, live->len ? 20 : 80)) {
        start_co(w);
    } else if (live->len) {
        verb_co(w, live->pdata[rng_below(&w->rng, live->len)]);
    }
}
