/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qcow2 header and its extensions: see wire/qcow2.h; table entries are in
 * qcow2-entry.c.
 *
 * Invariant: after qcow2_header_validate() succeeded, all sums and products of
 * the fields that the driver forms fit 64 bits, and the header, the backing
 * name, the L1 table and the refcount table are within their limits and inside
 * the file.  The snapshot table is not looked at: the disk is read whatever its
 * snapshots are.
 */
#include "wire/qcow2.h"
#include <inttypes.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"

/* Where the fields stand. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_BACKING_OFFSET = 8,
    AT_BACKING_LEN = 16,
    AT_CLUSTER_BITS = 20,
    AT_SIZE = 24,
    AT_CRYPT = 32,
    AT_L1_SIZE = 36,
    AT_L1_OFFSET = 40,
    AT_REFTABLE_OFFSET = 48,
    AT_REFTABLE_CLUSTERS = 56,
    AT_N_SNAPSHOTS = 60,
    AT_SNAPSHOTS_OFFSET = 64,
    AT_INCOMPAT = 72,
    AT_COMPAT = 80,
    AT_AUTOCLEAR = 88,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_LENGTH = 100,
    AT_COMPRESSION = 104,
};

bool qcow2_probe(const uint8_t *buf, size_t len)
{
    return len >= 8 && get_be32(buf) == QCOW2_MAGIC &&
           get_be32(buf + AT_VERSION) >= 2;
}

void qcow2_header_encode(const struct qcow2_header *h, uint8_t *buf)
{
    put_be32(buf + AT_MAGIC, QCOW2_MAGIC);
    put_be32(buf + AT_VERSION, h->version);
    put_be64(buf + AT_BACKING_OFFSET, h->backing_offset);
    put_be32(buf + AT_BACKING_LEN, h->backing_len);
    put_be32(buf + AT_CLUSTER_BITS, h->cluster_bits);
    put_be64(buf + AT_SIZE, h->size);
    put_be32(buf + AT_CRYPT, h->crypt_method);
    put_be32(buf + AT_L1_SIZE, h->l1_size);
    put_be64(buf + AT_L1_OFFSET, h->l1_offset);
    put_be64(buf + AT_REFTABLE_OFFSET, h->reftable_offset);
    put_be32(buf + AT_REFTABLE_CLUSTERS, h->reftable_clusters);
    put_be32(buf + AT_N_SNAPSHOTS, h->n_snapshots);
    put_be64(buf + AT_SNAPSHOTS_OFFSET, h->snapshots_offset);
    if (h->version < 3) {
        return;
    }
    put_be64(buf + AT_INCOMPAT, h->incompat);
    put_be64(buf + AT_COMPAT, h->compat);
    put_be64(buf + AT_AUTOCLEAR, h->autoclear);
    put_be32(buf + AT_REFCOUNT_ORDER, h->refcount_order);
    put_be32(buf + AT_HEADER_LENGTH, h->header_length);
    if (h->header_length > AT_COMPRESSION) {
        buf[AT_COMPRESSION] = h->compression_type;
    }
}

static int decode_v3(const uint8_t *buf, size_t len, struct qcow2_header *h,
                     GError **err)
{
    if (len < QCOW2_HEADER_V3) {
        return err_set(err, EINVAL,
                       "qcow2 header is truncated: the file holds "
                       "%zu bytes of the %d",
                       len, QCOW2_HEADER_V3);
    }
    h->incompat = get_be64(buf + AT_INCOMPAT);
    h->compat = get_be64(buf + AT_COMPAT);
    h->autoclear = get_be64(buf + AT_AUTOCLEAR);
    h->refcount_order = get_be32(buf + AT_REFCOUNT_ORDER);
    h->header_length = get_be32(buf + AT_HEADER_LENGTH);
    if (h->header_length > AT_COMPRESSION && len > AT_COMPRESSION) {
        h->compression_type = buf[AT_COMPRESSION];
    }
    return 0;
}

int qcow2_header_decode(const uint8_t *buf, size_t len,
                        struct qcow2_header *ret_h, GError **err)
{
    if (len < QCOW2_HEADER_V2) {
        return err_set(err, EINVAL,
                       "qcow2 header is truncated: the file holds "
                       "%zu bytes of the %d",
                       len, QCOW2_HEADER_V2);
    }
    if (get_be32(buf) != QCOW2_MAGIC) {
        return err_set(err, EINVAL, "Image is not in qcow2 format");
    }
    *ret_h = (struct qcow2_header) {
        .version = get_be32(buf + AT_VERSION),
        .backing_offset = get_be64(buf + AT_BACKING_OFFSET),
        .backing_len = get_be32(buf + AT_BACKING_LEN),
        .cluster_bits = get_be32(buf + AT_CLUSTER_BITS),
        .size = get_be64(buf + AT_SIZE),
        .crypt_method = get_be32(buf + AT_CRYPT),
        .l1_size = get_be32(buf + AT_L1_SIZE),
        .l1_offset = get_be64(buf + AT_L1_OFFSET),
        .reftable_offset = get_be64(buf + AT_REFTABLE_OFFSET),
        .reftable_clusters = get_be32(buf + AT_REFTABLE_CLUSTERS),
        .n_snapshots = get_be32(buf + AT_N_SNAPSHOTS),
        .snapshots_offset = get_be64(buf + AT_SNAPSHOTS_OFFSET),
        .refcount_order = 4,
        .header_length = QCOW2_HEADER_V2,
    };
    if (ret_h->version != 2 && ret_h->version != 3) {
        return err_set(err, ENOTSUP, "Unsupported qcow2 version %" PRIu32,
                       ret_h->version);
    }
    return ret_h->version == 2 ? 0 : decode_v3(buf, len, ret_h, err);
}

/* --- validation --- */

static int qcow2_bad(GError **err, uint64_t *ret_where, uint64_t where,
                     const char *field, uint64_t value, const char *rule)
{
    *ret_where = where;
    return err_set(err, EINVAL,
                   "qcow2 header field %s at offset %" PRIu64 " is %" PRIu64
                   " (0x%" PRIx64 "): %s",
                   field, where, value, value, rule);
}

uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits, bool extended)
{
    unsigned shift = 2 * cluster_bits - (extended ? 4 : 3);
    uint64_t n = size >> shift;

    return n + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

static int layout_validate(const struct qcow2_header *h, uint64_t *ret_where,
                           GError **err)
{
    uint32_t cluster;

    if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN ||
        h->cluster_bits > QCOW2_CLUSTER_BITS_MAX) {
        return qcow2_bad(err, ret_where, AT_CLUSTER_BITS, "cluster_bits",
                         h->cluster_bits, "it must be from 9 to 21");
    }
    cluster = UINT32_C(1) << h->cluster_bits;
    if (h->version > 2 &&
        (h->header_length < QCOW2_HEADER_V3 || h->header_length % 8)) {
        return qcow2_bad(err, ret_where, AT_HEADER_LENGTH, "header_length",
                         h->header_length,
                         "it must be a multiple of 8 and 104 or more");
    }
    if (h->header_length > cluster) {
        return qcow2_bad(err, ret_where, AT_HEADER_LENGTH, "header_length",
                         h->header_length,
                         "the header must fit the first cluster");
    }
    if (h->refcount_order > 6) {
        return qcow2_bad(err, ret_where, AT_REFCOUNT_ORDER, "refcount_order",
                         h->refcount_order, "refcounts have at most 64 bits");
    }
    if (h->crypt_method > QCOW2_CRYPT_LUKS) {
        return qcow2_bad(err, ret_where, AT_CRYPT, "crypt_method",
                         h->crypt_method, "no such encryption method is known");
    }
    if ((h->incompat & QCOW2_I_EXTENDED_L2) &&
        h->cluster_bits < QCOW2_EXTENDED_BITS_MIN) {
        return qcow2_bad(err, ret_where, AT_CLUSTER_BITS, "cluster_bits",
                         h->cluster_bits,
                         "extended L2 entries need clusters of 16 KiB or more");
    }
    return 0;
}

static int compression_validate(const struct qcow2_header *h,
                                uint64_t *ret_where, GError **err)
{
    bool bit = h->incompat & QCOW2_I_COMPRESSION;

    if (h->compression_type >= QCOW2_COMPRESSIONS) {
        return qcow2_bad(err, ret_where, AT_COMPRESSION, "compression_type",
                         h->compression_type, "no such compression is known");
    }
    if (bit != (h->compression_type != QCOW2_ZLIB)) {
        return qcow2_bad(err, ret_where, AT_COMPRESSION, "compression_type",
                         h->compression_type,
                         "the compression type feature bit says otherwise");
    }
    return 0;
}

static int qcow2_name_validate(const struct qcow2_header *h,
                               uint64_t *ret_where, GError **err)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;

    if (h->backing_offset == 0) {
        return 0;
    }
    if (h->backing_offset > cluster || h->backing_offset < h->header_length) {
        return qcow2_bad(
            err, ret_where, AT_BACKING_OFFSET, "backing_file_offset",
            h->backing_offset,
            "the name must lie in the first cluster, behind the header");
    }
    if (h->backing_len > QCOW2_NAME_MAX ||
        h->backing_len > cluster - h->backing_offset) {
        return qcow2_bad(err, ret_where, AT_BACKING_LEN, "backing_file_size",
                         h->backing_len,
                         "a name has at most 1023 bytes and lies in "
                         "the first cluster");
    }
    return 0;
}

struct table_rule {
    const char *name;
    uint64_t offset, bytes, max;
    uint64_t at_offset, at_size, size;
    const char *size_name;
};

static int table_validate(const struct qcow2_header *h,
                          const struct table_rule *t, uint64_t file_size,
                          uint64_t *ret_where, GError **err)
{
    uint64_t mask = (UINT64_C(1) << h->cluster_bits) - 1;

    if (t->bytes > t->max) {
        return qcow2_bad(err, ret_where, t->at_size, t->size_name, t->size,
                         "the table is larger than the limit");
    }
    if (t->offset & mask) {
        return qcow2_bad(err, ret_where, t->at_offset, t->name, t->offset,
                         "it must be a multiple of the cluster size");
    }
    if (t->bytes == 0) {
        return 0;
    }
    if (t->offset == 0) {
        return qcow2_bad(err, ret_where, t->at_offset, t->name, t->offset,
                         "the table overlaps the header");
    }
    if (!range_inside(t->offset, t->bytes, file_size)) {
        return qcow2_bad(
            err, ret_where, t->at_offset, t->name, t->offset,
            "the file ends before the table does; is it truncated?");
    }
    return 0;
}

static int tables_validate(const struct qcow2_header *h, uint64_t file_size,
                           uint64_t *ret_where, GError **err)
{
    struct table_rule rules[] = {
        { "refcount_table_offset", h->reftable_offset,
          (uint64_t)h->reftable_clusters << h->cluster_bits,
          QCOW2_REFTABLE_BYTES_MAX, AT_REFTABLE_OFFSET, AT_REFTABLE_CLUSTERS,
          h->reftable_clusters, "refcount_table_clusters" },
        { "l1_table_offset", h->l1_offset, (uint64_t)h->l1_size * 8,
          QCOW2_L1_BYTES_MAX, AT_L1_OFFSET, AT_L1_SIZE, h->l1_size, "l1_size" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        int ret = table_validate(h, &rules[i], file_size, ret_where, err);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

int qcow2_header_validate(const struct qcow2_header *h, uint64_t file_size,
                          uint64_t *ret_where, GError **err)
{
    bool extended = h->incompat & QCOW2_I_EXTENDED_L2;
    int ret = layout_validate(h, ret_where, err);

    if (ret < 0 || (ret = compression_validate(h, ret_where, err)) < 0 ||
        (ret = qcow2_name_validate(h, ret_where, err)) < 0 ||
        (ret = tables_validate(h, file_size, ret_where, err)) < 0) {
        return ret;
    }
    if (h->size > (uint64_t)INT64_MAX) {
        return qcow2_bad(err, ret_where, AT_SIZE, "size", h->size,
                         "a disk has at most 2^63 - 1 bytes");
    }
    if (qcow2_l1_entries(h->size, h->cluster_bits, extended) > INT32_MAX) {
        return err_set(err, EFBIG, "Image is too big");
    }
    if (qcow2_l1_entries(h->size, h->cluster_bits, extended) > h->l1_size) {
        return qcow2_bad(err, ret_where, AT_L1_SIZE, "l1_size", h->l1_size,
                         "the L1 table is too small for the disk");
    }
    return 0;
}
