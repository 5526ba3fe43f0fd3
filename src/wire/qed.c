/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QED header: see wire/qed.h.
 *
 * Invariant: after qed_header_validate() succeeded, all sums and products of
 * the fields that the driver forms fit 64 bits, every table fits memory, and
 * the header, the backing name and the L1 table lie inside the file.
 */
#include "wire/qed.h"
#include <inttypes.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"

/* Where the fields stand. */
enum {
    AT_MAGIC = 0,
    AT_CLUSTER_SIZE = 4,
    AT_TABLE_SIZE = 8,
    AT_HEADER_SIZE = 12,
    AT_FEATURES = 16,
    AT_COMPAT = 24,
    AT_AUTOCLEAR = 32,
    AT_L1_OFFSET = 40,
    AT_IMAGE_SIZE = 48,
    AT_NAME_OFFSET = 56,
    AT_NAME_SIZE = 60,
};

bool qed_probe(const uint8_t *buf, size_t len)
{
    return len >= 4 && get_le32(buf) == QED_MAGIC;
}

void qed_header_encode(const struct qed_header *h, uint8_t buf[QED_HEADER_LEN])
{
    put_le32(buf + AT_MAGIC, QED_MAGIC);
    put_le32(buf + AT_CLUSTER_SIZE, h->cluster_size);
    put_le32(buf + AT_TABLE_SIZE, h->table_size);
    put_le32(buf + AT_HEADER_SIZE, h->header_size);
    put_le64(buf + AT_FEATURES, h->features);
    put_le64(buf + AT_COMPAT, h->compat_features);
    put_le64(buf + AT_AUTOCLEAR, h->autoclear_features);
    put_le64(buf + AT_L1_OFFSET, h->l1_table_offset);
    put_le64(buf + AT_IMAGE_SIZE, h->image_size);
    put_le32(buf + AT_NAME_OFFSET, h->backing_name_offset);
    put_le32(buf + AT_NAME_SIZE, h->backing_name_size);
}

int qed_header_decode(const uint8_t *buf, size_t len, struct qed_header *ret_h,
                      GError **err)
{
    if (len < QED_HEADER_LEN) {
        return err_set(err, EINVAL,
                       "QED header is truncated: the file holds "
                       "%zu bytes of the %d",
                       len, QED_HEADER_LEN);
    }
    if (!qed_probe(buf, len)) {
        return err_set(err, EINVAL, "Image not in QED format");
    }
    *ret_h = (struct qed_header) {
        .cluster_size = get_le32(buf + AT_CLUSTER_SIZE),
        .table_size = get_le32(buf + AT_TABLE_SIZE),
        .header_size = get_le32(buf + AT_HEADER_SIZE),
        .features = get_le64(buf + AT_FEATURES),
        .compat_features = get_le64(buf + AT_COMPAT),
        .autoclear_features = get_le64(buf + AT_AUTOCLEAR),
        .l1_table_offset = get_le64(buf + AT_L1_OFFSET),
        .image_size = get_le64(buf + AT_IMAGE_SIZE),
        .backing_name_offset = get_le32(buf + AT_NAME_OFFSET),
        .backing_name_size = get_le32(buf + AT_NAME_SIZE),
    };
    return 0;
}

static bool cluster_size_ok(uint64_t v)
{
    return v >= QED_CLUSTER_MIN && v <= QED_CLUSTER_MAX && is_power_of_two(v);
}

static bool table_size_ok(uint64_t v)
{
    return v >= QED_TABLE_MIN && v <= QED_TABLE_MAX && is_power_of_two(v);
}

uint64_t qed_table_bytes(uint32_t cluster_size, uint32_t table_size)
{
    return (uint64_t)cluster_size * table_size;
}

uint64_t qed_max_image_size(uint32_t cluster_size, uint32_t table_size)
{
    uint64_t entries = qed_table_bytes(cluster_size, table_size) / 8;
    uint64_t max;

    /* Whatever is addressed must also have an off_t. */
    if (__builtin_mul_overflow(entries * entries, (uint64_t)cluster_size,
                               &max) ||
        max > INT64_MAX) {
        max = (uint64_t)INT64_MAX;
    }
    return max & ~(uint64_t)(cluster_size - 1);
}

static int qed_bad(GError **err, uint64_t *ret_where, uint64_t where,
                   const char *field, uint64_t value, const char *rule)
{
    *ret_where = where;
    return err_set(err, EINVAL,
                   "QED header field %s at offset %" PRIu64 " is %" PRIu64
                   " (0x%" PRIx64 "): %s",
                   field, where, value, value, rule);
}

static int features_validate(const struct qed_header *h, uint64_t *ret_where,
                             GError **err)
{
    uint64_t unknown = h->features & ~QED_F_KNOWN;

    if (unknown) {
        *ret_where = AT_FEATURES;
        return err_set(err, ENOTSUP,
                       "Unsupported QED features: %" PRIx64
                       " (header field features at offset %d)",
                       unknown, AT_FEATURES);
    }
    return 0;
}

static int qed_name_validate(const struct qed_header *h, uint64_t *ret_where,
                             GError **err)
{
    uint64_t header_bytes = (uint64_t)h->header_size * h->cluster_size;

    if (!(h->features & QED_F_BACKING_FILE)) {
        return 0;
    }
    if (h->backing_name_size > QED_NAME_READ_MAX) {
        return qed_bad(err, ret_where, AT_NAME_SIZE, "backing_filename_size",
                       h->backing_name_size, "a name has at most 4095 bytes");
    }
    if (h->backing_name_offset < QED_HEADER_LEN && h->backing_name_size > 0) {
        return qed_bad(err, ret_where, AT_NAME_OFFSET,
                       "backing_filename_offset", h->backing_name_offset,
                       "the name overlaps the header");
    }
    if ((uint64_t)h->backing_name_offset + h->backing_name_size >
        header_bytes) {
        return qed_bad(err, ret_where, AT_NAME_OFFSET,
                       "backing_filename_offset", h->backing_name_offset,
                       "the name must lie inside the header clusters");
    }
    return 0;
}

static int qed_l1_validate(const struct qed_header *h, uint64_t file_size,
                           uint64_t *ret_where, GError **err)
{
    uint64_t header_bytes = (uint64_t)h->header_size * h->cluster_size;
    uint64_t bytes = qed_table_bytes(h->cluster_size, h->table_size);
    uint64_t end;

    if (h->l1_table_offset % h->cluster_size) {
        return qed_bad(err, ret_where, AT_L1_OFFSET, "l1_table_offset",
                       h->l1_table_offset,
                       "it must be a multiple of cluster_size");
    }
    if (h->l1_table_offset < header_bytes) {
        return qed_bad(err, ret_where, AT_L1_OFFSET, "l1_table_offset",
                       h->l1_table_offset, "the table overlaps the header");
    }
    if (__builtin_add_overflow(h->l1_table_offset, bytes, &end) ||
        end > file_size) {
        return qed_bad(
            err, ret_where, AT_L1_OFFSET, "l1_table_offset", h->l1_table_offset,
            "the file ends before the L1 table does; is it truncated?");
    }
    return 0;
}

int qed_header_validate(const struct qed_header *h, uint64_t file_size,
                        uint64_t *ret_where, GError **err)
{
    int ret;

    if (!cluster_size_ok(h->cluster_size)) {
        return qed_bad(err, ret_where, AT_CLUSTER_SIZE, "cluster_size",
                       h->cluster_size,
                       "it must be a power of 2 from 4096 to 67108864");
    }
    if (!table_size_ok(h->table_size)) {
        return qed_bad(err, ret_where, AT_TABLE_SIZE, "table_size",
                       h->table_size, "it must be 1, 2, 4, 8 or 16 clusters");
    }
    if (qed_table_bytes(h->cluster_size, h->table_size) > QED_TABLE_BYTES_MAX) {
        return qed_bad(err, ret_where, AT_TABLE_SIZE, "table_size",
                       h->table_size, "tables above 16 MiB are not supported");
    }
    if (h->header_size == 0 ||
        (uint64_t)h->header_size * h->cluster_size > QED_HEADER_BYTES_MAX) {
        return qed_bad(
            err, ret_where, AT_HEADER_SIZE, "header_size", h->header_size,
            "the header must have 1 cluster or more, and 64 MiB at most");
    }
    ret = features_validate(h, ret_where, err);
    if (ret < 0) {
        return ret;
    }
    if (h->image_size % QED_SECTOR) {
        return qed_bad(err, ret_where, AT_IMAGE_SIZE, "image_size",
                       h->image_size, "it must be a multiple of 512");
    }
    if (h->image_size > qed_max_image_size(h->cluster_size, h->table_size)) {
        return qed_bad(err, ret_where, AT_IMAGE_SIZE, "image_size",
                       h->image_size,
                       "the tables cannot map a disk of that size");
    }
    ret = qed_l1_validate(h, file_size, ret_where, err);
    return ret < 0 ? ret : qed_name_validate(h, ret_where, err);
}

int qed_geometry_validate(uint64_t cluster_size, uint64_t table_size,
                          uint64_t image_size, GError **err)
{
    uint64_t max;

    if (!cluster_size_ok(cluster_size)) {
        return err_set(err, EINVAL,
                       "QED cluster size must be within range "
                       "[%d, %d] and power of 2",
                       QED_CLUSTER_MIN, QED_CLUSTER_MAX);
    }
    if (!table_size_ok(table_size)) {
        return err_set(err, EINVAL,
                       "QED table size must be within range "
                       "[%d, %d] and power of 2",
                       QED_TABLE_MIN, QED_TABLE_MAX);
    }
    if (cluster_size * table_size > QED_TABLE_BYTES_MAX) {
        return err_set(err, EINVAL,
                       "QED tables of %" PRIu64 " clusters of %" PRIu64
                       " bytes are larger than 16 MiB: choose a smaller "
                       "cluster size or table size",
                       table_size, cluster_size);
    }
    max = qed_max_image_size((uint32_t)cluster_size, (uint32_t)table_size);
    if (image_size % QED_SECTOR || image_size > max) {
        return err_set(err, EINVAL,
                       "QED image size must be a multiple of %d "
                       "and at most %" PRIu64 " bytes",
                       QED_SECTOR, max);
    }
    return 0;
}
