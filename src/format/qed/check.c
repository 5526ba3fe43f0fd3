/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair.
 *
 * Every table is read once; a cluster must lie inside the file, behind the
 * header, and be referred to once.  Repair clears entries that break this, which
 * makes the guest see what is behind; the report says what that is.  Clusters
 * that nothing refers to are leaks: those at the end of the file are cut off,
 * those inside are harmless and stay (QED has no free list).
 *
 * Passes of the commit group are held off meanwhile.  What a repair changed is
 * durable before clusters are cut off (M3) and before NEED_CHECK is cleared.
 * These two need no flush: leaks and a mark that come back do no harm.
 */
#include <inttypes.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qed/qed.h"
#include "format/qed/usemap.h"

struct check {
    struct qed_image *img;
    unsigned fix;
    struct check_result *res;
    struct qed_usemap *used;
    uint64_t file_size;
    uint64_t last_offset;       /* of the data cluster seen last */
    bool no_memory;
};

static void PRINTF_LIKE(2, 3) qed_report(struct check *c, const char *fmt, ...)
{
    char *line;
    va_list ap;

    if (!c->res->report) {
        return;
    }
    va_start(ap, fmt);
    line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    c->res->report(c->res->report_arg, line);
    g_free(line);
}

static const char *reads_as(const struct check *c)
{
    return c->img->hdr.features & QED_F_BACKING_FILE
        ? "the backing file's content" : "zeroes";
}

/* Take @len bytes at @offset. NULL, or what is wrong with that. */
static const char *mark_used(struct check *c, uint64_t offset, uint64_t len)
{
    const struct qed_image *img = c->img;
    uint64_t bits = img->cluster_bits;
    int ret;

    if (offset & (qed_cluster_size(img) - 1)) {
        return "is not a multiple of the cluster size";
    }
    if (offset < img->header_bytes) {
        return "lies in the header";
    }
    if (!range_inside(offset, len, round_up(c->file_size,
                                            qed_cluster_size(img)))) {
        return "lies past the end of the file";
    }
    ret = qed_usemap_mark(c->used, offset >> bits, len >> bits);
    if (ret == -ENOMEM) {
        c->no_memory = true;
    }
    return ret == -EEXIST ? "is in use already" : NULL;
}

/* Count a bad entry. True when it is to be cleared. */
static bool bad_entry(struct check *c, const char *what, uint64_t where,
                      uint64_t value, const char *why, uint64_t guest,
                      uint64_t guest_len)
{
    bool fix = c->fix & CHECK_FIX_ERRORS;

    if (fix) {
        c->res->corruptions_fixed++;
    } else {
        c->res->corruptions++;
    }
    qed_report(c, "%s: %s entry at offset %" PRIu64 ": 0x%" PRIx64 " %s; guest "
           "range %" PRIu64 "+%" PRIu64 " %s %s", fix ? "Repairing" : "ERROR",
           what, where, value, why, guest, guest_len,
           fix ? "now reads as" : "cannot be read; repair would make it",
           reads_as(c));
    return fix;
}

/* Entries [@first, ...) of a table were changed: write them. */
static CO_FN int entries_co_store(struct check *c, const uint64_t *entries,
                                  uint64_t table, uint32_t first, uint32_t end)
{
    int ret;

    if (first >= end) {
        return 0;
    }
    ret = qed_co_write_entries(c->img, entries, table, first, end);
    if (ret < 0) {
        c->res->check_errors++;
        qed_report(c, "Could not write the table at offset %" PRIu64 ": %s", table,
               g_strerror(-ret));
    }
    return ret;
}

static bool check_data_entry(struct check *c, uint32_t l1_idx, uint32_t i,
                             uint64_t *entries, uint64_t table)
{
    uint64_t cluster = qed_cluster_size(c->img);
    uint64_t value = get_le64(&entries[i]);
    const char *why;

    if (value == QED_ENTRY_NONE || value == QED_ENTRY_ZERO) {
        return false;
    }
    why = mark_used(c, value, cluster);
    if (!why) {
        c->res->allocated_clusters++;
        if (c->last_offset && value != c->last_offset + cluster) {
            c->res->fragmented_clusters++;
        }
        c->last_offset = value;
        return false;
    }
    if (!bad_entry(c, "L2", table + (uint64_t) i * 8, value, why,
                   (((uint64_t) l1_idx << c->img->entry_bits) + i) <<
                   c->img->cluster_bits, cluster)) {
        return false;
    }
    put_le64(&entries[i], QED_ENTRY_NONE);
    return true;
}

/* A hole has no entries; saves reading tables of a sparse file. */
static CO_FN bool qed_check_table_co_is_hole(struct check *c, uint64_t table)
{
    uint64_t len = c->img->table_bytes;
    struct extent ext;

    return node_co_status(qed_file(c->img), table, len, &ext) == 0 &&
        (ext.flags & STATUS_ZERO) && ext.len == len;
}

static CO_FN int qed_table_co_check(struct check *c, uint32_t l1_idx,
                                uint64_t table)
{
    struct qed_image *img = c->img;
    uint32_t first = UINT32_MAX, end = 0;
    struct table *t;
    int ret;

    if (qed_check_table_co_is_hole(c, table)) {
        return 0;
    }
    ret = metadata_cache_co_get(&img->l2, l1_idx, &t);
    if (ret < 0) {
        c->res->check_errors++;
        qed_report(c, "ERROR: L2 table at offset %" PRIu64 " cannot be read: %s",
               table, g_strerror(-ret));
        return ret == -ENOMEM ? ret : 0;
    }
    for (uint32_t i = 0; i < qed_entries(img) && !c->no_memory; i++) {
        if (check_data_entry(c, l1_idx, i, qed_l2_entries(t), table)) {
            first = MIN(first, i);
            end = i + 1;
        }
    }
    ret = entries_co_store(c, qed_l2_entries(t), table, first, end);
    metadata_cache_put(&img->l2, t);
    return c->no_memory ? -ENOMEM : ret;
}

static CO_FN int tables_co_check(struct check *c)
{
    struct qed_image *img = c->img;
    uint64_t at = img->hdr.l1_table_offset;
    uint64_t span = qed_cluster_size(img) << img->entry_bits;
    uint32_t first = UINT32_MAX, end = 0;
    int ret = 0;

    for (uint32_t i = 0; i < qed_entries(img) && ret == 0; i++) {
        uint64_t table = get_le64(&img->l1[i]);
        const char *why;

        if (table == 0) {
            continue;
        }
        why = mark_used(c, table, img->table_bytes);
        if (!why) {
            ret = qed_table_co_check(c, i, table);
        } else if (bad_entry(c, "L1", at + (uint64_t) i * 8, table, why,
                             i * span, span)) {
            put_le64(&img->l1[i], 0);
            first = MIN(first, i);
            end = i + 1;
        }
    }
    return ret < 0 ? ret : entries_co_store(c, img->l1, at, first, end);
}

/* Leaks are known only when every table could be read and believed. */
static bool all_is_known(const struct check *c)
{
    return c->res->corruptions == 0 && c->res->check_errors == 0;
}

static CO_FN int tail_co_cut(struct check *c, uint64_t leaks)
{
    struct qed_image *img = c->img;
    uint64_t cluster = qed_cluster_size(img);
    uint64_t end = qed_usemap_end(c->used) << img->cluster_bits;
    uint64_t tail = round_up(c->file_size, cluster);
    int ret;

    tail = tail > end ? (tail - end) >> img->cluster_bits : 0;
    /* What is being allocated just now is no leak. */
    if (tail == 0 || group_pending(img->group)) {
        c->res->leaks += leaks;
        return 0;
    }
    img->extending = true; /* nor may anything be allocated meanwhile */
    ret = node_co_truncate(qed_file(img), end, NULL);
    if (ret == 0) {
        img->alloc_end = img->file_end = end;
        img->n_gaps = 0;
    }
    img->extending = false;
    co_queue_wake_all(&img->extended);
    if (ret < 0) {
        c->res->leaks += leaks;
        return ret;
    }
    qed_report(c, "Repairing: cut %" PRIu64 " unused clusters off the end of the "
           "file", tail);
    c->res->leaks_fixed += tail;
    c->res->leaks += leaks - tail;
    return 0;
}

static CO_FN int leaks_co_check(struct check *c)
{
    uint64_t bits = c->img->cluster_bits;
    uint64_t total = round_up(c->file_size, UINT64_C(1) << bits) >> bits;
    uint64_t leaks = total - min_u64(total, qed_usemap_count(c->used));

    if ((c->fix & CHECK_FIX_LEAKS) && leaks && all_is_known(c)) {
        return tail_co_cut(c, leaks);
    }
    c->res->leaks += leaks;
    return 0;
}

static CO_FN int image_co_mark_clean(struct check *c)
{
    struct qed_header h = c->img->hdr;

    if (!(h.features & QED_F_NEED_CHECK) || !all_is_known(c)) {
        return 0;
    }
    h.features &= ~QED_F_NEED_CHECK;
    return qed_co_write_header(c->img, &h);
}

static CO_FN int qed_check_co_run(struct check *c)
{
    struct qed_image *img = c->img;
    uint64_t bits = img->cluster_bits;
    int ret;

    qed_usemap_mark(c->used, 0, img->header_bytes >> bits);
    qed_usemap_mark(c->used, img->hdr.l1_table_offset >> bits,
                    img->table_bytes >> bits);
    c->res->total_clusters =
        round_up(img->hdr.image_size, UINT64_C(1) << bits) >> bits;
    ret = tables_co_check(c);
    if (ret == 0 && (c->fix & CHECK_FIX_ERRORS)) {
        ret = BARRIER(REPAIR_ENTRIES, node_co_sync(img->node, qed_file(img)));
    }
    if (ret == 0) {
        ret = leaks_co_check(c);
    }
    if (ret == 0 && (c->fix & CHECK_FIX_ERRORS)) {
        ret = image_co_mark_clean(c);
    }
    return ret;
}

int qed_co_check(struct node *n, unsigned fix, struct check_result *res,
                 GError **err)
{
    struct qed_image *img = qed_image(n);
    struct check c = { .img = img, .fix = fix, .res = res };
    int ret = 0;

    if (fix && !img->group) {
        return err_set(err, EPERM, "Cannot repair a read-only image");
    }
    if (img->group) {
        ret = group_co_flush(img->group);
        if (ret < 0) {
            return err_set_errno(err, -ret, "Could not flush the QED image");
        }
        group_co_lock(img->group);
    }
    c.used = qed_usemap_new();
    c.file_size = qed_file(img)->size;
    img->checking = true;
    ret = qed_check_co_run(&c);
    img->checking = false;
    qed_usemap_free(c.used);
    if (img->group) {
        group_unlock(img->group);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not check the QED image");
    }
    return 0;
}
