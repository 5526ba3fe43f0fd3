/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest does, and what is done to its disk meanwhile. */
#include "guest.h"
#include <string.h>
#include "format/format.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "job/stream/stream.h"
#include "loop/loop.h"

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

/* Beside all others. */
static CO_FN int guest_co_prepare(struct guest *g)
{
    node_co_snapshot_prepare(node_skip_filters(backend_node(g->u)));
    g->prepared = true;
    return 0;
}

/* Take an internal snapshot, or delete the newest. */
static CO_FN int guest_co_snapshot(struct guest *g, enum snapshot_op what)
{
    g_autofree char *name = g_strdup_printf(
        "s%u", g->n_snapshots - (what == SNAPSHOT_DELETE));
    struct node *n = node_skip_filters(backend_node(g->u));
    int ret = node_co_snapshot(n, what, name, NULL);

    if (what == SNAPSHOT_CREATE) {
        node_co_snapshot_tidy(n);
        if (ret == 0 && g->prepared) {
            cover(COVER_PREPARED);
        }
        g->prepared = false;
    }
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

int guest_co_do(struct guest *g, struct op *op)
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
    case OP_PREPARE: return guest_co_prepare(g);
    case OP_SNAPSHOT: return guest_co_snapshot(g, SNAPSHOT_CREATE);
    case OP_FORGET: return guest_co_snapshot(g, SNAPSHOT_DELETE);
    case OP_RESTORE: return guest_co_restore(g);
    case OP_REPAIR: return guest_co_repair(g);
    case OP_AMEND: return guest_co_amend(g);
    default: return 0;
    }
}
