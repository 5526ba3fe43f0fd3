/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of a host cache.  Input: flags (1), length of the file (4), header
 * (4096), table.  With flag 1 the header, and entries that say so, get checksums
 * that fit.
 * Whatever the file says, blocks are inside of the base, and the cache goes on
 * to work.
 */
#include <string.h>
#include "base/crc32c.h"
#include "base/endian.h"
#include "filter/cache/cache-store.h"
#include "fuzz.h"
#include "wire/cache-file.h"

enum { BITS = 12, BLOCKS = 20, SLOTS = 8 };
#define BLOCK (1u << BITS)
#define LIMIT \
    (2u * CACHE_HEADER_BYTES + SLOTS * (BLOCK + (unsigned)CACHE_ENTRY_BYTES))

static void told(void *arg, uint64_t block)
{
    g_assert_cmpuint(block, <, BLOCKS);
}

static void full(void *arg, int error)
{
}

static struct cache_store_options options = {
    .path = "/cache",
    .limit = LIMIT,
    .block_bits = BITS,
    .base_size = (BLOCKS - 1) * BLOCK + 1,
    .version = "v",
    .full = full,
    .damaged = told,
};

static CO_FN void walk(struct cache_store *s)
{
    static uint8_t buf[SLOTS * BLOCK];
    unsigned good;

    for (uint64_t block = 0; block < BLOCKS; block++) {
        unsigned n = cache_store_run(s, block, SLOTS);

        g_assert_cmpuint(n, <=, BLOCKS - block);
        if (n > 0) {
            cache_store_co_read(s, block, n, buf, &good);
            g_assert_cmpuint(good, <=, n);
        } else if (block % 3 == 0) {
            cache_store_co_write(s, block, 1, buf);
        }
    }
}

static uint8_t file[LIMIT];

/* @arg: how long the file is. */
static CO_FN void try_it(void *arg)
{
    uint64_t size = *(const uint64_t *)arg;

    fuzz_put_file(options.path, file, MIN(sizeof(file), size), size);
    for (unsigned i = 0; i < 2; i++) {
        struct cache_store *s = NULL;
        GError *err = NULL;

        if (cache_store_co_open(&options, &s, &err) < 0) {
            g_assert_nonnull(err);
            g_error_free(err);
            return;
        }
        walk(s);
        cache_store_co_close(s);
    }
}

static void help_header(uint8_t *header)
{
    struct cache_header h = {
        .epoch = get_le64(header),
        .base_size = options.base_size,
        .block_bits = BITS,
        .slots = cache_slots_of(LIMIT, BITS),
    };
    GChecksum *c = g_checksum_new(G_CHECKSUM_SHA256);
    gsize len = CACHE_VERSION_BYTES;

    g_checksum_update(c, (const guchar *)options.version, -1);
    g_checksum_get_digest(c, h.version, &len);
    g_checksum_free(c);
    cache_header_encode(&h, header);
}

static void help_entries(uint8_t *table, uint64_t epoch)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        uint8_t *at = table + (size_t)i * CACHE_ENTRY_BYTES;
        struct cache_entry e = {
            .block = get_le64(at) % (2 * BLOCKS),
            .used = get_le64(at + 8),
            .checksum = get_le32(at + 16),
        };

        if (at[24] & 1) {
            cache_entry_encode(&e, epoch, at);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    uint8_t flags = fuzz_u8(&in);
    uint64_t size = fuzz_u32(&in) % (2 * LIMIT);
    size_t n;
    const uint8_t *p;

    memset(file, 0, sizeof(file));
    p = fuzz_take(&in, CACHE_HEADER_BYTES, &n);
    memcpy(file, p, n);
    if (flags & 1) {
        uint64_t epoch = get_le64(file);

        help_header(file);
        p = fuzz_take(&in, SLOTS * CACHE_ENTRY_BYTES, &n);
        memcpy(file + CACHE_HEADER_BYTES, p, n);
        help_entries(file + CACHE_HEADER_BYTES, epoch);
    }
    fuzz_run(try_it, &size);
    return 0;
}
