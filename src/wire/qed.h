/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header of a QED image: 64 bytes, little-endian, at offset 0.  Pure
 * encoding, decoding and validation; no I/O.
 *
 *   header_size clusters   the header, the backing name somewhere inside
 *   l1_table_offset        L1: table_size clusters of u64 offsets of L2 tables
 *   anywhere behind        L2 tables (same size) and data clusters, each at a
 *                          multiple of cluster_size
 *
 * An L1 entry of 0 is "no table"; an L2 entry of 0 is "not here, ask the
 * backing file", 1 is "reads as zeroes", else the offset of a data cluster.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QED_HEADER_LEN = 64,
    QED_SECTOR = 512, /* unit of image_size; atomic write */
    QED_CLUSTER_MIN = 4096,
    QED_CLUSTER_MAX = 64 << 20,
    QED_CLUSTER_DEFAULT = 65536,
    QED_TABLE_MIN = 1, /* clusters in a table */
    QED_TABLE_MAX = 16,
    QED_TABLE_DEFAULT = 4,
    QED_TABLE_BYTES_MAX = 16 << 20, /* ours: one table must fit in memory */
    QED_HEADER_BYTES_MAX = 64 << 20,
    QED_NAME_MAX = 1023,      /* backing names that are written */
    QED_NAME_READ_MAX = 4095, /* ... that are read */
};

#define QED_MAGIC UINT32_C(0x00444551) /* "QED\0" */

/* header.features: an image with an unknown one must not be opened. */
#define QED_F_BACKING_FILE UINT64_C(1)
#define QED_F_NEED_CHECK UINT64_C(2)
#define QED_F_NO_PROBE UINT64_C(4) /* the backing file is raw */
#define QED_F_KNOWN UINT64_C(7)

/* Special values of table entries. */
#define QED_ENTRY_NONE UINT64_C(0)
#define QED_ENTRY_ZERO UINT64_C(1)

/* Host byte order. */
struct qed_header {
    uint32_t cluster_size; /* bytes */
    uint32_t table_size;   /* clusters */
    uint32_t header_size;  /* clusters */
    uint64_t features;
    uint64_t compat_features;    /* unknown ones may be ignored */
    uint64_t autoclear_features; /* unknown ones are cleared before writing */
    uint64_t l1_table_offset;    /* bytes */
    uint64_t image_size;         /* bytes */
    uint32_t backing_name_offset, backing_name_size;
};

/* Does an image that begins with @buf carry the magic? */
bool qed_probe(const uint8_t *buf, size_t len);

void qed_header_encode(const struct qed_header *h, uint8_t buf[QED_HEADER_LEN]);
/* Takes the fields as they are. -EINVAL when @len < QED_HEADER_LEN or the magic
 * is missing. */
int qed_header_decode(const uint8_t *buf, size_t len, struct qed_header *ret_h,
                      GError **err);
/* Is the image that @h describes, in a file of @file_size bytes, one that can
 * be used?  Checks every field and that nothing overflows.  The message names
 * field, offset and value; *@ret_where is that offset.
 * -EINVAL; -ENOTSUP for unknown features. */
int qed_header_validate(const struct qed_header *h, uint64_t file_size,
                        uint64_t *ret_where, GError **err);

/* The same rules for a new image: what a user may choose. */
int qed_geometry_validate(uint64_t cluster_size, uint64_t table_size,
                          uint64_t image_size, GError **err);

/* Bytes of a table; the largest image_size. Only for valid sizes. */
uint64_t qed_table_bytes(uint32_t cluster_size, uint32_t table_size);
uint64_t qed_max_image_size(uint32_t cluster_size, uint32_t table_size);
