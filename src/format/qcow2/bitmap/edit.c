/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps added, removed, cleared, enabled, disabled, merged.  Each is a change
 * in memory to a copy of the list, and then one store of all.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/dirty-map.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

struct edit {
    struct qcow2_image *img;
    const char *name;
    const struct bitmap_args *args;
    GPtrArray *list;        /* what there will be; owns nothing */
    struct qcow2_bitmap *b; /* the one; NULL for ADD */
};

/* Have its bits in memory. */
static CO_FN int bitmap_co_need(struct qcow2_image *img, struct qcow2_bitmap *b,
                                GError **err)
{
    if (qcow2_bitmap_is_broken(b)) {
        err_set(err, EINVAL, "Bitmap '%s' is inconsistent and cannot be used",
                b->name);
        err_hint(err, "Remove it, and make a new full backup.");
        return -EINVAL;
    }
    return b->bits ? 0 : qcow2_co_bitmap_load(img, b, err);
}

/* --- add --- */

static uint64_t qcow2_default_granularity(const struct qcow2_image *img)
{
    return CLAMP(qcow2_cluster_size(img), 4096, 65536);
}

static int edit_add(struct edit *e, GError **err)
{
    uint64_t granularity = e->args->granularity
                               ? e->args->granularity
                               : qcow2_default_granularity(e->img);
    struct qcow2_bitmap *b;
    int ret = qcow2_bitmap_check_new(e->img, e->name, granularity, e->list->len,
                                     err);

    if (ret < 0) {
        return ret;
    }
    b = g_new0(struct qcow2_bitmap, 1);
    b->name = g_strdup(e->name);
    b->granularity_bits = (uint8_t)__builtin_ctzll(granularity);
    b->flags = e->args->disabled ? 0 : QCOW2_BITMAP_AUTO;
    if (qcow2_bitmap_fit(b, e->img->node->size) < 0) {
        qcow2_bitmap_free(b);
        return err_set(err, EFBIG,
                       "Can't make bitmap '%s' persistent in '%s': "
                       "Too much space will be occupied by the bitmap. Use "
                       "larger granularity",
                       e->name, node_title(e->img->node));
    }
    e->b = b;
    g_ptr_array_add(e->list, b);
    return 0;
}

/* --- the others --- */

/* Mark what is marked in @bits. */
static void bitmap_take(struct qcow2_bitmap *b, const struct dirty_map *bits)
{
    uint64_t off = 0, len;

    for (; dirty_map_next(bits, off, &off, &len); off += len) {
        qcow2_bitmap_set(b, off, len);
    }
}

static CO_FN int edit_co_take(struct edit *e, bool instead, GError **err)
{
    int ret = bitmap_co_need(e->img, e->b, err);

    g_assert(dirty_map_size(e->args->bits) == e->img->node->size);
    if (ret == 0 && instead) {
        memset(e->b->bits, 0, e->b->n_bytes);
    }
    if (ret == 0) {
        bitmap_take(e->b, e->args->bits);
    }
    return ret;
}

static CO_FN int edit_co_merge(struct edit *e, GError **err)
{
    struct qcow2_image *from = qcow2_image(e->args->from);
    uint64_t size = e->img->node->size;
    struct qcow2_bitmap *src;
    bool loaded;
    int ret;

    if (e->args->from->drv != e->img->node->drv) {
        return err_set(err, EINVAL, "Dirty bitmap '%s' not found",
                       e->args->from_name);
    }
    src = qcow2_bitmap_find(from, e->args->from_name);
    if (!src) {
        return err_set(err, ENOENT, "Dirty bitmap '%s' not found",
                       e->args->from_name);
    }
    if (from->node->size != size) {
        return err_set(err, EINVAL,
                       "Bitmaps are of different sizes "
                       "(destination size is %" PRIu64
                       ", source size is %" PRIu64 ") and can't be merged",
                       size, from->node->size);
    }
    loaded = src->bits;
    ret = bitmap_co_need(from, src, err);
    if (ret == 0) {
        ret = bitmap_co_need(e->img, e->b, err);
    }
    if (ret == 0 && src != e->b) {
        qcow2_bitmap_merge(e->b, src, size);
    }
    if (!loaded && src != e->b) {
        g_clear_pointer(&src->bits, g_free);
    }
    return ret;
}

static CO_FN int edit_co_apply(struct edit *e, enum bitmap_op op, GError **err)
{
    int ret = 0;

    if (op == BITMAP_ADD) {
        return edit_add(e, err);
    }
    if (!e->b) {
        return err_set(err, ENOENT, "Dirty bitmap '%s' not found", e->name);
    }
    if (op == BITMAP_REMOVE) {
        g_ptr_array_remove(e->list, e->b);
        return 0;
    }
    if (op == BITMAP_ASSIGN || (op == BITMAP_MERGE && e->args->bits)) {
        return edit_co_take(e, op == BITMAP_ASSIGN, err);
    }
    if (op == BITMAP_MERGE) {
        return edit_co_merge(e, err);
    }
    ret = bitmap_co_need(e->img, e->b, err);
    if (ret < 0) {
        return ret;
    }
    if (op == BITMAP_CLEAR) {
        memset(e->b->bits, 0, e->b->n_bytes);
    } else if (op == BITMAP_ENABLE) {
        e->b->flags |= QCOW2_BITMAP_AUTO;
    } else {
        e->b->flags &= ~QCOW2_BITMAP_AUTO;
    }
    return 0;
}

/* Bits and flags of @b as they were before the edit. */
struct backup {
    uint8_t *bits;
    uint32_t flags;
};

static void backup_make(struct backup *u, const struct qcow2_bitmap *b)
{
    *u = (struct backup) { 0 };
    if (b) {
        u->flags = b->flags;
        u->bits = b->bits ? g_memdup2(b->bits, b->n_bytes) : NULL;
    }
}

/* Nothing was stored: @e->b is what it was, and a new one goes. */
static void edit_undo(struct edit *e, enum bitmap_op op, struct backup *u)
{
    if (op == BITMAP_ADD) {
        qcow2_bitmap_free(e->b);
    } else if (e->b) {
        g_free(e->b->bits);
        e->b->bits = g_steal_pointer(&u->bits);
        e->b->flags = u->flags;
    }
}

static CO_FN int edit_co_run(struct edit *e, enum bitmap_op op, GError **err)
{
    struct qcow2_image *img = e->img;
    bool is_new = op == BITMAP_ADD && e->b == NULL;
    struct backup undo;
    int ret;

    backup_make(&undo, e->b);
    ret = edit_co_apply(e, op, err);
    if (ret == 0) {
        ret = qcow2_co_bitmaps_commit(img, e->list, err);
    }
    if (img->bitmaps->list != e->list && (op != BITMAP_ADD || is_new)) {
        edit_undo(e, op, &undo);
    }
    g_free(undo.bits);
    if (ret == 0) { /* what was given back; it leaks if that is lost */
        qcow2_co_settle(img);
    }
    return ret;
}

int qcow2_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                    const struct bitmap_args *args, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct edit e = { .img = img, .name = name, .args = args };
    int ret;

    if (op == BITMAP_READ) {
        return qcow2_co_bitmap_read(img, name, args->ret_bits, err);
    }
    if (!img->group || img->corrupt) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    if (op == BITMAP_COPY) {
        return args->from->drv == n->drv
                   ? qcow2_co_bitmaps_copy(img, qcow2_image(args->from), err)
                   : err_set(err, ENOTSUP, "Source lacks bitmap support");
    }
    e.list = qcow2_bitmaps_list_copy(img);
    e.b = qcow2_bitmap_find(img, name);
    ret = edit_co_run(&e, op, err);
    g_ptr_array_unref(e.list);
    return ret;
}
