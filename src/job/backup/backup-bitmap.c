/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bitmap of a backup.  It marks what it marked before and what changes
 * meanwhile until the end, so a job that is cut off loses nothing; then it
 * becomes what the copy lacks.
 */
#include "base/err.h"
#include "graph/bitmap.h"
#include "job/backup/backup-int.h"
#include "job/trace.h"

static CO_FN int bitmap_co_limit(struct backup *b, GError **err)
{
    struct dirty_map *bits;
    int ret = bitmap_co_read(b->bitmap_node, b->bitmap, &bits, err);

    if (ret == 0) {
        before_set_only(b->before, bits);
        dirty_map_free(bits);
    }
    return ret;
}

CO_FN int backup_bitmap_co_begin(struct backup *b,
                                 const struct backup_params *p, GError **err)
{
    struct bitmap_look look;
    int ret;

    if (!p->bitmap) {
        return 0;
    }
    ret = bitmap_find(p->bitmap_node, p->bitmap,
                      p->bitmap_mode == BACKUP_NEVER ? BITMAP_MAY_BE_READ_ONLY
                                                     : 0,
                      &look, err);
    if (ret < 0) {
        return ret;
    }
    b->bitmap_node = node_ref(p->bitmap_node);
    b->bitmap = g_strdup(p->bitmap);
    b->bitmap_mode = p->bitmap_mode;
    bitmap_hold(b->bitmap_node, b->bitmap);
    if (look.recording) {
        b->record = bitmap_record_begin(b->bitmap_node, look.granularity);
    }
    return p->sync == BACKUP_BITMAP ? bitmap_co_limit(b, err) : 0;
}

/* What the copy lacks: what has changed since, and what was not copied. */
static CO_FN void bitmap_co_become(struct backup *b, struct dirty_map *record)
{
    const struct dirty_map *todo = before_todo(b->before);
    g_autoptr(GError) err = NULL;

    if (record) {
        dirty_map_merge(record, todo);
    }
    if (bitmap_co_assign(b->bitmap_node, b->bitmap, record ? record : todo,
                         &err) < 0) {
        /* It marks more than it had to. */
        trace_backup_bitmap(b->job.id, b->bitmap, err->message);
    }
}

CO_FN void backup_bitmap_co_end(struct backup *b, bool succeeded)
{
    struct dirty_map *record = NULL;

    if (!b->bitmap_node) {
        return;
    }
    bitmap_release(b->bitmap_node, b->bitmap);
    if (b->record) {
        record = bitmap_record_end(b->bitmap_node, b->record);
    }
    if (b->durable && before_error(b->before) == 0 &&
        b->bitmap_mode != BACKUP_NEVER &&
        (succeeded || b->bitmap_mode == BACKUP_ALWAYS)) {
        bitmap_co_become(b, record);
    }
    dirty_map_free(record);
    g_clear_pointer(&b->bitmap, g_free);
    node_co_unref(g_steal_pointer(&b->bitmap_node));
}
