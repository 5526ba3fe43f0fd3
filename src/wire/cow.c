/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Header slots of the sidecar: see wire/cow.h and doc/cow-format.rst. */
#include "wire/cow.h"
#include <inttypes.h>
#include <string.h>
#include "base/crc32c.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/iov.h"
#include "base/math.h"

/* With line ends of two kinds, so that a copy made as text does not pass. */
static const uint8_t cow_magic[8] = {
    'S', 'l', 'C', 'O', 'W', '\r', '\n', 0x1a
};

#define VERSION 1

/* Offsets of fields in a slot. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_CRC = 12,
    AT_GENERATION = 16,
    AT_UUID = 24,
    AT_INCOMPATIBLE = 40,
    AT_COMPATIBLE = 48,
    AT_SIZE = 56,
    AT_CLUSTER_BITS = 64,
    AT_STATE = 68,
    AT_KNOWN = 72,
    AT_DATA_INODE = 80,
    AT_BASE_SIZE = 88,
    AT_BASE_TIME = 96,
    AT_LENGTHS = 104,
    AT_STRINGS = 128,
};

struct text {
    const char *what;
    size_t offset, max; /* in struct cow_header */
};
static const struct text texts[] = {
    { "data file name", offsetof(struct cow_header, data_name),
      COW_DATA_NAME_MAX },
    { "data format", offsetof(struct cow_header, data_format), COW_FORMAT_MAX },
    { "backing file name", offsetof(struct cow_header, backing),
      COW_BACKING_MAX },
    { "backing format", offsetof(struct cow_header, backing_format),
      COW_FORMAT_MAX },
};
G_STATIC_ASSERT(AT_STRINGS + COW_DATA_NAME_MAX + COW_BACKING_MAX +
                    2 * COW_FORMAT_MAX <=
                COW_SLOT_BYTES);
G_STATIC_ASSERT(COW_SUMMARY_AT + COW_GROUPS_MAX / 4 == COW_MAP_AT);

bool cow_probe(const uint8_t *buf, size_t len)
{
    return len >= sizeof(cow_magic) &&
           memcmp(buf, cow_magic, sizeof(cow_magic)) == 0;
}

/* --- rules --- */

int cow_geometry_validate(uint64_t cluster_size, uint64_t size, GError **err)
{
    uint64_t max;

    if (!is_power_of_two(cluster_size) ||
        cluster_size < UINT64_C(1) << COW_CLUSTER_BITS_MIN ||
        cluster_size > UINT64_C(1) << COW_CLUSTER_BITS_MAX) {
        return err_set(err, EINVAL,
                       "Cluster size must be a power of two "
                       "between %" PRIu64 " and %" PRIu64 " bytes",
                       UINT64_C(1) << COW_CLUSTER_BITS_MIN,
                       UINT64_C(1) << COW_CLUSTER_BITS_MAX);
    }
    max = cluster_size * COW_GROUPS_MAX << COW_GROUP_BITS;
    if (size % COW_SECTOR || size > max) {
        return err_set(err, EINVAL,
                       "Image size %" PRIu64 " must be a multiple "
                       "of %d and, with clusters of %" PRIu64 " bytes, at most "
                       "%" PRIu64,
                       size, COW_SECTOR, cluster_size, max);
    }
    return 0;
}

int cow_data_name_validate(const char *name, GError **err)
{
    size_t len = strlen(name);

    if (len == 0 || len > COW_DATA_NAME_MAX) {
        return err_set(err, EINVAL,
                       "The data file's name has %zu bytes; it "
                       "may have 1 to %d",
                       len, COW_DATA_NAME_MAX);
    }
    if (strchr(name, '/') || g_str_equal(name, ".") ||
        g_str_equal(name, "..")) {
        return err_set(err, EINVAL,
                       "The data file's name '%s' must be that of "
                       "a file in the image's own folder",
                       name);
    }
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            return err_set(err, EINVAL,
                           "The data file's name holds control "
                           "characters (offset %zu)",
                           (size_t)(p - name));
        }
    }
    return g_utf8_validate(name, -1, NULL)
               ? 0
               : err_set(err, EINVAL,
                         "The data file's name is not valid UTF-8");
}

static int cow_header_validate(const struct cow_header *h, GError **err)
{
    int ret;

    if (h->cluster_bits < COW_CLUSTER_BITS_MIN ||
        h->cluster_bits > COW_CLUSTER_BITS_MAX) {
        return err_set(err, EINVAL, "cluster_bits is %u, must be %d to %d",
                       h->cluster_bits, COW_CLUSTER_BITS_MIN,
                       COW_CLUSTER_BITS_MAX);
    }
    ret = cow_geometry_validate(UINT64_C(1) << h->cluster_bits, h->size, err);
    if (ret == 0) {
        ret = cow_data_name_validate(h->data_name, err);
    }
    if (ret == 0 && h->state > COW_COMPLETE) {
        ret = err_set(err, EINVAL, "state is %u", h->state);
    }
    if (ret == 0 && h->generation == 0) {
        ret = err_set(err, EINVAL, "generation is 0");
    }
    if (ret == 0 && !h->data_format[0]) {
        ret = err_set(err, EINVAL, "the data format is empty");
    }
    if (ret == 0 && h->state == COW_COMPLETE && h->backing[0]) {
        ret = err_set(err, EINVAL, "a complete image names a backing file");
    }
    return ret;
}

/* --- encode, decode --- */

void cow_header_encode(const struct cow_header *h, uint8_t buf[COW_SLOT_BYTES])
{
    size_t at = AT_STRINGS;

    memset(buf, 0, COW_SLOT_BYTES);
    memcpy(buf + AT_MAGIC, cow_magic, sizeof(cow_magic));
    put_le32(buf + AT_VERSION, VERSION);
    put_le64(buf + AT_GENERATION, h->generation);
    memcpy(buf + AT_UUID, h->uuid, COW_UUID_BYTES);
    put_le64(buf + AT_SIZE, h->size);
    put_le32(buf + AT_CLUSTER_BITS, h->cluster_bits);
    put_le32(buf + AT_STATE, h->state);
    put_le32(buf + AT_KNOWN, h->known);
    put_le64(buf + AT_DATA_INODE, h->data_inode);
    put_le64(buf + AT_BASE_SIZE, h->base_size);
    put_le64(buf + AT_BASE_TIME, (uint64_t)h->base_time);
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        const char *s = (const char *)h + texts[i].offset;
        size_t len = strlen(s);

        put_le16(buf + AT_LENGTHS + 2 * i, (uint16_t)len);
        memcpy(buf + at, s, len);
        at += len;
    }
    put_le32(buf + AT_CRC, crc32c(buf, COW_SLOT_BYTES));
}

static int texts_decode(const uint8_t *buf, struct cow_header *h, GError **err)
{
    size_t at = AT_STRINGS;

    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        size_t len = get_le16(buf + AT_LENGTHS + 2 * i);
        char *to = (char *)h + texts[i].offset;

        if (len > texts[i].max) {
            return err_set(err, EINVAL, "the %s has %zu bytes, may have %zu",
                           texts[i].what, len, texts[i].max);
        }
        if (memchr(buf + at, 0, len)) {
            return err_set(err, EINVAL, "the %s holds a NUL byte",
                           texts[i].what);
        }
        memcpy(to, buf + at, len);
        to[len] = '\0';
        at += len;
    }
    return 0;
}

static int crc_check(const uint8_t *buf, GError **err)
{
    uint8_t copy[COW_SLOT_BYTES];

    memcpy(copy, buf, sizeof(copy));
    put_le32(copy + AT_CRC, 0);
    return crc32c(copy, sizeof(copy)) == get_le32(buf + AT_CRC)
               ? 0
               : err_set(err, EINVAL, "the checksum does not fit");
}

int cow_header_decode(const uint8_t buf[COW_SLOT_BYTES],
                      struct cow_header *ret_h, GError **err)
{
    struct cow_header h = { 0 };
    int ret;

    if (!cow_probe(buf, COW_SLOT_BYTES)) {
        return err_set(err, EINVAL, "there is no magic");
    }
    ret = crc_check(buf, err);
    if (ret < 0) {
        return ret;
    }
    if (get_le32(buf + AT_VERSION) != VERSION) {
        return err_set(err, ENOTSUP, "version %u is not known",
                       get_le32(buf + AT_VERSION));
    }
    if (get_le64(buf + AT_INCOMPATIBLE)) {
        return err_set(err, ENOTSUP,
                       "incompatible features 0x%" PRIx64 " are not known",
                       get_le64(buf + AT_INCOMPATIBLE));
    }
    h.generation = get_le64(buf + AT_GENERATION);
    memcpy(h.uuid, buf + AT_UUID, COW_UUID_BYTES);
    h.size = get_le64(buf + AT_SIZE);
    h.cluster_bits = get_le32(buf + AT_CLUSTER_BITS);
    h.state = get_le32(buf + AT_STATE);
    h.known = get_le32(buf + AT_KNOWN);
    h.data_inode = get_le64(buf + AT_DATA_INODE);
    h.base_size = get_le64(buf + AT_BASE_SIZE);
    h.base_time = (int64_t)get_le64(buf + AT_BASE_TIME);
    ret = texts_decode(buf, &h, err);
    if (ret == 0) {
        ret = cow_header_validate(&h, err);
    }
    if (ret == 0) {
        *ret_h = h;
    }
    return ret;
}

int cow_header_choose(const uint8_t slots[COW_SLOTS * COW_SLOT_BYTES],
                      struct cow_header *ret_h, unsigned *ret_slot,
                      bool *ret_torn, GError **err)
{
    struct cow_header h[COW_SLOTS];
    g_autoptr(GError) first = NULL;
    int ret[COW_SLOTS];

    for (unsigned i = 0; i < COW_SLOTS; i++) {
        GError *why = NULL;

        ret[i] = cow_header_decode(slots + i * COW_SLOT_BYTES, &h[i], &why);
        /* One that a newer program wrote is not to be passed over. */
        if (ret[i] == -ENOTSUP) {
            g_propagate_prefixed_error(err, why, "header slot %u: ", i);
            return ret[i];
        }
        if (i == 0) {
            first = why;
        } else {
            g_clear_error(&why);
        }
    }
    if (ret[0] != 0 && ret[1] != 0) {
        g_propagate_prefixed_error(err, g_steal_pointer(&first),
                                   "no header slot is valid; the first: ");
        return ret[0];
    }
    if (ret[0] == 0 && ret[1] == 0 &&
        (h[0].generation == h[1].generation ||
         memcmp(h[0].uuid, h[1].uuid, COW_UUID_BYTES))) {
        return err_set(err, EINVAL,
                       "the two header slots do not belong "
                       "together");
    }
    *ret_slot = ret[0] != 0 ||
                (ret[1] == 0 && h[1].generation > h[0].generation);
    *ret_h = h[*ret_slot];
    *ret_torn = ret[1 - *ret_slot] != 0 &&
                !buf_is_zero(slots + (1 - *ret_slot) * COW_SLOT_BYTES,
                             COW_SLOT_BYTES);
    return 0;
}
