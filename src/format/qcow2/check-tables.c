/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check's walk over L1 and L2 tables, of the disk and of its snapshots.
 *
 * Entries that lead nowhere are repaired in the active tables and in those of
 * snapshots alike: to a zero cluster, which shows no other data (version 2: to
 * nothing).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/check.h"
#include "loop/io.h"

/* An L2 table in c->table. */
struct table_at {
    uint32_t l1_idx;
    uint64_t host;
    bool active;
    uint64_t next;                /* offset that would be contiguous */
    uint32_t first, end;          /* changed descriptors */
};

static CO_FN int table_co_read(struct qcow2_check *c, uint64_t host)
{
    uint64_t len = qcow2_cluster_size(c->img);
    struct iovec v;
    int ret = qcow2_check_spend(c, "tables", len);

    if (ret < 0) {
        return ret;
    }
    co_co_relax();
    return node_co_preadv(qcow2_file(c->img), host, iov_one(&v, c->table, len),
                          0);
}

/* A hole has no entries; saves reading tables of a sparse file. */
static CO_FN bool table_co_is_hole(struct qcow2_check *c, uint64_t host)
{
    uint64_t len = qcow2_cluster_size(c->img);
    struct extent ext;

    return node_co_status(qcow2_file(c->img), host, len, &ext) == 0 &&
        (ext.flags & STATUS_ZERO) && ext.len == len;
}

/* Descriptor @i becomes @d, in memory wherever it is. */
static void desc_set(struct qcow2_check *c, struct table_at *t, uint32_t i,
                     struct qcow2_desc d)
{
    struct qcow2_image *img = c->img;
    uint64_t idx = ((uint64_t) t->l1_idx << img->l2_bits) + i;
    struct table *slice = t->active
        ? tables_peek(&img->slices, idx >> img->slice_bits) : NULL;

    qcow2_desc_put(&img->shape, c->table, i, d);
    if (slice) {
        qcow2_desc_put(&img->shape, slice->data, (uint32_t)
                       (idx & ((UINT64_C(1) << img->slice_bits) - 1)), d);
    }
    if (t->first >= t->end) {
        t->first = i;
    }
    t->end = i + 1;
}

static CO_FN int table_co_store(struct qcow2_check *c,
                                const struct table_at *t)
{
    uint32_t size = c->img->shape.extended ? 16 : 8;
    uint64_t a = round_down((uint64_t) t->first * size, QCOW2_SECTOR);
    uint64_t b = round_up((uint64_t) t->end * size, QCOW2_SECTOR);
    int ret;

    if (t->first >= t->end) {
        return 0;
    }
    ret = qcow2_co_write_meta(c->img, QCOW2_META_L2, t->host + a,
                              c->table + a, b - a);
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c, "Could not write the table at offset %" PRIu64
                           ": %s", t->host, g_strerror(-ret));
    }
    return ret;
}

/* --- counting --- */

/* What takes the place of a descriptor that leads nowhere: of a raw data file
 * the data that is there. */
static struct qcow2_desc zero_desc(const struct qcow2_image *img,
                                   uint64_t guest)
{
    if (qcow2_data_is_raw(img)) {
        return (struct qcow2_desc) {
            guest | QCOW2_COPIED, img->shape.extended ? UINT32_MAX : 0
        };
    }
    if (img->shape.extended) {
        return (struct qcow2_desc) { 0, (uint64_t) UINT32_MAX << 32 };
    }
    return (struct qcow2_desc) {
        img->shape.version >= 3 ? QCOW2_ZERO_FLAG : 0, 0
    };
}

/* What is wrong with a descriptor, before its place is counted. */
static const char *desc_fault(const struct qcow2_image *img,
                              struct qcow2_desc d)
{
    uint64_t at = d.entry & QCOW2_OFFSET_MASK;

    if (d.entry & QCOW2_COMPRESSED) {
        return img->shape.data_file
            ? "compressed cluster with data file" : NULL;
    }
    if (at & (qcow2_cluster_size(img) - 1)) {
        return "Cluster is not properly aligned; L2 entry corrupted";
    }
    return qcow2_desc_kind(&img->shape, d, 0) == QCOW2_INVALID
        ? "L2 entry corrupted" : NULL;
}

/* In a data file every cluster is at its guest offset. */
static const char *place_fault(const struct qcow2_image *img,
                               struct qcow2_desc d, uint64_t guest)
{
    return img->shape.data_file && qcow2_desc_has_host(&img->shape, d) &&
        (d.entry & QCOW2_OFFSET_MASK) != guest
        ? "Cluster is not at its guest offset in the data file" : NULL;
}

/* Statistics are those of the disk, not of its snapshots. */
static void note_allocated(struct qcow2_check *c, struct table_at *t,
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

static int desc_count(struct qcow2_check *c, struct table_at *t,
                      struct qcow2_desc d)
{
    struct qcow2_image *img = c->img;
    uint64_t host = d.entry & QCOW2_OFFSET_MASK;
    uint32_t len = (uint32_t) qcow2_cluster_size(img);

    if (d.entry & QCOW2_COMPRESSED) {
        qcow2_packed_get(&img->shape, d.entry, &host, &len);
    } else if (!qcow2_desc_has_host(&img->shape, d)) {
        return 0;
    }
    note_allocated(c, t, d);
    /* Of the last sector of a stream only a part may exist. */
    return img->shape.data_file ? 0 : qcow2_check_count(c, host, len);
}

static int desc_check(struct qcow2_check *c, struct table_at *t, uint32_t i)
{
    struct qcow2_image *img = c->img;
    struct qcow2_desc d = qcow2_desc_get(&img->shape, c->table, i);
    uint64_t guest = (((uint64_t) t->l1_idx << img->l2_bits) + i)
                     << img->cluster_bits;
    const char *why;
    int ret = 0;

    if (!d.entry && !d.bits) {
        return 0;
    }
    why = desc_fault(img, d);
    if (!why) {
        why = place_fault(img, d, guest);
    }
    if (!why) {
        ret = desc_count(c, t, d);
        why = ret == -ERANGE ? "counting reference for region exceeding the "
                               "end of the file by one cluster or more" : NULL;
    }
    if (why) {
        ret = 0;
        if (qcow2_check_bad(c, "offset=%" PRIx64 ": %s; guest offset %" PRIu64
                            " %s zeroes", d.entry & QCOW2_OFFSET_MASK, why,
                            guest, c->fix & CHECK_FIX_ERRORS
                            ? "now reads as" : "would read as")) {
            desc_set(c, t, i, zero_desc(img, guest));
        }
    } else if ((d.entry & QCOW2_COMPRESSED) && (d.entry & QCOW2_COPIED) &&
               qcow2_check_bad(c, "coffset=0x%" PRIx64 ": copied flag must "
                               "never be set for compressed clusters",
                               d.entry)) {
        d.entry &= ~QCOW2_COPIED;
        desc_set(c, t, i, d);
    }
    return ret;
}

/* Bits that no version of the format has a meaning for. */
static void desc_check_reserved(struct qcow2_check *c, struct table_at *t,
                                uint32_t i)
{
    struct qcow2_desc d = qcow2_desc_get(&c->img->shape, c->table, i);

    if (!(d.entry & QCOW2_COMPRESSED) && (d.entry & QCOW2_L2_RESERVED) &&
        qcow2_check_bad(c, "found l2 entry with reserved bits set: %" PRIx64,
                        d.entry)) {
        d.entry &= ~QCOW2_L2_RESERVED;
        desc_set(c, t, i, d);
    }
}

static CO_FN int table_co_check(struct qcow2_check *c, uint32_t l1_idx,
                                uint64_t host, bool active)
{
    struct table_at t = { .l1_idx = l1_idx, .host = host, .active = active };
    int ret;

    if (table_co_is_hole(c, host)) {
        return 0;
    }
    ret = table_co_read(c, host);
    if (ret == -EFBIG) {
        return ret;
    }
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c, "ERROR: L2 table at offset %" PRIu64 " cannot be "
                           "read: %s", host, g_strerror(-ret));
        return 0;
    }
    for (uint32_t i = 0; i >> c->img->l2_bits == 0 && ret == 0; i++) {
        desc_check_reserved(c, &t, i);
        ret = desc_check(c, &t, i);
    }
    return ret < 0 ? ret : table_co_store(c, &t);
}

/* --- L1 --- */

/* An L1 table of @n entries at @at. */
static CO_FN int l1_co_store(struct qcow2_check *c, enum qcow2_meta what,
                             uint64_t at, const uint64_t *l1, uint32_t n)
{
    int ret = qcow2_co_write_meta(c->img, what, at, l1, (uint64_t) n * 8);

    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c, "Could not write the L1 table: %s",
                           g_strerror(-ret));
    }
    return ret;
}

static CO_FN int l1_co_check(struct qcow2_check *c, uint64_t *l1, uint32_t n,
                             uint64_t at, bool active)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    bool changed = false;
    int ret = qcow2_check_count(c, at, (uint64_t) n * 8);

    if (ret == -ERANGE) {
        c->res->corruptions++;
        qcow2_check_report(c, "ERROR L1 table at offset %" PRIu64 " exceeds "
                           "the end of the file", at);
        ret = 0;
    }
    for (uint32_t i = 0; i < n && ret == 0; i++) {
        uint64_t entry = get_be64(&l1[i]), host = entry & QCOW2_OFFSET_MASK;
        const char *why = NULL;

        if (host == 0) {
            continue;
        }
        if ((entry & QCOW2_L1_RESERVED) &&
            qcow2_check_bad(c, "found L1 entry with reserved bits set: %"
                            PRIx64, entry)) {
            put_be64(&l1[i], entry & ~QCOW2_L1_RESERVED);
            changed = true;
        }
        if (host & (cluster - 1)) {
            why = "Table is not cluster aligned; L1 entry corrupted";
        } else {
            ret = qcow2_check_count(c, host, cluster);
            why = ret == -ERANGE ? "table is outside image" : NULL;
        }
        if (ret == 0 && !why) {
            ret = table_co_check(c, i, host, active);
        } else if (why) {
            ret = 0;
            if (qcow2_check_bad(c, "l2_offset=%" PRIx64 ": %s", host, why)) {
                put_be64(&l1[i], 0);
                changed = true;
            }
        }
    }
    return ret == 0 && changed
        ? l1_co_store(c, active ? QCOW2_META_L1 : QCOW2_META_SNAPSHOT_L1, at,
                      l1, n) : ret;
}

static CO_FN int snapshot_co_check(struct qcow2_check *c,
                                   const struct qcow2_snapshot *s)
{
    size_t bytes = (size_t) s->l1_size * 8;
    int ret = qcow2_check_spend(c, "snapshots", ROOT_WEIGHT * bytes);
    uint64_t *l1;
    struct iovec v;

    if (ret < 0) {
        return ret;
    }
    co_co_relax();
    l1 = g_try_malloc0(MAX(bytes, 8));
    if (!l1) {
        return -ENOMEM;
    }
    ret = bytes ? node_co_preadv(qcow2_file(c->img), s->l1_offset,
                                 iov_one(&v, l1, bytes), 0) : 0;
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c, "ERROR: L1 table of snapshot '%s' cannot be "
                           "read: %s", s->name, g_strerror(-ret));
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
        ret = snapshot_co_check(c, qcow2_snapshot_at(img, i));
    }
    return ret;
}

/* --- COPIED --- */

/* What COPIED says of @host, if it is wrong. */
static CO_FN int copied_co_is_wrong(struct qcow2_check *c, uint64_t host,
                                    bool copied, uint64_t *ret_count)
{
    int ret = 0;

    if (c->rebuild) { /* the blocks are not what they will be */
        *ret_count = qcow2_counts_get(c->counts, host >> c->img->cluster_bits);
    } else {
        ret = qcow2_co_refcount_get(c->img, host, ret_count);
    }
    return ret < 0 ? ret : copied != (*ret_count == 1);
}

static CO_FN int table_co_check_copied(struct qcow2_check *c, uint32_t l1_idx,
                                       uint64_t host)
{
    const struct qcow2_shape *s = &c->img->shape;
    struct table_at t = { .l1_idx = l1_idx, .host = host, .active = true };
    int ret = table_co_is_hole(c, host) ? 1 : table_co_read(c, host);

    if (ret != 0) {
        return ret == 1 ? 0 : ret;
    }
    for (uint32_t i = 0; i >> c->img->l2_bits == 0 && ret == 0; i++) {
        struct qcow2_desc d = qcow2_desc_get(s, c->table, i);
        uint64_t count;

        if ((d.entry & QCOW2_COMPRESSED) || s->data_file ||
            !qcow2_desc_has_host(s, d) || desc_fault(c->img, d)) {
            continue;
        }
        ret = copied_co_is_wrong(c, d.entry & QCOW2_OFFSET_MASK,
                                 d.entry & QCOW2_COPIED, &count);
        if (ret == 1) {
            ret = 0;
            if (qcow2_check_bad(c, "OFLAG_COPIED data cluster: l2_entry=%"
                                PRIx64 " refcount=%" PRIu64, d.entry, count)) {
                d.entry ^= QCOW2_COPIED;
                desc_set(c, &t, i, d);
            }
        }
    }
    return ret < 0 ? ret : table_co_store(c, &t);
}

int qcow2_co_check_copied(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    bool changed = false;
    int ret = 0;

    for (uint32_t i = 0; i < img->hdr.l1_size && ret == 0; i++) {
        uint64_t entry = get_be64(&img->l1[i]), count;
        uint64_t host = entry & QCOW2_OFFSET_MASK;

        if (host == 0 || host & (qcow2_cluster_size(img) - 1) ||
            host >> img->cluster_bits >= c->file_clusters) {
            continue;
        }
        ret = copied_co_is_wrong(c, host, entry & QCOW2_COPIED, &count);
        if (ret == 1) {
            ret = 0;
            if (qcow2_check_bad(c, "OFLAG_COPIED L2 cluster: l1_index=%" PRIu32
                                " l1_entry=%" PRIx64 " refcount=%" PRIu64, i,
                                entry, count)) {
                put_be64(&img->l1[i], entry ^ QCOW2_COPIED);
                changed = true;
            }
        }
        if (ret == 0) {
            ret = table_co_check_copied(c, i, host);
        }
    }
    return ret == 0 && changed
        ? l1_co_store(c, QCOW2_META_L1, img->hdr.l1_offset, img->l1,
                      img->hdr.l1_size) : ret;
}
