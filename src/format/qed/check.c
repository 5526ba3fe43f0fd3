/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair.
 *
 * A cluster must lie inside the file, behind the header and beside the L1
 * table, and be referred to once.  L2 tables come first: data that lie where a
 * table is are the second reference to it.
 *
 * A repair never changes what a guest can read.  Data that are referred to
 * twice can be read at both guest offsets: the second one gets a copy at the
 * end of the file.  What cannot be read becomes zeroes, never the content of
 * the backing file, which is older than what was lost.  An L1 entry cannot say
 * "zeroes": over a backing file it gets a table of them.  What a repair appends
 * has a limit, because a small hostile image could fill the file system
 * otherwise; what is beyond the limit stays as it is.
 *
 * First everything is looked at and copied, then the copies are made durable,
 * and only then entries change: a table may be read as data by another entry.
 *
 * Clusters that nothing refers to are leaks: those at the end of the file are
 * cut off, those inside are harmless and stay (QED has no free list).
 *
 * Passes of the commit group are held off meanwhile.  What a repair changed is
 * durable before clusters are cut off (M3) and before NEED_CHECK is cleared.
 * These two need no flush: leaks and a mark that come back do no harm.
 */
#include <inttypes.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/iov.h"
#include "base/math.h"
#include "format/qed/qed.h"
#include "format/qed/usemap.h"
#include "loop/io.h"

/* What one repair appends to the file at most. */
#define APPEND_MAX_BYTES (UINT64_C(1) << 30)

enum {
    COPIES_MAX = 1 << 20, /* entries that one repair gives copies */
};

/* Of an L1 entry. */
enum { L1_SOUND, L1_BAD, L1_STORE /* its table has entries to be repaired */ };

struct check {
    struct qed_image *img;
    unsigned fix;
    struct check_result *res;
    struct qed_usemap *used;
    uint64_t file_size;
    uint64_t end;         /* of the file, with what was appended */
    uint64_t appended;    /* bytes */
    uint64_t last_offset; /* of the table's data cluster seen last */
    bool may_append;      /* nobody else allocates meanwhile */
    uint8_t *l1_state;    /* L1_..., by index */
    GHashTable *l1_new;   /* L1 index -> what the entry shall be */
    GHashTable *l2_new;   /* cluster index -> what the entry shall be */
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

static bool has_backing(const struct check *c)
{
    return c->img->hdr.features & QED_F_BACKING_FILE;
}

static bool fixes_errors(const struct check *c)
{
    return c->fix & CHECK_FIX_ERRORS;
}

/* Why @len bytes at @offset cannot be read as a table or as data, whatever else
 * is there; NULL: they can. */
static const char *place_fault(const struct check *c, uint64_t offset,
                               uint64_t len)
{
    const struct qed_image *img = c->img;

    if (offset & (qed_cluster_size(img) - 1)) {
        return "is not a multiple of the cluster size";
    }
    if (offset < img->header_bytes) {
        return "lies in the header";
    }
    if (!range_inside(offset, len,
                      round_up(c->file_size, qed_cluster_size(img)))) {
        return "lies past the end of the file";
    }
    return ranges_overlap(offset, len, img->hdr.l1_table_offset,
                          img->table_bytes)
               ? "lies in the L1 table"
               : NULL;
}

/* Take @len bytes at @offset. 0; -EEXIST when any are taken; -ENOMEM. */
static int mark_used(struct check *c, uint64_t offset, uint64_t len)
{
    unsigned bits = c->img->cluster_bits;

    return qed_usemap_mark(c->used, offset >> bits, len >> bits);
}

struct bad_entry {
    const char *what;
    uint64_t where, value;
    const char *why;
    uint64_t guest, guest_len;
    bool readable; /* it is data that another entry has, too */
};

/* Count a bad entry, which is @fixed or stays. */
static void bad_entry_note(struct check *c, const struct bad_entry *b,
                           bool fixed)
{
    const char *then = b->readable ? fixed ? "now has a copy of its own"
                                           : "is shared; repair would copy it"
                       : fixed     ? "now reads as zeroes"
                               : "cannot be read; repair would make it zeroes";

    if (fixed) {
        c->res->corruptions_fixed++;
    } else {
        c->res->corruptions++;
    }
    qed_report(c,
               "%s: %s entry at offset %" PRIu64 ": 0x%" PRIx64 " %s; guest "
               "range %" PRIu64 "+%" PRIu64 " %s",
               fixed ? "Repairing" : "ERROR", b->what, b->where, b->value,
               b->why, b->guest, b->guest_len, then);
}

/* --- what a repair appends --- */

static bool can_append(const struct check *c, uint64_t len)
{
    return c->may_append && len <= APPEND_MAX_BYTES - c->appended;
}

/* Write @len bytes, whole clusters, behind all that is there. */
static CO_FN int file_co_append(struct check *c, void *buf, uint64_t len,
                                uint64_t *ret_offset)
{
    struct iovec v;
    int ret = node_co_pwritev(qed_file(c->img), c->end, iov_one(&v, buf, len),
                              0);

    if (ret == 0) {
        ret = mark_used(c, c->end, len);
    }
    if (ret == 0) {
        *ret_offset = c->end;
        c->end += len;
        c->appended += len;
    }
    return ret;
}

/* Replace the entry of cluster @idx, which is @offset: another entry has those
 * data, too. 1: that cannot be done. */
static CO_FN int data_co_copy(struct check *c, uint64_t idx, uint64_t offset)
{
    uint64_t len = qed_cluster_size(c->img), entry = QED_ENTRY_ZERO;
    struct iovec v;
    uint8_t *buf;
    int ret;

    if (!can_append(c, len) || g_hash_table_size(c->l2_new) >= COPIES_MAX) {
        return 1;
    }
    buf = io_buf_get(len);
    if (!buf) {
        return -ENOMEM;
    }
    ret = node_co_preadv(qed_file(c->img), offset, iov_one(&v, buf, len), 0);
    if (ret < 0) {
        c->res->check_errors++;
        qed_report(
            c, "ERROR: the cluster at offset %" PRIu64 " cannot be read: %s",
            offset, g_strerror(-ret));
        ret = 1;
    } else if (!buf_is_zero(buf, len)) {
        ret = file_co_append(c, buf, len, &entry);
    }
    if (ret == 0) {
        g_hash_table_insert(c->l2_new, GSIZE_TO_POINTER((gsize)idx),
                            GSIZE_TO_POINTER((gsize)entry));
    }
    io_buf_put(buf, len);
    return ret;
}

/* Replace L1 entry @i, which leads to no table. 1: that cannot be done. */
static CO_FN int table_co_replace(struct check *c, uint32_t i, uint64_t guest)
{
    uint64_t len = c->img->table_bytes, table = 0;
    uint64_t *entries;
    int ret = 0;

    if (has_backing(c) && guest < c->img->hdr.image_size) {
        if (!can_append(c, len)) {
            return 1;
        }
        entries = io_buf_get(len);
        if (!entries) {
            return -ENOMEM;
        }
        for (uint32_t k = 0; k < qed_entries(c->img); k++) {
            put_le64(&entries[k], QED_ENTRY_ZERO);
        }
        ret = file_co_append(c, entries, len, &table);
        io_buf_put(entries, len);
    }
    if (ret == 0) {
        g_hash_table_insert(c->l1_new, GUINT_TO_POINTER(i),
                            GSIZE_TO_POINTER((gsize)table));
    }
    return ret;
}

/* --- looking --- */

static CO_FN int data_entry_co_check(struct check *c, uint32_t l1_idx,
                                     uint32_t i, uint64_t value, uint64_t table)
{
    uint64_t cluster = qed_cluster_size(c->img);
    uint64_t idx = ((uint64_t)l1_idx << c->img->entry_bits) + i;
    struct bad_entry b = {
        .what = "L2",
        .where = table + (uint64_t)i * 8,
        .value = value,
        .guest = idx << c->img->cluster_bits,
        .guest_len = cluster,
    };
    int ret = 0;

    c->res->allocated_clusters++;
    if (c->last_offset && value != c->last_offset + cluster) {
        c->res->fragmented_clusters++;
    }
    c->last_offset = value;
    b.why = place_fault(c, value, cluster);
    if (!b.why) {
        ret = mark_used(c, value, cluster);
        if (ret != -EEXIST) {
            return ret;
        }
        b.why = "is in use already";
        b.readable = true;
        ret = fixes_errors(c) ? data_co_copy(c, idx, value) : 1;
    }
    if (ret >= 0) {
        bool fixed = fixes_errors(c) && ret == 0;

        bad_entry_note(c, &b, fixed);
        c->l1_state[l1_idx] = fixed ? L1_STORE : c->l1_state[l1_idx];
    }
    return ret < 0 ? ret : 0;
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
    struct table *t;
    int ret;

    if (qed_check_table_co_is_hole(c, table)) {
        return 0;
    }
    ret = metadata_cache_co_get(&img->l2, l1_idx, &t);
    if (ret < 0) {
        c->res->check_errors++;
        qed_report(c,
                   "ERROR: L2 table at offset %" PRIu64 " cannot be read: %s",
                   table, g_strerror(-ret));
        return ret == -ENOMEM ? ret : 0;
    }
    c->last_offset = 0;
    for (uint32_t i = 0; i < qed_entries(img) && ret == 0; i++) {
        uint64_t value = get_le64(&qed_l2_entries(t)[i]);

        if (value != QED_ENTRY_NONE && value != QED_ENTRY_ZERO) {
            ret = data_entry_co_check(c, l1_idx, i, value, table);
        }
    }
    metadata_cache_put(&img->l2, t);
    return ret;
}

/* Of two tables that overlap neither can be read: the first one stays. */
static CO_FN int qed_l1_entry_co_check(struct check *c, uint32_t i,
                                       uint64_t table)
{
    struct qed_image *img = c->img;
    uint64_t span = qed_cluster_size(img) << img->entry_bits;
    struct bad_entry b = {
        .what = "L1",
        .where = img->hdr.l1_table_offset + (uint64_t)i * 8,
        .value = table,
        .guest = i * span,
        .guest_len = span,
    };
    int ret = 0;

    b.why = place_fault(c, table, img->table_bytes);
    if (!b.why) {
        ret = mark_used(c, table, img->table_bytes);
        if (ret != -EEXIST) {
            return ret;
        }
        b.why = "is in use already";
    }
    c->l1_state[i] = L1_BAD;
    ret = fixes_errors(c) ? table_co_replace(c, i, b.guest) : 1;
    if (ret >= 0) {
        bad_entry_note(c, &b, ret == 0);
    }
    return ret < 0 ? ret : 0;
}

static CO_FN int tables_co_check(struct check *c)
{
    struct qed_image *img = c->img;
    int ret = 0;

    for (uint32_t i = 0; i < qed_entries(img) && ret == 0; i++) {
        if (img->l1[i]) {
            ret = qed_l1_entry_co_check(c, i, get_le64(&img->l1[i]));
        }
    }
    for (uint32_t i = 0; i < qed_entries(img) && ret == 0; i++) {
        if (img->l1[i] && c->l1_state[i] != L1_BAD) {
            ret = qed_table_co_check(c, i, get_le64(&img->l1[i]));
        }
    }
    return ret;
}

/* --- repairing --- */

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
        qed_report(c, "Could not write the table at offset %" PRIu64 ": %s",
                   table, g_strerror(-ret));
    }
    return ret;
}

/* What an entry of cluster @idx that is @value shall be. */
static uint64_t entry_repaired(const struct check *c, uint64_t idx,
                               uint64_t value)
{
    gpointer copy;

    if (value == QED_ENTRY_NONE || value == QED_ENTRY_ZERO) {
        return value;
    }
    if (place_fault(c, value, qed_cluster_size(c->img))) {
        return has_backing(c) ? QED_ENTRY_ZERO : QED_ENTRY_NONE;
    }
    copy = g_hash_table_lookup(c->l2_new, GSIZE_TO_POINTER((gsize)idx));
    return copy ? GPOINTER_TO_SIZE(copy) : value;
}

static CO_FN int table_co_repair(struct check *c, uint32_t l1_idx)
{
    struct qed_image *img = c->img;
    uint64_t idx = (uint64_t)l1_idx << img->entry_bits;
    uint32_t first = UINT32_MAX, end = 0;
    struct table *t;
    int ret = metadata_cache_co_get(&img->l2, l1_idx, &t);

    if (ret < 0) {
        return ret;
    }
    for (uint32_t i = 0; i < qed_entries(img); i++) {
        uint64_t value = get_le64(&qed_l2_entries(t)[i]);
        uint64_t to = entry_repaired(c, idx + i, value);

        if (to != value) {
            put_le64(&qed_l2_entries(t)[i], to);
            first = MIN(first, i);
            end = i + 1;
        }
    }
    ret = entries_co_store(c, qed_l2_entries(t), get_le64(&img->l1[l1_idx]),
                           first, end);
    metadata_cache_put(&img->l2, t);
    return ret;
}

static CO_FN int l1_co_repair(struct check *c)
{
    struct qed_image *img = c->img;
    uint32_t first = UINT32_MAX, end = 0;
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, c->l1_new);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        uint32_t i = GPOINTER_TO_UINT(key);

        put_le64(&img->l1[i], GPOINTER_TO_SIZE(value));
        first = MIN(first, i);
        end = MAX(end, i + 1);
    }
    return entries_co_store(c, img->l1, img->hdr.l1_table_offset, first, end);
}

/* What was appended is part of the file. When no entry is bad any more, nothing
 * refers to clusters behind its end. */
static void appended_take(struct check *c)
{
    struct qed_image *img = c->img;
    bool sound = c->res->corruptions == 0 && c->res->check_errors == 0;

    if (c->appended) {
        img->file_end = max_u64(img->file_end, c->end);
        img->alloc_end = sound ? c->end : max_u64(img->alloc_end, c->end);
        img->n_gaps = sound ? 0 : img->n_gaps;
    }
}

static CO_FN int entries_co_repair(struct check *c)
{
    struct qed_image *img = c->img;
    int ret = 0;

    if (c->appended) { /* copies are durable before anything leads to them */
        ret = BARRIER(REPAIR_COPIES, node_co_sync(img->node, qed_file(img)));
    }
    for (uint32_t i = 0; i < qed_entries(img) && ret == 0; i++) {
        if (c->l1_state[i] == L1_STORE) {
            ret = table_co_repair(c, i);
        }
    }
    if (ret == 0) {
        ret = l1_co_repair(c);
    }
    return ret < 0 ? ret
                   : BARRIER(REPAIR_ENTRIES,
                             node_co_sync(img->node, qed_file(img)));
}

/* Nobody else allocates while clusters are appended. */
static CO_FN int references_co_check(struct check *c)
{
    struct qed_image *img = c->img;
    int ret;

    c->may_append = fixes_errors(c) && !group_pending(img->group) &&
                    !img->extending;
    img->extending = img->extending || c->may_append;
    ret = tables_co_check(c);
    if (ret == 0 && fixes_errors(c)) {
        ret = entries_co_repair(c);
    }
    if (c->may_append) {
        appended_take(c);
        c->file_size = max_u64(c->file_size, c->appended ? c->end : 0);
        img->extending = false;
        co_queue_wake_all(&img->extended);
    }
    return ret;
}

/* --- leaks and the mark --- */

/* Leaks are known only when every table could be read and was valid. */
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
    qed_report(c,
               "Repairing: cut %" PRIu64 " unused clusters off the end of the "
               "file",
               tail);
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
    c->res->total_clusters = round_up(img->hdr.image_size, UINT64_C(1)
                                                               << bits) >>
                             bits;
    ret = references_co_check(c);
    if (ret == 0) {
        ret = leaks_co_check(c);
    }
    if (ret == 0 && fixes_errors(c)) {
        ret = image_co_mark_clean(c);
    }
    return ret;
}

static CO_FN int check_co_image(struct check *c)
{
    struct qed_image *img = c->img;
    int ret;

    c->file_size = qed_file(img)->size;
    c->end = round_up(c->file_size, qed_cluster_size(img));
    c->l1_state = g_try_malloc0(qed_entries(img));
    if (!c->l1_state) {
        return -ENOMEM;
    }
    c->used = qed_usemap_new();
    c->l1_new = g_hash_table_new(g_direct_hash, g_direct_equal);
    c->l2_new = g_hash_table_new(g_direct_hash, g_direct_equal);
    ret = qed_check_co_run(c);
    g_hash_table_destroy(c->l2_new);
    g_hash_table_destroy(c->l1_new);
    qed_usemap_free(c->used);
    g_free(c->l1_state);
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
    img->checking = true;
    ret = check_co_image(&c);
    img->checking = false;
    if (img->group) {
        group_unlock(img->group);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not check the QED image");
    }
    return 0;
}
