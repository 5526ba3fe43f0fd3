/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of a host cache: a header, a table with an entry a slot, the slots.
 *
 *   0         header, 4 KiB
 *   4096      table: 32 bytes a slot
 *   data_at   slots of block_size bytes
 *
 * Nothing in it is needed and nothing is ordered: an entry says what its slot
 * should hold, and the checksum says whether it does.  Checksums begin with the
 * epoch, another number whenever the cache is emptied (the time, and more than
 * the one before), so what was written before that is never taken for what is
 * there now.  Pure encoding and decoding; no I/O.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CACHE_HEADER_BYTES = 4096,
    CACHE_ENTRY_BYTES = 32,
    CACHE_BLOCK_BITS_MIN = 12,
    CACHE_BLOCK_BITS_MAX = 20,
    CACHE_VERSION_BYTES = 32, /* SHA-256 of the base's version */
};
#define CACHE_SLOTS_MAX (1u << 30)

struct cache_header {
    uint64_t epoch;
    uint64_t base_size; /* bytes */
    uint32_t block_bits;
    uint32_t slots;
    uint8_t version[CACHE_VERSION_BYTES]; /* of the base */
};

struct cache_entry {
    uint64_t block;    /* of the base: number */
    uint64_t used;     /* when it was used, in uses of the cache */
    uint32_t checksum; /* of the slot */
};

enum cache_look { CACHE_NONE, CACHE_DAMAGED, CACHE_GOOD };

/* Where the first slot begins. */
uint64_t cache_data_at(uint32_t slots);
/* How many slots a file of @size bytes has room for. */
uint32_t cache_slots_of(uint64_t size, uint32_t block_bits);

void cache_header_encode(const struct cache_header *h,
                         uint8_t buf[CACHE_HEADER_BYTES]);
/* NONE: no header of a cache. *@ret only when GOOD. */
enum cache_look cache_header_decode(const uint8_t buf[CACHE_HEADER_BYTES],
                                    struct cache_header *ret);
void cache_entry_encode(const struct cache_entry *e, uint64_t epoch,
                        uint8_t buf[CACHE_ENTRY_BYTES]);
/* False: the slot is free, or nobody knows. */
bool cache_entry_decode(const uint8_t buf[CACHE_ENTRY_BYTES], uint64_t epoch,
                        struct cache_entry *ret);
/* Of @len bytes of @block. */
uint32_t cache_checksum(uint64_t epoch, uint64_t block, const void *buf,
                        size_t len);
