/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sidecar of a copy-on-write overlay over a data file: its header slots and
 * where its maps are.  doc/cow-format.rst is the specification.  Pure encoding,
 * decoding and validation; no I/O.
 *
 *   0x000000  slot A, 0x001000 slot B: the header, 4 KiB each; the valid one
 *             with the higher generation counts
 *   0x010000  summary: 2 bits a group of 32,768 clusters
 *   0x110000  map: 4 KiB a group, 1 bit a cluster
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    COW_SLOTS = 2,
    COW_SLOT_BYTES = 4096,
    COW_UUID_BYTES = 16,
    COW_CLUSTER_BITS_MIN = 12,
    COW_CLUSTER_BITS_MAX = 21,
    COW_CLUSTER_BITS_DEFAULT = 12,
    COW_GROUP_BITS = 15,    /* log2 of the clusters of a group */
    COW_BLOCK_BYTES = 4096, /* of the map, for one group */
    COW_SUMMARY_AT = 0x10000,
    COW_MAP_AT = 0x110000,
    COW_GROUPS_MAX = 1 << 22, /* the summary ends where the map begins */
    COW_SECTOR = 512,         /* unit of the size */
    COW_DATA_NAME_MAX = 246,  /* a file name, with COW_PARTIAL behind it */
    COW_FORMAT_MAX = 63,
    COW_BACKING_MAX = 3072,
};
#define COW_PARTIAL ".partial"

/* Of a group in the summary. */
enum cow_group { COW_GROUP_NONE = 0, COW_GROUP_SOME = 1, COW_GROUP_ALL = 2 };

enum cow_state { COW_POPULATING = 0, COW_COMPLETE = 1 };

/* Which of the fields that bind the files together are known. */
enum { COW_KNOWS_DATA = 1, COW_KNOWS_BASE = 2, COW_KNOWS_TIME = 4 };

struct cow_header {
    uint64_t generation;
    uint8_t uuid[COW_UUID_BYTES];
    uint64_t size; /* of the disk, bytes */
    uint32_t cluster_bits;
    uint32_t state; /* enum cow_state */
    uint32_t known;
    uint64_t data_inode;
    uint64_t base_size;
    int64_t base_time; /* last change, seconds */
    char data_name[COW_DATA_NAME_MAX + 1];
    char data_format[COW_FORMAT_MAX + 1];
    char backing[COW_BACKING_MAX + 1];       /* "": none */
    char backing_format[COW_FORMAT_MAX + 1]; /* "": not recorded */
};

/* Does an image that begins with @buf carry the magic? */
bool cow_probe(const uint8_t *buf, size_t len);

void cow_header_encode(const struct cow_header *h, uint8_t buf[COW_SLOT_BYTES]);
/* -EINVAL: no magic, a checksum that does not fit, a field that cannot be;
 * -ENOTSUP: a version or a feature that is not known. The message names the
 * field. */
int cow_header_decode(const uint8_t buf[COW_SLOT_BYTES],
                      struct cow_header *ret_h, GError **err);
/* The header of a sidecar that begins with @slots. @ret_slot: where it is; the
 * other one is written next. *@ret_torn: the other slot holds something that is
 * not valid. Failures as above: of the slot that would have been it. */
int cow_header_choose(const uint8_t slots[COW_SLOTS * COW_SLOT_BYTES],
                      struct cow_header *ret_h, unsigned *ret_slot,
                      bool *ret_torn, GError **err);

/* What a user may choose. */
int cow_geometry_validate(uint64_t cluster_size, uint64_t size, GError **err);
/* A plain name: of a file beside the sidecar and nowhere else. */
int cow_data_name_validate(const char *name, GError **err);

/* Only for valid headers. */
static inline uint64_t cow_clusters(const struct cow_header *h)
{
    uint64_t mask = (UINT64_C(1) << h->cluster_bits) - 1;

    return (h->size >> h->cluster_bits) + ((h->size & mask) != 0);
}

static inline uint64_t cow_groups(const struct cow_header *h)
{
    uint64_t mask = (UINT64_C(1) << COW_GROUP_BITS) - 1;
    uint64_t n = cow_clusters(h);

    return (n >> COW_GROUP_BITS) + ((n & mask) != 0);
}

/* What the file is long, bytes. */
static inline uint64_t cow_file_bytes(const struct cow_header *h)
{
    return COW_MAP_AT + cow_groups(h) * COW_BLOCK_BYTES;
}
