/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check of what the header leads to beside the disk: the snapshot table,
 * the bitmap directory, the list of extensions.
 *
 * What makes no sense of them is left out of new ones.  Those are written
 * behind all that is there and counted; once all is durable one write of the
 * header leads to them.  So a crash shows the old list, damaged as it was, or
 * the new one with its refcounts.
 *
 * As long as a list is damaged nobody knows all that refers to clusters:
 * without its repair refcounts are not looked at.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/meta/meta.h"
#include "loop/io.h"

/* The clusters of a list; a list that passes the end of the file is damaged,
 * which was reported already. */
static int count_list(struct qcow2_check *c, uint64_t host, uint64_t len)
{
    int ret = qcow2_check_count(c, host, len);

    return ret == -ERANGE ? 0 : ret;
}

/* A list has a flaw. True when a new one is to be written without it. */
static bool PRINTF_LIKE(3, 4)
    list_bad(struct qcow2_check *c, bool grave, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;
    bool fix;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fix = qcow2_check_bad(c, "%s", text);
    c->n_flaws += fix;
    c->unknown = c->unknown || (grave && !fix);
    return fix;
}

static GPtrArray *qcow2_check_lists_list_copy(const GPtrArray *list)
{
    GPtrArray *copy = g_ptr_array_new();

    for (guint i = 0; i < list->len; i++) {
        g_ptr_array_add(copy, g_ptr_array_index(list, i));
    }
    return copy;
}

/* --- snapshots --- */

static void snapshot_tell(void *arg, bool grave, const char *text)
{
    struct qcow2_check *c = arg;

    if (list_bad(c, grave, "%s", text)) {
        c->new_snapshots = true;
    }
}

static void qcow2_check_lists_free_snapshot(gpointer s)
{
    qcow2_snapshot_free(s);
}

/* Say again what was wrong with the table when it was loaded. */
static CO_FN int snapshots_co_tell(struct qcow2_check *c)
{
    g_autoptr(GPtrArray)
        list = g_ptr_array_new_with_free_func(qcow2_check_lists_free_snapshot);
    uint64_t bytes;
    int ret = qcow2_co_snapshots_read(c->img, list, &bytes, snapshot_tell, c);

    if (ret < 0 && ret != -ENOMEM) {
        c->res->check_errors++;
        qcow2_check_report(c, "ERROR: the snapshot table cannot be read: %s",
                           g_strerror(-ret));
        ret = 0;
    }
    return ret;
}

static CO_FN int qcow2_snapshots_co_check(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    int ret = 0;

    c->snapshots = qcow2_check_lists_list_copy(img->snapshots->list);
    if (img->snapshots->flawed) {
        ret = snapshots_co_tell(c);
    }
    if (ret == 0 && !c->new_snapshots) {
        ret = count_list(c, img->hdr.snapshots_offset, img->snapshots->bytes);
    }
    return ret;
}

/* There will be a new table: the clusters of the old one were counted. */
static void snapshots_uncount(struct qcow2_check *c)
{
    uint64_t host = c->img->hdr.snapshots_offset;
    uint64_t len = c->img->snapshots->bytes;
    unsigned bits = c->img->cluster_bits;

    if (len) {
        qcow2_counts_remove(c->counts, host >> bits,
                            ((host + len - 1) >> bits) - (host >> bits) + 1);
    }
}

void qcow2_check_drop_snapshot(struct qcow2_check *c, struct qcow2_snapshot *s)
{
    bool was_new = c->new_snapshots;

    if (list_bad(c, true,
                 "snapshot '%s' has its L1 table at offset %" PRIu64
                 ", where something else is; the snapshot cannot be used",
                 *s->name ? s->name : s->id, s->l1_offset)) {
        c->new_snapshots = true;
        g_ptr_array_remove(c->snapshots, s);
        if (!was_new) {
            snapshots_uncount(c);
        }
    }
}

static CO_FN int snapshots_co_store(struct qcow2_check *c)
{
    uint8_t *table;
    int ret;

    c->snapshots_offset = c->snapshots_bytes = 0;
    if (c->snapshots->len == 0) {
        return 0;
    }
    table = qcow2_snapshots_encode(c->snapshots, &c->snapshots_bytes);
    if (!table) {
        return -ENOMEM;
    }
    ret = qcow2_co_check_append(c, table, c->snapshots_bytes,
                                &c->snapshots_offset);
    g_free(table);
    return ret;
}

/* The header leads to the new table. */
static void snapshots_take(struct qcow2_check *c)
{
    struct qcow2_snapshots *ss = c->img->snapshots;

    for (guint i = ss->list->len; i-- > 0;) {
        if (!g_ptr_array_find(c->snapshots, g_ptr_array_index(ss->list, i),
                              NULL)) {
            g_ptr_array_remove_index(ss->list, i);
        }
    }
    ss->bytes = c->snapshots_bytes;
    ss->flawed = false;
    g_clear_pointer(&ss->damage, g_free);
}

/* --- bitmaps --- */

static void bitmap_tell(void *arg, bool grave, const char *text)
{
    struct qcow2_check *c = arg;

    if (list_bad(c, grave, "%s", text)) {
        c->new_bitmaps = true;
    }
}

static void qcow2_check_lists_free_bitmap(gpointer b)
{
    qcow2_bitmap_free(b);
}

static CO_FN int bitmaps_co_tell(struct qcow2_check *c)
{
    g_autoptr(GPtrArray)
        list = g_ptr_array_new_with_free_func(qcow2_check_lists_free_bitmap);
    struct qcow2_bitmap_dir dir;
    int ret = qcow2_co_bitmaps_read(c->img, list, &dir, bitmap_tell, c);

    if (ret < 0 && ret != -ENOMEM) {
        c->res->check_errors++;
        qcow2_check_report(c,
                           "ERROR: the bitmap directory cannot be read: "
                           "%s",
                           g_strerror(-ret));
        ret = 0;
    }
    return ret;
}

/* Tables are read; the bits themselves, cluster by cluster, are not. */
static int bitmap_spend(struct qcow2_check *c, uint64_t len)
{
    return qcow2_check_spend(
        c, "bitmaps",
        len > qcow2_cluster_size(c->img) ? ROOT_WEIGHT * len : len);
}

/* Is all that @table of @b leads to, and itself, inside the file? */
static bool bitmap_is_inside(const struct qcow2_check *c,
                             const struct qcow2_bitmap *b,
                             const uint64_t *table)
{
    uint64_t end = c->file_clusters << c->img->cluster_bits;

    for (uint32_t i = 0; i < b->table_size; i++) {
        if ((table[i] & QCOW2_BITMAP_OFFSET) >= end) {
            return false;
        }
    }
    return range_inside(b->table_offset, (uint64_t)b->table_size * 8, end);
}

static int bitmap_count(struct qcow2_check *c, const struct qcow2_bitmap *b,
                        const uint64_t *table)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    int ret = qcow2_check_count(c, b->table_offset,
                                (uint64_t)b->table_size * 8);

    for (uint32_t i = 0; i < b->table_size && ret == 0; i++) {
        if (table[i] & QCOW2_BITMAP_OFFSET) {
            ret = bitmap_spend(c, cluster);
            ret = ret < 0 ? ret
                          : qcow2_check_count(c, table[i] & QCOW2_BITMAP_OFFSET,
                                              cluster);
        }
    }
    return ret;
}

static CO_FN int bitmap_co_check(struct qcow2_check *c, struct qcow2_bitmap *b)
{
    uint64_t *table;
    int ret = bitmap_spend(c, (uint64_t)b->table_size * 8);

    if (ret < 0) {
        return ret;
    }
    co_relax();
    ret = qcow2_co_bitmap_table(c->img, b, &table, NULL);
    if (ret == -ENOMEM) {
        return ret;
    }
    if (ret < 0 && ret != -EINVAL) {
        c->res->check_errors++;
        qcow2_check_report(c,
                           "ERROR: the table of bitmap '%s' cannot be "
                           "read: %s",
                           b->name, g_strerror(-ret));
        return 0;
    }
    if (ret < 0 || !bitmap_is_inside(c, b, table)) {
        if (list_bad(c, true,
                     "the table of bitmap '%s' at offset %" PRIu64
                     " leads to no clusters of this file; the bitmap cannot "
                     "be used",
                     b->name, b->table_offset)) {
            c->new_bitmaps = true;
            g_ptr_array_remove(c->bitmaps, b);
        }
    }
    if (ret == 0) {
        ret = bitmap_is_inside(c, b, table) ? bitmap_count(c, b, table) : 0;
        g_free(table);
    }
    return ret == -EINVAL ? 0 : ret;
}

static CO_FN int bitmaps_co_check(struct qcow2_check *c)
{
    const struct qcow2_bitmaps *bs = c->img->bitmaps;
    int ret = 0;

    c->bitmaps = qcow2_check_lists_list_copy(bs->list);
    if (bs->damage) {
        ret = bitmaps_co_tell(c);
    }
    for (guint i = 0; i < bs->list->len && ret == 0; i++) {
        ret = bitmap_co_check(c, g_ptr_array_index(bs->list, i));
    }
    if (ret == 0 && !c->new_bitmaps) {
        ret = count_list(c, bs->dir_offset, bs->dir_bytes);
    }
    return ret;
}

static CO_FN int bitmaps_co_store(struct qcow2_check *c)
{
    uint8_t *dir;
    int ret;

    c->dir = (struct qcow2_bitmap_dir) { 0, 0 };
    if (c->bitmaps->len == 0) {
        return 0;
    }
    dir = qcow2_bitmaps_encode(c->bitmaps, &c->dir.bytes);
    ret = qcow2_co_check_append(c, dir, c->dir.bytes, &c->dir.offset);
    g_free(dir);
    return ret;
}

static void bitmaps_take(struct qcow2_check *c)
{
    struct qcow2_bitmaps *bs = c->img->bitmaps;

    qcow2_bitmaps_replace(bs, c->bitmaps);
    bs->dir_offset = c->dir.offset;
    bs->dir_bytes = c->dir.bytes;
    g_clear_pointer(&bs->damage, g_free);
}

/* --- extensions --- */

static void exts_check(struct qcow2_check *c)
{
    const struct qcow2_ext *e = qcow2_exts_doubled(c->img->exts);
    bool hold = c->hold;

    if (!e) {
        return;
    }
    c->hold = hold || !qcow2_exts_fit_whole(c->img, c->img->exts);
    if (list_bad(c, false,
                 "header extension 0x%08" PRIx32 " is there more "
                 "than once",
                 e->type)) {
        c->new_exts = true;
    }
    c->hold = hold;
}

/* --- all --- */

int qcow2_co_check_lists(struct qcow2_check *c)
{
    int ret;

    qcow2_check_lists_reset(c);
    exts_check(c);
    ret = qcow2_snapshots_co_check(c);
    return ret < 0 ? ret : bitmaps_co_check(c);
}

int qcow2_co_check_lists_store(struct qcow2_check *c)
{
    int ret = c->new_snapshots ? snapshots_co_store(c) : 0;

    return ret < 0 || !c->new_bitmaps ? ret : bitmaps_co_store(c);
}

int qcow2_co_check_lists_switch(struct qcow2_check *c)
{
    struct qcow2_header h = c->img->hdr;
    GArray *exts;
    int ret;

    if (!c->new_snapshots && !c->new_bitmaps && !c->new_exts) {
        return 0;
    }
    exts = qcow2_exts_copy(c->img->exts);
    if (c->new_snapshots) {
        h.n_snapshots = c->snapshots->len;
        h.snapshots_offset = c->snapshots_offset;
    }
    if (c->new_bitmaps) {
        h.autoclear &= ~QCOW2_A_BITMAPS;
        h.autoclear |= c->bitmaps->len ? QCOW2_A_BITMAPS : 0;
        qcow2_bitmaps_set_ext(exts, c->bitmaps->len, c->dir.offset,
                              c->dir.bytes);
    }
    ret = c->new_bitmaps || c->new_exts
              ? qcow2_co_write_exts_apart(c->img, &h, exts)
              : qcow2_co_write_header(c->img, &h);
    g_array_unref(exts);
    if (ret == 0) {
        ret = BARRIER(QCOW2_REPAIR,
                      node_co_sync(c->img->node, qcow2_file(c->img)));
    }
    if (ret == 0 && c->new_snapshots) {
        snapshots_take(c);
    }
    if (ret == 0 && c->new_bitmaps) {
        bitmaps_take(c);
    }
    return ret;
}

void qcow2_check_lists_give_up(struct qcow2_check *c)
{
    c->res->corruptions += c->n_flaws;
    c->res->corruptions_fixed -= c->n_flaws;
    c->n_flaws = 0;
    c->new_snapshots = c->new_bitmaps = c->new_exts = false;
}

void qcow2_check_lists_reset(struct qcow2_check *c)
{
    g_clear_pointer(&c->snapshots, g_ptr_array_unref);
    g_clear_pointer(&c->bitmaps, g_ptr_array_unref);
    c->new_snapshots = c->new_bitmaps = c->new_exts = false;
    c->unknown = false;
    c->n_flaws = 0;
}
