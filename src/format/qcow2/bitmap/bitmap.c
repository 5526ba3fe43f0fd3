/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Persistent dirty bitmaps while the image is written to: those that record are
 * held in memory from the first change of what the guest sees, and stored when
 * writing ends.  In between the file says that its own are in use, so nobody
 * takes a stale one for true.
 */
#include <errno.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/trace.h"
#include "loop/io.h"

static bool is_stored(const struct qcow2_bitmap *b)
{
    return !b->bits && !(b->flags & QCOW2_BITMAP_IN_USE);
}

/* Read one that is to be held. When it cannot be, or *@cost, of all that are
 * held, becomes too much, it is lost. */
static CO_FN void bitmap_co_hold(struct qcow2_image *img,
                                 struct qcow2_bitmap *b, uint64_t *cost)
{
    uint64_t more = qcow2_bitmap_cost(img, b);
    g_autoptr(GError) err = NULL;

    if (*cost + more > QCOW2_BITMAP_BYTES_MAX) {
        trace_qcow2_bitmap_lost(img->node->name, b->name, "no room");
    } else if (qcow2_co_bitmap_load(img, b, &err) < 0) {
        trace_qcow2_bitmap_lost(img->node->name, b->name, err->message);
    } else {
        *cost += more;
    }
    b->flags |= QCOW2_BITMAP_IN_USE;
}

/* Hold those that record, or @all. Flags that change are to be told. */
static CO_FN void list_co_load(struct qcow2_image *img, bool all)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    uint64_t cost = 0;

    for (guint i = 0; i < bs->list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(bs->list, i);

        cost += b->bits ? qcow2_bitmap_cost(img, b) : 0;
    }
    for (guint i = 0; i < bs->list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(bs->list, i);

        if (is_stored(b) && (all || (b->flags & QCOW2_BITMAP_AUTO))) {
            bitmap_co_hold(img, b, &cost);
            bs->untold = true;
        }
    }
}

/* The directory with its flags, where it stands: a sector of it is old or new,
 * and so is each flag. */
static CO_FN int dir_co_rewrite(struct qcow2_image *img)
{
    const struct qcow2_bitmaps *bs = img->bitmaps;
    g_autofree uint8_t *dir = NULL;
    uint64_t bytes, room;
    uint8_t *buf;
    int ret;

    dir = qcow2_bitmaps_encode(bs->list, &bytes);
    room = round_up(bytes, QCOW2_SECTOR);
    buf = io_buf_get(room);
    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, room);
    memcpy(buf, dir, bytes);
    ret = qcow2_co_write_meta(img, QCOW2_META_BITMAPS, bs->dir_offset, buf,
                              room);
    io_buf_put(buf, room);
    return ret < 0 ? ret
                   : BARRIER(QCOW2_BITMAPS,
                             node_co_sync(img->node, qcow2_file(img)));
}

/* One at a time: the others find it done. */
static CO_FN int list_co_hold(struct qcow2_image *img, bool all)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    int ret = 0;

    co_mutex_co_lock(&bs->hold);
    if (all || !bs->recording || bs->untold) {
        list_co_load(img, all);
        if (bs->untold) { /* by an earlier try, too, that failed */
            ret = dir_co_rewrite(img);
        }
        if (ret == 0) {
            bs->untold = false;
            bs->recording = true;
        }
    }
    co_mutex_unlock(&bs->hold);
    return ret;
}

int qcow2_co_bitmaps_mark(struct qcow2_image *img, uint64_t off, uint64_t len)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    int ret = 0;

    if (bs->list->len == 0) {
        return 0;
    }
    if (!bs->recording || bs->untold) {
        ret = list_co_hold(img, false);
    }
    for (guint i = 0; i < bs->list->len && ret == 0; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(bs->list, i);

        if (b->bits && (b->flags & QCOW2_BITMAP_AUTO)) {
            qcow2_bitmap_set(b, off, len);
        }
    }
    return ret;
}

int qcow2_co_bitmaps_hold(struct qcow2_image *img)
{
    return img->bitmaps->list->len ? list_co_hold(img, true) : 0;
}

void qcow2_bitmaps_changed(struct qcow2_image *img, uint64_t size, uint64_t off,
                           uint64_t len)
{
    const GPtrArray *list = img->bitmaps->list;

    for (guint i = 0; i < list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(list, i);

        if (b->bits && qcow2_bitmap_fit(b, size) < 0) {
            trace_qcow2_bitmap_lost(img->node->name, b->name, "no memory");
            g_clear_pointer(&b->bits, g_free);
        }
        if (b->bits && (b->flags & QCOW2_BITMAP_AUTO)) {
            qcow2_bitmap_set(b, off, len);
        }
    }
}

void qcow2_co_bitmaps_end_writes(struct qcow2_image *img)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    int ret;

    if ((!bs->recording && !bs->untold) || img->corrupt) {
        return;
    }
    /* Bits say what is in the file, not what is about to be. */
    ret = qcow2_co_flush(img->node);
    if (ret == 0) {
        group_co_lock(img->group);
        ret = qcow2_co_bitmaps_store(img, bs->list);
        group_unlock(img->group);
    }
    if (ret < 0) {
        trace_qcow2_bitmap_lost(img->node->name, "all that record",
                                g_strerror(-ret));
    }
}
