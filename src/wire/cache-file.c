/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/cache-file.h"

#include <string.h>

#include "base/crc32c.h"
#include "base/endian.h"
#include "base/math.h"

static const char magic[16] = "sluice cache 1\n";

/* Of the header. */
enum {
    EPOCH = 16,
    BASE_SIZE = 24,
    BLOCK_BITS = 32,
    SLOTS = 36,
    VERSION = 40,
    MAGIC_AGAIN = CACHE_HEADER_BYTES - 20,
    HEADER_SUM = CACHE_HEADER_BYTES - 4,
};
/* Of an entry. The block's number plus one: zero is free. */
enum { BLOCK = 0, USED = 8, CHECKSUM = 16, ENTRY_SUM = CACHE_ENTRY_BYTES - 4 };

uint64_t cache_data_at(uint32_t slots)
{
    return round_up(CACHE_HEADER_BYTES + (uint64_t)slots * CACHE_ENTRY_BYTES,
                    CACHE_HEADER_BYTES);
}

uint32_t cache_slots_of(uint64_t size, uint32_t block_bits)
{
    uint64_t each = (UINT64_C(1) << block_bits) + CACHE_ENTRY_BYTES;
    /* The table is rounded up. */
    uint64_t fixed = 2 * CACHE_HEADER_BYTES;

    return size <= fixed
               ? 0
               : (uint32_t)MIN((size - fixed) / each, CACHE_SLOTS_MAX);
}

void cache_header_encode(const struct cache_header *h,
                         uint8_t buf[CACHE_HEADER_BYTES])
{
    memset(buf, 0, CACHE_HEADER_BYTES);
    memcpy(buf, magic, sizeof(magic));
    put_le64(buf + EPOCH, h->epoch);
    put_le64(buf + BASE_SIZE, h->base_size);
    put_le32(buf + BLOCK_BITS, h->block_bits);
    put_le32(buf + SLOTS, h->slots);
    memcpy(buf + VERSION, h->version, CACHE_VERSION_BYTES);
    memcpy(buf + MAGIC_AGAIN, magic, sizeof(magic));
    put_le32(buf + HEADER_SUM, crc32c(buf, HEADER_SUM));
}

enum cache_look cache_header_decode(const uint8_t buf[CACHE_HEADER_BYTES],
                                    struct cache_header *ret)
{
    struct cache_header h;

    /* Damage in one of them makes no file of somebody else of it. */
    if (memcmp(buf, magic, sizeof(magic)) &&
        memcmp(buf + MAGIC_AGAIN, magic, sizeof(magic))) {
        return CACHE_NONE;
    }
    if (get_le32(buf + HEADER_SUM) != crc32c(buf, HEADER_SUM)) {
        return CACHE_DAMAGED;
    }
    h.epoch = get_le64(buf + EPOCH);
    h.base_size = get_le64(buf + BASE_SIZE);
    h.block_bits = get_le32(buf + BLOCK_BITS);
    h.slots = get_le32(buf + SLOTS);
    memcpy(h.version, buf + VERSION, CACHE_VERSION_BYTES);
    if (h.block_bits < CACHE_BLOCK_BITS_MIN ||
        h.block_bits > CACHE_BLOCK_BITS_MAX || h.slots > CACHE_SLOTS_MAX) {
        return CACHE_DAMAGED;
    }
    *ret = h;
    return CACHE_GOOD;
}

static uint32_t entry_sum(const uint8_t *buf, uint64_t epoch)
{
    uint8_t with_epoch[8 + ENTRY_SUM];

    put_le64(with_epoch, epoch);
    memcpy(with_epoch + 8, buf, ENTRY_SUM);
    return crc32c(with_epoch, sizeof(with_epoch));
}

void cache_entry_encode(const struct cache_entry *e, uint64_t epoch,
                        uint8_t buf[CACHE_ENTRY_BYTES])
{
    memset(buf, 0, CACHE_ENTRY_BYTES);
    put_le64(buf + BLOCK, e->block + 1);
    put_le64(buf + USED, e->used);
    put_le32(buf + CHECKSUM, e->checksum);
    put_le32(buf + ENTRY_SUM, entry_sum(buf, epoch));
}

bool cache_entry_decode(const uint8_t buf[CACHE_ENTRY_BYTES], uint64_t epoch,
                        struct cache_entry *ret)
{
    uint64_t block = get_le64(buf + BLOCK);

    if (block == 0 || get_le32(buf + ENTRY_SUM) != entry_sum(buf, epoch)) {
        return false;
    }
    *ret = (struct cache_entry) {
        .block = block - 1,
        .used = get_le64(buf + USED),
        .checksum = get_le32(buf + CHECKSUM),
    };
    return true;
}

uint32_t cache_checksum(uint64_t epoch, uint64_t block, const void *buf,
                        size_t len)
{
    uint8_t seed[16];

    put_le64(seed, epoch);
    put_le64(seed + 8, block);
    return crc32c_more(crc32c(seed, sizeof(seed)), buf, len);
}
