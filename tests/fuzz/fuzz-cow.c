/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sidecar of an overlay: see image-rig.h for what is done with it.
 *
 * Input: flags, count of operations and operations as there; then shape (1), the
 * first bytes of one or two header slots (200 each), and patches of where (2) and
 * what (1): bytes of the summary, or from 32768 on of the map.  Slots get a
 * checksum that fits, and fields that nearly nothing would get past, unless the
 * shape says otherwise.
 */
#include <string.h>
#include "base/crc32c.h"
#include "base/endian.h"
#include "fuzz.h"
#include "image-rig.h"
#include "wire/cow.h"

enum { TWO = 1, RAW_A = 2, RAW_B = 4, FREE = 8 };
enum { HEAD = 200, MAP_PART = 32768, FILE_BYTES = COW_MAP_AT + MAP_PART };
static const uint8_t magic[8] = { 'S', 'l', 'C', 'O', 'W', '\r', '\n', 0x1a };

/* A name and a format that may be there, a size that has room in the file. */
static void slot_help(uint8_t *slot)
{
    memcpy(slot, magic, sizeof(magic));
    put_le32(slot + 8, 1);
    memset(slot + 40, 0, 16);
    put_le64(slot + 56, get_le64(slot + 56) % 78 * COW_SECTOR);
    put_le32(slot + 64, 12 + get_le32(slot + 64) % 10);
    put_le32(slot + 72, get_le32(slot + 72) & COW_KNOWS_BASE);
    put_le16(slot + 104, 4);
    put_le16(slot + 106, 3);
    memcpy(slot + 128, "dataraw", 7);
}

static void slot_put(uint8_t *slot, struct fuzz_input *in, bool raw, bool free)
{
    size_t len;
    const uint8_t *p = fuzz_take(in, HEAD, &len);

    if (len > 0) {
        memcpy(slot, p, len);
    }
    if (!free) {
        slot_help(slot);
    }
    if (!raw) {
        memcpy(slot, magic, sizeof(magic));
        put_le32(slot + 12, 0);
        put_le32(slot + 12, crc32c(slot, COW_SLOT_BYTES));
    }
}

static void maps_put(uint8_t *file, struct fuzz_input *in)
{
    while (in->len > 0) {
        unsigned where = fuzz_u16(in);
        uint8_t what = fuzz_u8(in);

        file[where < MAP_PART ? COW_SUMMARY_AT + where
                              : COW_MAP_AT + where - MAP_PART] = what;
    }
}

/* A header that passes is safe to compute with, and says the same again. */
static void header_check(const uint8_t *slot)
{
    uint8_t again[COW_SLOT_BYTES];
    struct cow_header h, h2;

    if (cow_header_decode(slot, &h, NULL) < 0) {
        return;
    }
    g_assert_cmpuint(cow_groups(&h), <=, COW_GROUPS_MAX);
    g_assert_cmpuint(cow_clusters(&h) << h.cluster_bits, >=, h.size);
    g_assert_cmpuint(h.size, <=, INT64_MAX);
    g_assert_null(strchr(h.data_name, '/'));
    cow_header_encode(&h, again);
    g_assert_cmpint(cow_header_decode(again, &h2, NULL), ==, 0);
    g_assert_cmpmem(&h, sizeof(h), &h2, sizeof(h2));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct image_format format = {
        .name = "cow",
        .magic = { 'S', 'l', 'C', 'O' },
        .header_len = 128,
        .data_files = true,
    };
    struct fuzz_input in = { data, len };
    size_t ops, got;
    g_autofree uint8_t *image = NULL;
    uint8_t *file;
    unsigned shape;

    if (len < 2) {
        return 0;
    }
    ops = 2 + MIN(data[1], IMAGE_RIG_OPS_MAX) * (size_t)8;
    fuzz_take(&in, ops, &got);
    image = g_malloc0(ops + FILE_BYTES);
    memcpy(image, data, got);
    image[0] &= (uint8_t)~IMAGE_RIG_PATCHES;
    file = image + ops;
    shape = fuzz_u8(&in);
    slot_put(file, &in, shape & RAW_A, shape & FREE);
    if (shape & TWO) {
        slot_put(file + COW_SLOT_BYTES, &in, shape & RAW_B, shape & FREE);
    }
    maps_put(file, &in);
    header_check(file);
    return image_rig_run(&format, image, ops + FILE_BYTES);
}
