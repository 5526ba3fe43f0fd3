/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands in a qcow2 image: header, header extensions, table entries.  All
 * numbers big-endian.  Pure encoding, decoding and validation; no I/O.
 *
 *   first cluster          header, extensions, then the backing name
 *   refcount table         u64 offsets of refcount blocks of one cluster each
 *   L1 table               u64 offsets of L2 tables of one cluster each
 *   L2 table               per guest cluster one descriptor: u64, followed by a
 *                          second u64 of subcluster bits with extended entries
 *
 * Versions 2 and 3; clusters of 512 bytes to 2 MiB.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QCOW2_SECTOR = 512, /* unit of a write that never tears */
    QCOW2_HEADER_V2 = 72,
    QCOW2_HEADER_V3 = 104,   /* the least */
    QCOW2_HEADER_OURS = 112, /* with compression_type */
    QCOW2_CLUSTER_BITS_MIN = 9,
    QCOW2_CLUSTER_BITS_MAX = 21,
    QCOW2_CLUSTER_DEFAULT = 65536,
    QCOW2_SUBCLUSTERS = 32,       /* with extended entries */
    QCOW2_EXTENDED_BITS_MIN = 14, /* cluster_bits with extended entries */
    QCOW2_L1_BYTES_MAX = 32 << 20,
    QCOW2_REFTABLE_BYTES_MAX = 8 << 20,
    QCOW2_SNAPSHOTS_MAX = 65536,
    QCOW2_NAME_MAX = 1023,
    QCOW2_FORMAT_MAX = 15, /* backing format name */
};

#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

/* incompatible_features: unknown ones refuse the image */
#define QCOW2_I_DIRTY (UINT64_C(1) << 0)
#define QCOW2_I_CORRUPT (UINT64_C(1) << 1)
#define QCOW2_I_DATA_FILE (UINT64_C(1) << 2)
#define QCOW2_I_COMPRESSION (UINT64_C(1) << 3)
#define QCOW2_I_EXTENDED_L2 (UINT64_C(1) << 4)
#define QCOW2_I_KNOWN UINT64_C(0x1f)
/* compatible_features */
#define QCOW2_C_LAZY_REFCOUNTS (UINT64_C(1) << 0)
/* autoclear_features: unknown ones are cleared before writing */
#define QCOW2_A_BITMAPS (UINT64_C(1) << 0)
#define QCOW2_A_DATA_RAW (UINT64_C(1) << 1)
#define QCOW2_A_KNOWN UINT64_C(3)

enum qcow2_crypt_method { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };
enum qcow2_compression { QCOW2_ZLIB, QCOW2_ZSTD, QCOW2_COMPRESSIONS };

/* Types of header extensions. */
#define QCOW2_EXT_END UINT32_C(0)
#define QCOW2_EXT_FORMAT UINT32_C(0xe2792aca)   /* of the backing file */
#define QCOW2_EXT_FEATURES UINT32_C(0x6803f857) /* their names */
#define QCOW2_EXT_BITMAPS UINT32_C(0x23852875)
#define QCOW2_EXT_CRYPT UINT32_C(0x0537be77)
#define QCOW2_EXT_DATA_FILE UINT32_C(0x44415441)

/* --- header --- */

/* Host byte order. Fields that version 2 lacks hold their implied values. */
struct qcow2_header {
    uint32_t version;
    uint64_t backing_offset; /* 0: no backing file */
    uint32_t backing_len;
    uint32_t cluster_bits;
    uint64_t size;         /* bytes */
    uint32_t crypt_method; /* enum qcow2_crypt_method */
    uint32_t l1_size;      /* entries */
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompat, compat, autoclear;
    uint32_t refcount_order; /* a refcount has 1 << order bits */
    uint32_t header_length;
    uint8_t compression_type; /* enum qcow2_compression */
};

bool qcow2_probe(const uint8_t *buf, size_t len);
/* Write the fields of @h into @buf, which holds at least min(header_length,
 * QCOW2_HEADER_OURS) bytes; others stay as they are. */
void qcow2_header_encode(const struct qcow2_header *h, uint8_t *buf);
/* Takes the fields as they are. -EINVAL: too short, no magic; -ENOTSUP: unknown
 * version. */
int qcow2_header_decode(const uint8_t *buf, size_t len,
                        struct qcow2_header *ret_h, GError **err);
/* Is the image that @h describes, in a file of @file_size bytes, one that can
 * be used? Unknown incompatible features are not looked at. The message names
 * field, offset and value; *@ret_where is that offset. -EINVAL; -ENOTSUP,
 * -EFBIG for what is beyond our limits. */
int qcow2_header_validate(const struct qcow2_header *h, uint64_t file_size,
                          uint64_t *ret_where, GError **err);
/* L1 entries for a disk of @size bytes; UINT64_MAX when they cannot be
 * counted. */
uint64_t qcow2_l1_entries(uint64_t size, unsigned cluster_bits, bool extended);

/* --- header extensions --- */

struct qcow2_ext {
    uint32_t type, len;
    uint8_t *data; /* @len bytes */
    bool doubled;  /* the file has more of that known type; this
                                    * is the last one */
};
/* In the order of the file; struct qcow2_ext. Frees what it holds. */
GArray *qcow2_exts_new(void);
/* Parse @area, the bytes from header_length to the end of the first cluster or
 * to the backing name. @at: its offset in the file, for messages. Of a known
 * type that is there more than once the last one counts, as in QEMU. */
int qcow2_exts_decode(GArray *exts, const uint8_t *area, size_t len,
                      uint64_t at, uint64_t *ret_where, GError **err);
const struct qcow2_ext *qcow2_exts_find(const GArray *exts, uint32_t type);
/* One that the file has more than once; NULL: there is none. */
const struct qcow2_ext *qcow2_exts_doubled(const GArray *exts);
/* Set or (@data NULL) remove one. */
void qcow2_exts_set(GArray *exts, uint32_t type, const void *data,
                    uint32_t len);
GArray *qcow2_exts_copy(const GArray *exts);
/* Bytes of all with their end marker. */
size_t qcow2_exts_size(const GArray *exts);
/* Write all, small ones that change first, names of features last. Names are
 * dropped from their end while the rest is larger than @room: they are only for
 * messages. Returns the bytes written; 0 when even then there is no room. */
size_t qcow2_exts_encode(const GArray *exts, uint8_t *buf, size_t room);

/* Put @e in the place of the one of its type in @area (which may end in the
 * middle of one); false when it is not there, or does not take the same
 * room. */
bool qcow2_exts_patch(uint8_t *area, size_t len, const struct qcow2_ext *e);

/* Does the list in @area end in it? */
bool qcow2_exts_closed(const uint8_t *area, size_t len);

enum qcow2_feature_kind {
    QCOW2_INCOMPATIBLE,
    QCOW2_COMPATIBLE,
    QCOW2_AUTOCLEAR
};
/* The names of the set @bits, as the image's table or else we know them, joined
 * by commas. Printable. Owned by the caller. */
char *qcow2_feature_names(const GArray *exts, enum qcow2_feature_kind kind,
                          uint64_t bits);
/* Put the table of all features that we know into @exts. */
void qcow2_exts_add_feature_names(GArray *exts);

/* --- table entries --- */

#define QCOW2_COPIED (UINT64_C(1) << 63) /* the refcount is exactly 1 */
#define QCOW2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_ZERO_FLAG UINT64_C(1) /* standard entries of version 3 */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
/* Zero in every entry but compressed ones. */
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)
/* Of a refcount table entry. */
#define QCOW2_REFBLOCK_MASK (~UINT64_C(0x1ff))

/* What decides the meaning of a descriptor. */
struct qcow2_shape {
    uint8_t version, cluster_bits;
    bool extended;  /* 16 bytes per descriptor */
    bool data_file; /* host offset 0 is a place */
};

/* One guest cluster's descriptor, in host byte order. */
struct qcow2_desc {
    uint64_t entry;
    uint64_t bits; /* extended: 0-31 allocated, 32-63 zero */
};

enum qcow2_kind {
    QCOW2_ABSENT, /* ask the backing file */
    QCOW2_ZERO,   /* reads as zeroes; may have a host cluster */
    QCOW2_DATA,
    QCOW2_RUN_COMPRESSED,
    QCOW2_INVALID,
};

/* Descriptor @i of a table as in the file. */
struct qcow2_desc qcow2_desc_get(const struct qcow2_shape *s, const void *table,
                                 uint32_t i);
void qcow2_desc_put(const struct qcow2_shape *s, void *table, uint32_t i,
                    struct qcow2_desc d);
/* What subcluster @sub (0 without extended entries) is. */
enum qcow2_kind qcow2_desc_kind(const struct qcow2_shape *s,
                                struct qcow2_desc d, unsigned sub);
/* How many subclusters from @sub are of its kind. */
unsigned qcow2_desc_run(const struct qcow2_shape *s, struct qcow2_desc d,
                        unsigned sub);
/* Has the cluster a place of its own in the file (zero ones may)? Its offset is
 * entry & QCOW2_OFFSET_MASK. */
bool qcow2_desc_has_host(const struct qcow2_shape *s, struct qcow2_desc d);
/* QCOW2_RUN_COMPRESSED: where the stream begins and the most bytes it can have
 * (to the end of its last sector). */
void qcow2_compressed_get(const struct qcow2_shape *s, uint64_t entry,
                          uint64_t *ret_offset, uint32_t *ret_len);
/* The entry of a stream; 0 when @offset is too large for the field. */
uint64_t qcow2_compressed_entry(const struct qcow2_shape *s, uint64_t offset,
                                uint32_t len);

/*
 * A change of one descriptor that is not in its table yet.  With @whole the
 * rest is applied to an empty descriptor, else to what was there.  Applying it
 * twice is applying it once; two that touch different subclusters commute.
 */
struct qcow2_delta {
    uint64_t entry;            /* 0: as it was */
    uint32_t data, zero, none; /* subclusters that become that; disjoint */
    bool whole;
};
struct qcow2_desc qcow2_delta_apply(struct qcow2_desc d,
                                    const struct qcow2_delta *delta);
/* @into, then @newer, as one. */
void qcow2_delta_merge(struct qcow2_delta *into,
                       const struct qcow2_delta *newer);
