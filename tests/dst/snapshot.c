/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Internal snapshots of the top image.  What one holds is decided at some
 * instant between its command and the answer; from the answer on it is there,
 * whatever happens, until the command to delete it.  It shows the image over the
 * base that the header names at any time: when the disk needs none any more, the
 * snapshot needs none.
 */
#include <inttypes.h>
#include <string.h>
#include "control/control-int.h"
#include "dst.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"

enum { MOST = 6 };

struct snapshot {
    unsigned refs;
    char *name;
    uint64_t size;
    struct model_cut *shows;
};

struct snapshot *snapshot_ref(struct snapshot *s)
{
    s->refs++;
    return s;
}

void snapshot_unref(struct snapshot *s)
{
    if (--s->refs == 0) {
        g_free(s->name);
        model_cut_free(s->shows);
        g_free(s);
    }
}

GPtrArray *snapshots_copy(struct world *w)
{
    GPtrArray *copy = g_ptr_array_new_with_free_func(
        (GDestroyNotify)snapshot_unref);

    for (guint i = 0; i < w->snapshots->len; i++) {
        g_ptr_array_add(copy, snapshot_ref(w->snapshots->pdata[i]));
    }
    return copy;
}

static struct node *top_node(struct world *w)
{
    struct device *dev = device_find(w->control->graph, "drive0");

    return dev ? node_skip_filters(backend_node(dev->backend))
               : node_find(w->control->graph, "top", NULL);
}

/* By whichever name the disk has: both must lead to the image. */
static const char *pick_name(struct world *w)
{
    return w->cfg.is_drive ? w->root : "top";
}

static CO_FN void make_co(struct world *w)
{
    uint64_t since = model_now(w->model);
    g_autofree char *name = g_strdup_printf("s%" PRIu64, world_new_id(w));
    json_t *answer = manager_co_command(
        w, "blockdev-snapshot-internal-sync",
        json_pack("{s:s,s:s}", "device", pick_name(w), "name", name));
    struct node *top = top_node(w);

    if (json_object_get(answer, "return")) {
        struct snapshot *s = g_new0(struct snapshot, 1);

        s->refs = 1;
        s->name = g_strdup(name);
        s->size = top->size;
        s->shows = model_view_new(w->model, since);
        g_ptr_array_add(w->snapshots, s);
    }
    json_decref(answer);
}

static CO_FN void delete_co(struct world *w)
{
    guint at = rng_below(&w->rng, w->snapshots->len);
    struct snapshot *s = snapshot_ref(w->snapshots->pdata[at]);
    json_t *answer, *error;

    g_ptr_array_remove_index(w->snapshots, at);
    answer = manager_co_command(
        w, "blockdev-snapshot-delete-internal-sync",
        json_pack("{s:s,s:s}", "device", pick_name(w), "name", s->name));
    error = json_object_get(answer, "error");
    /* Refused before it was begun: it must still be there. */
    if (error &&
        strstr(json_string_value(json_object_get(error, "desc")), "busy")) {
        g_ptr_array_add(w->snapshots, snapshot_ref(s));
    } else if (error &&
               strstr(json_string_value(json_object_get(error, "desc")),
                      "does not exist")) {
        fail(w, "snapshot %s is gone", s->name);
    }
    json_decref(answer);
    snapshot_unref(s);
}

void snapshots_co_ask(struct world *w)
{
    bool full = w->snapshots->len >= MOST;

    if (w->snapshots->len > 0 && (full || rng_percent(&w->rng, 35))) {
        delete_co(w);
    } else {
        make_co(w);
    }
}

/* --- what they hold --- */

static CO_FN struct node *snapshot_co_open(struct world *w, struct graph *g,
                                           const struct snapshot *s,
                                           const char *what)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", "qcow2", "file",
                          "driver", "file", "filename", "/top.img");
    g_autoptr(GError) err = NULL;
    struct node *n;

    if (node_co_open(g, o, 0, &n, &err) < 0) {
        fail(w, "%s: opening for snapshot %s: %s", what, s->name, err->message);
    }
    json_decref(o);
    if (node_co_snapshot(n, SNAPSHOT_LOAD, s->name, &err) < 0) {
        fail(w, "%s: snapshot %s: %s", what, s->name, err->message);
    }
    return n;
}

static CO_FN void snapshot_co_verify(struct world *w, struct graph *g,
                                     const struct snapshot *s, const char *what)
{
    struct node *n = snapshot_co_open(w, g, s, what);
    uint64_t sectors = MIN(model_cut_sectors(s->shows), n->size / SECTOR);
    g_autofree uint8_t *all = g_malloc0(sectors * SECTOR);
    struct iovec v;
    int r = node_co_preadv(n, 0, iov_one(&v, all, sectors * SECTOR), 0);

    if (r < 0) {
        fail(w, "%s: reading snapshot %s: %s", what, s->name, g_strerror(-r));
    }
    if (n->size != s->size) {
        fail(w, "%s: snapshot %s has %" PRIu64 " bytes, not %" PRIu64, what,
             s->name, n->size, s->size);
    }
    for (uint64_t i = 0; i < sectors; i++) {
        g_autofree char *why = NULL;

        if (!model_cut_check(s->shows, i, all + i * SECTOR, &why)) {
            fail(w, "%s: snapshot %s: %s", what, s->name, why);
        }
    }
    node_co_unref(n);
}

void snapshots_co_verify(struct world *w, struct graph *g,
                         const GPtrArray *snapshots, const char *what)
{
    for (guint i = 0; i < snapshots->len; i++) {
        snapshot_co_verify(w, g, snapshots->pdata[i], what);
    }
}
