/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check's walk over L1 and L2 tables, of the disk and of its snapshots.
 *
 * Entries that lead nowhere are repaired in the active tables and in those of
 * snapshots alike (check/entry.c).  A table that is lost is replaced by one of
 * zeroes where a backing file would show without it.  One that lies where
 * something else is keeps what it says, or the repair would destroy that.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "loop/io.h"

/* --- one L2 table --- */

int qcow2_co_check_table_read(struct qcow2_check *c, uint64_t host)
{
    uint64_t len = qcow2_cluster_size(c->img);
    struct iovec v;
    int ret = qcow2_check_spend(c, "tables", len);

    if (ret < 0) {
        return ret;
    }
    co_relax();
    return node_co_preadv(qcow2_file(c->img), host, iov_one(&v, c->table, len),
                          0);
}

bool qcow2_co_check_table_is_hole(struct qcow2_check *c, uint64_t host)
{
    uint64_t len = qcow2_cluster_size(c->img);
    struct extent ext;

    return node_co_status(qcow2_file(c->img), host, len, &ext) == 0 &&
           (ext.flags & STATUS_ZERO) && ext.len == len;
}

void qcow2_check_desc_set(struct qcow2_check *c, struct qcow2_table_at *t,
                          uint32_t i, struct qcow2_desc d)
{
    struct qcow2_image *img = c->img;
    uint64_t idx = ((uint64_t)t->l1_idx << img->l2_bits) + i;
    struct table *slice = t->active ? metadata_cache_peek(
                                          &img->slices, idx >> img->slice_bits)
                                    : NULL;

    qcow2_desc_put(&img->shape, c->table, i, d);
    if (slice) {
        qcow2_desc_put(&img->shape, slice->data,
                       (uint32_t)(idx & ((UINT64_C(1) << img->slice_bits) - 1)),
                       d);
    }
    if (t->first >= t->end) {
        t->first = i;
    }
    t->end = i + 1;
}

int qcow2_co_check_table_store(struct qcow2_check *c,
                               const struct qcow2_table_at *t)
{
    uint32_t size = c->img->shape.extended ? 16 : 8;
    uint64_t a = round_down((uint64_t)t->first * size, QCOW2_SECTOR);
    uint64_t b = round_up((uint64_t)t->end * size, QCOW2_SECTOR);
    int ret;

    if (t->first >= t->end) {
        return 0;
    }
    ret = qcow2_co_write_meta(c->img, QCOW2_META_L2, t->host + a, c->table + a,
                              b - a);
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(
            c, "Could not write the table at offset %" PRIu64 ": %s", t->host,
            g_strerror(-ret));
    }
    return ret;
}

/* --- counting --- */

/* Statistics are those of the disk, not of its snapshots. */
static void note_allocated(struct qcow2_check *c, struct qcow2_table_at *t,
                           struct qcow2_desc d)
{
    uint64_t at = d.entry & QCOW2_OFFSET_MASK;

    if (!t->active) {
        return;
    }
    c->res->allocated_clusters++;
    if (d.entry & QCOW2_COMPRESSED) {
        c->res->compressed_clusters++;
        c->res->fragmented_clusters++;
        return;
    }
    if (t->next && at != t->next) {
        c->res->fragmented_clusters++;
    }
    t->next = at + qcow2_cluster_size(c->img);
}

/* The place of what @d refers to; length 0: it refers to nothing. */
static uint64_t desc_host(const struct qcow2_image *img, struct qcow2_desc d,
                          uint32_t *ret_len)
{
    uint64_t host = d.entry & QCOW2_OFFSET_MASK;

    *ret_len = (uint32_t)qcow2_cluster_size(img);
    if (d.entry & QCOW2_COMPRESSED) {
        qcow2_compressed_get(&img->shape, d.entry, &host, ret_len);
    } else if (!qcow2_desc_has_host(&img->shape, d)) {
        *ret_len = 0;
    }
    return host;
}

/* Count what @d refers to. -ERANGE: it is beyond the end of the file. */
static int desc_count(struct qcow2_check *c, struct qcow2_desc d)
{
    uint32_t len;
    uint64_t host = desc_host(c->img, d, &len);

    /* Of the last sector of a stream only a part may exist. */
    return len == 0 || c->img->shape.data_file
               ? 0
               : qcow2_check_count_data(c, host, len,
                                        d.entry & QCOW2_COMPRESSED);
}

/* Compressed data whose recorded length passes @end, where there is @what: all
 * of them may be before it nevertheless.  True: they are, and *@d says so. */
static CO_FN bool desc_co_shorten(struct qcow2_check *c,
                                  struct qcow2_table_at *t, uint32_t i,
                                  uint64_t guest, uint64_t end,
                                  const char *what, struct qcow2_desc *d)
{
    struct qcow2_desc to;

    if (!(d->entry & QCOW2_COMPRESSED) ||
        !qcow2_co_check_shorten(c, *d, guest, end, &to)) {
        return false;
    }
    if (qcow2_check_bad(c,
                        "coffset=0x%" PRIx64 ": compressed data passes the "
                        "%s",
                        d->entry, what)) {
        qcow2_check_desc_set(c, t, i, to);
    }
    *d = to;
    return true;
}

/* Compressed data that are recorded to reach into something else. */
static CO_FN void desc_co_part(struct qcow2_check *c, struct qcow2_table_at *t,
                               uint32_t i, uint64_t guest, struct qcow2_desc *d)
{
    uint64_t host, end;
    uint32_t len;

    if (d->entry & QCOW2_COMPRESSED && !c->img->shape.data_file) {
        host = desc_host(c->img, *d, &len);
        end = qcow2_check_other_inside(c, host, len);
        if (end != UINT64_MAX) {
            desc_co_shorten(c, t, i, guest, end, "beginning of something else",
                            d);
        }
    }
}

/* Count descriptor @i, *@d. -ERANGE: it is beyond the end of the file. */
static CO_FN int desc_co_count(struct qcow2_check *c, struct qcow2_table_at *t,
                               uint32_t i, uint64_t guest, struct qcow2_desc *d)
{
    uint32_t len;
    int ret;

    desc_co_part(c, t, i, guest, d);
    desc_host(c->img, *d, &len);
    if (len) {
        note_allocated(c, t, *d);
    }
    ret = desc_count(c, *d);
    return ret == -ERANGE &&
                   desc_co_shorten(c, t, i, guest, qcow2_file(c->img)->size,
                                   "end of the file", d)
               ? desc_count(c, *d)
               : ret;
}

/* Descriptor @i, *@d, of cluster @guest cannot be what was meant. */
static CO_FN int desc_co_replace(struct qcow2_check *c,
                                 struct qcow2_table_at *t, uint32_t i,
                                 uint64_t guest, struct qcow2_desc *d,
                                 const char *why, bool lost)
{
    bool hold = c->hold;
    int ret = 0;

    c->hold = hold || !qcow2_check_can_replace(c->img);
    if (qcow2_check_bad(c,
                        "offset=%" PRIx64 ": %s; what cannot be read of "
                        "guest offset %" PRIu64 " %s zeroes",
                        d->entry & QCOW2_OFFSET_MASK, why, guest,
                        c->fix & CHECK_FIX_ERRORS && !c->hold
                            ? "now reads as"
                            : "would read as")) {
        ret = qcow2_co_check_replace(c, *d, guest, lost, d);
        if (ret == 0) {
            qcow2_check_desc_set(c, t, i, *d);
        }
    }
    c->hold = hold;
    return ret;
}

static CO_FN int desc_co_check(struct qcow2_check *c, struct qcow2_table_at *t,
                               uint32_t i)
{
    struct qcow2_image *img = c->img;
    const struct qcow2_desc found = qcow2_desc_get(&img->shape, c->table, i);
    struct qcow2_desc d = found;
    uint64_t guest = (((uint64_t)t->l1_idx << img->l2_bits) + i)
                     << img->cluster_bits;
    const char *why;
    int ret = 0;

    if (!d.entry && !d.bits) {
        return 0;
    }
    why = qcow2_check_entry_fault(img, d, guest);
    if (why) {
        ret = desc_co_replace(c, t, i, guest, &d, why, false);
    }
    if (ret == 0 && (!why || (qcow2_check_has_place(img, d, guest) &&
                              !qcow2_check_is_zeroes(c, d)))) {
        ret = desc_co_count(c, t, i, guest, &d);
    }
    if (ret == -ERANGE) {
        /* All that was wrong with it tells what can be believed of it. */
        d = found;
        ret = desc_co_replace(c, t, i, guest, &d,
                              "counting reference for "
                              "region exceeding the end of the file by one "
                              "cluster or more",
                              true);
    }
    return ret;
}

/* Bits that have no meaning in descriptor @i, whatever else is wrong with
 * it. */
static void desc_check_reserved(struct qcow2_check *c, struct qcow2_table_at *t,
                                uint32_t i)
{
    struct qcow2_desc d = qcow2_desc_get(&c->img->shape, c->table, i);
    uint64_t none = d.entry & QCOW2_COMPRESSED ? QCOW2_COPIED
                                               : QCOW2_L2_RESERVED;

    if (!(d.entry & none)) {
        return;
    }
    if (d.entry & QCOW2_COMPRESSED
            ? qcow2_check_bad(c,
                              "coffset=0x%" PRIx64 ": copied flag must "
                              "never be set for compressed clusters",
                              d.entry)
            : qcow2_check_bad(c,
                              "found l2 entry with reserved bits set: %" PRIx64,
                              d.entry)) {
        d.entry &= ~none;
        qcow2_check_desc_set(c, t, i, d);
    }
}

static CO_FN int qcow2_table_co_check(struct qcow2_check *c, uint32_t l1_idx,
                                      uint64_t host, bool active)
{
    struct qcow2_table_at t = {
        .l1_idx = l1_idx,
        .host = host,
        .active = active,
    };
    bool hold = c->hold;
    int ret;

    if (qcow2_co_check_table_is_hole(c, host)) {
        return 0;
    }
    ret = qcow2_co_check_table_read(c, host);
    if (ret == -EFBIG) {
        return ret;
    }
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c,
                           "ERROR: L2 table at offset %" PRIu64 " cannot be "
                           "read: %s",
                           host, g_strerror(-ret));
        return 0;
    }
    c->hold = hold || qcow2_check_is_other(c, host, 1);
    for (uint32_t i = 0; i >> c->img->l2_bits == 0 && ret == 0; i++) {
        desc_check_reserved(c, &t, i);
        ret = desc_co_check(c, &t, i);
    }
    c->hold = hold;
    return ret < 0 ? ret : qcow2_co_check_table_store(c, &t);
}

/* --- L1 --- */

int qcow2_co_check_l1_store(struct qcow2_check *c, enum qcow2_meta what,
                            uint64_t at, const uint64_t *l1, uint32_t n)
{
    int ret = qcow2_co_write_meta(c->img, what, at, l1, (uint64_t)n * 8);

    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c, "Could not write the L1 table: %s",
                           g_strerror(-ret));
    }
    return ret;
}

/* The table of entry @i is lost: another one, by which all that it led to reads
 * as zeroes; none, if that is so without. */
static CO_FN int l1_entry_co_replace(struct qcow2_check *c, uint64_t *l1,
                                     uint32_t i, bool active)
{
    struct qcow2_image *img = c->img;
    const struct qcow2_desc was = { 0, UINT32_MAX };
    uint64_t host = 0;
    int ret = 0;

    if (img->backing_name || qcow2_data_is_raw(img)) {
        /* Without this limit a small hostile image could fill the file
         * system. */
        ret = qcow2_check_spend(c, "tables",
                                ROOT_WEIGHT * qcow2_cluster_size(img));
        for (uint32_t k = 0; k >> img->l2_bits == 0 && ret == 0; k++) {
            uint64_t idx = ((uint64_t)i << img->l2_bits) + k;
            struct qcow2_desc d;

            ret = qcow2_co_check_replace(c, was, idx << img->cluster_bits, true,
                                         &d);
            if (ret == 0) {
                qcow2_desc_put(&img->shape, c->table, k, d);
            }
        }
        if (ret == 0) {
            ret = qcow2_co_check_append(c, c->table, qcow2_cluster_size(img),
                                        &host);
        }
    }
    if (ret == 0) {
        put_be64(&l1[i], host && active ? host | QCOW2_COPIED : host);
    }
    return ret;
}

/* Entry @i, which leads to a table. *@changed: it was repaired. */
static CO_FN int l1_entry_co_check(struct qcow2_check *c, uint64_t *l1,
                                   uint32_t i, bool active, bool *changed)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    uint64_t entry = get_be64(&l1[i]), host = entry & QCOW2_OFFSET_MASK;
    const char *why = NULL;
    bool hold;
    int ret = 0;

    if ((entry & QCOW2_L1_RESERVED) &&
        qcow2_check_bad(c, "found L1 entry with reserved bits set: %" PRIx64,
                        entry)) {
        put_be64(&l1[i], entry & ~QCOW2_L1_RESERVED);
        *changed = true;
    }
    if (host & (cluster - 1)) {
        why = "Table is not cluster aligned; L1 entry corrupted";
    } else {
        ret = qcow2_check_count(c, host, cluster);
        why = ret == -ERANGE ? "table is outside image" : NULL;
    }
    if (!why) {
        return ret < 0 ? ret : qcow2_table_co_check(c, i, host, active);
    }
    hold = c->hold;
    c->hold = hold || !qcow2_check_can_replace(c->img);
    ret = 0;
    if (qcow2_check_bad(c, "l2_offset=%" PRIx64 ": %s", host, why)) {
        *changed = true;
        ret = l1_entry_co_replace(c, l1, i, active);
    }
    c->hold = hold;
    return ret;
}

/* A table of its own for entry @i, a duplicate L1 entry: the guest reads the
 * same at both offsets afterwards.  *@ret_host: where it is, or 0 where there
 * is nothing in it. */
static CO_FN int l1_entry_co_separate(struct qcow2_check *c, uint64_t *l1,
                                      uint32_t i, bool active,
                                      uint64_t *ret_host)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    uint64_t host = get_be64(&l1[i]) & QCOW2_OFFSET_MASK;
    int ret = 0;

    *ret_host = 0;
    if (!qcow2_co_check_table_is_hole(c, host)) {
        /* Without this limit a small hostile image could fill the file
         * system. */
        ret = qcow2_check_spend(c, "tables", ROOT_WEIGHT * cluster);
        if (ret == 0) {
            ret = qcow2_co_check_table_read(c, host);
        }
        if (ret == 0) {
            ret = qcow2_co_check_append(c, c->table, cluster, ret_host);
        }
    }
    if (ret == 0) {
        put_be64(&l1[i],
                 *ret_host && active ? *ret_host | QCOW2_COPIED : *ret_host);
    }
    return ret;
}

/* Entry @i leads to a table, that of an earlier entry: nothing reads that. */
static CO_FN int l1_duplicate_co_check(struct qcow2_check *c, uint64_t *l1,
                                       uint32_t i, bool active, bool *changed)
{
    uint64_t host = get_be64(&l1[i]) & QCOW2_OFFSET_MASK;
    int ret;

    if (!qcow2_check_bad(c,
                         "l1_index=%" PRIu32 " l2_offset=%" PRIx64 ": the "
                         "table of another L1 entry, too",
                         i, host)) {
        return l1_entry_co_check(c, l1, i, active, changed);
    }
    *changed = true;
    ret = l1_entry_co_separate(c, l1, i, active, &host);
    return ret < 0 || host == 0 ? ret
                                : qcow2_table_co_check(c, i, host, active);
}

/* Can a table be at @host, be there anything else or not? */
static bool is_table_place(const struct qcow2_check *c, uint64_t host)
{
    return !(host & (qcow2_cluster_size(c->img) - 1)) &&
           host >> c->img->cluster_bits < c->found_clusters;
}

static CO_FN int l1_entries_co_check(struct qcow2_check *c, uint64_t *l1,
                                     uint32_t n, bool active, bool *changed)
{
    GHashTable *seen = qcow2_l1_has_duplicates(l1, n)
                           ? g_hash_table_new(g_direct_hash, g_direct_equal)
                           : NULL;
    int ret = 0;

    for (uint32_t i = 0; i < n && ret == 0; i++) {
        uint64_t host = get_be64(&l1[i]) & QCOW2_OFFSET_MASK;

        if (host == 0) {
            continue;
        }
        ret = !seen || !is_table_place(c, host) ||
                      g_hash_table_add(seen, GSIZE_TO_POINTER((gsize)host))
                  ? l1_entry_co_check(c, l1, i, active, changed)
                  : l1_duplicate_co_check(c, l1, i, active, changed);
    }
    if (seen) {
        g_hash_table_destroy(seen);
    }
    return ret;
}

static CO_FN int l1_co_check(struct qcow2_check *c, uint64_t *l1, uint32_t n,
                             uint64_t at, bool active)
{
    uint64_t end = c->file_clusters;
    bool changed = false;
    int ret = qcow2_check_count(c, at, (uint64_t)n * 8);

    if (ret == -ERANGE) {
        c->res->corruptions++;
        qcow2_check_report(c,
                           "ERROR L1 table at offset %" PRIu64 " exceeds "
                           "the end of the file",
                           at);
        ret = 0;
    }
    c->hold = qcow2_check_is_other(c, at, (uint64_t)n * 8);
    if (ret == 0) {
        ret = l1_entries_co_check(c, l1, n, active, &changed);
    }
    c->hold = false;
    if (ret == 0 && c->file_clusters != end) {
        /* Copies are durable before anything leads to them. */
        ret = BARRIER(QCOW2_REPAIR,
                      node_co_sync(c->img->node, qcow2_file(c->img)));
    }
    return ret == 0 && changed
               ? qcow2_co_check_l1_store(
                     c, active ? QCOW2_META_L1 : QCOW2_META_SNAPSHOT_L1, at, l1,
                     n)
               : ret;
}

static CO_FN int snapshot_co_check(struct qcow2_check *c,
                                   struct qcow2_snapshot *s)
{
    size_t bytes = (size_t)s->l1_size * 8;
    int ret = qcow2_check_spend(c, "snapshots", ROOT_WEIGHT * bytes);
    uint64_t *l1;
    struct iovec v;

    if (ret < 0) {
        return ret;
    }
    if (qcow2_check_is_used(c, s->l1_offset, bytes)) {
        qcow2_check_drop_snapshot(c, s);
        /* That it is there, too, tells whether compressed data reach into
         * it. */
        ret = c->looking ? qcow2_check_count(c, s->l1_offset, bytes) : 0;
        return ret == -ERANGE ? 0 : ret;
    }
    co_relax();
    l1 = g_try_malloc0(MAX(bytes, 8));
    if (!l1) {
        return -ENOMEM;
    }
    ret = bytes ? node_co_preadv(qcow2_file(c->img), s->l1_offset,
                                 iov_one(&v, l1, bytes), 0)
                : 0;
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c,
                           "ERROR: L1 table of snapshot '%s' cannot be "
                           "read: %s",
                           s->name, g_strerror(-ret));
        ret = 0;
    } else {
        ret = l1_co_check(c, l1, s->l1_size, s->l1_offset, false);
    }
    g_free(l1);
    return ret;
}

int qcow2_co_check_tables(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    int ret = l1_co_check(c, img->l1, img->hdr.l1_size, img->hdr.l1_offset,
                          true);

    for (unsigned i = 0; i < qcow2_n_snapshots(img) && ret == 0; i++) {
        ret = snapshot_co_check(c, g_ptr_array_index(img->snapshots->list, i));
    }
    return ret;
}
