/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/copy/dirty.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/units.h"

#define PAGE_BYTES 4096u
#define PAGE_BITS (PAGE_BYTES * 8u)
#define WORD_BITS 64u

struct page {
    unsigned used; /* bits that are set; never 0 */
    uint64_t words[PAGE_BITS / WORD_BITS];
};
struct dirty_map {
    uint64_t size;
    uint32_t granularity;
    uint64_t n_bits, n_set;
    uint64_t n_pages;
    struct page **pages; /* NULL: all clean */
};

static uint64_t bits_of(uint64_t size, uint64_t granularity)
{
    return size / granularity + (size % granularity != 0);
}

struct dirty_map *dirty_map_new(uint64_t size, uint32_t granularity,
                                GError **err)
{
    uint32_t least = DIRTY_DEFAULT_GRANULARITY;
    struct dirty_map *m;

    while (bits_of(size, least) / 8 > DIRTY_MAX_BYTES) {
        least *= 2;
    }
    if (granularity && bits_of(size, granularity) / 8 > DIRTY_MAX_BYTES) {
        g_autofree char *max = size_format(DIRTY_MAX_BYTES);

        err_set(err, EFBIG,
                "A granularity of %" PRIu32 " takes more than %s of memory "
                "for a disk of %" PRIu64 " bytes",
                granularity, max, size);
        err_hint(err, "Use one of at least %" PRIu32 ".", least);
        return NULL;
    }
    m = g_new0(struct dirty_map, 1);
    m->size = size;
    m->granularity = granularity ? granularity : least;
    m->n_bits = bits_of(size, m->granularity);
    m->n_pages = bits_of(m->n_bits, PAGE_BITS);
    m->pages = g_new0(struct page *, m->n_pages);
    return m;
}

void dirty_map_free(struct dirty_map *m)
{
    if (m) {
        for (uint64_t i = 0; i < m->n_pages; i++) {
            g_free(m->pages[i]);
        }
        g_free(m->pages);
        g_free(m);
    }
}

uint32_t dirty_map_granularity(const struct dirty_map *m)
{
    return m->granularity;
}

static bool bit_is_set(const struct dirty_map *m, uint64_t bit)
{
    const struct page *p = m->pages[bit / PAGE_BITS];

    return p && p->words[bit % PAGE_BITS / WORD_BITS] >> bit % WORD_BITS & 1;
}

static void bit_change(struct dirty_map *m, uint64_t bit, bool to)
{
    struct page **p = &m->pages[bit / PAGE_BITS];

    if (bit_is_set(m, bit) == to) {
        return;
    }
    if (!*p) {
        *p = g_new0(struct page, 1);
    }
    (*p)->words[bit % PAGE_BITS / WORD_BITS] ^= UINT64_C(1) << bit % WORD_BITS;
    (*p)->used += to ? 1 : UINT_MAX;
    m->n_set += to ? 1 : UINT64_MAX;
    if ((*p)->used == 0) {
        g_clear_pointer(p, g_free);
    }
}

void dirty_map_set(struct dirty_map *m, uint64_t off, uint64_t len)
{
    uint64_t end = bits_of(MIN(off + len, m->size), m->granularity);

    for (uint64_t bit = off / m->granularity; len && bit < end; bit++) {
        bit_change(m, bit, true);
    }
}

/* The first bit from @bit on, below @end, whose page holds any; or @end. */
static uint64_t skip_clean(const struct dirty_map *m, uint64_t bit,
                           uint64_t end)
{
    while (bit < end && !m->pages[bit / PAGE_BITS]) {
        bit = (bit / PAGE_BITS + 1) * PAGE_BITS;
    }
    return MIN(bit, end);
}

void dirty_map_clear(struct dirty_map *m, uint64_t off, uint64_t len)
{
    uint64_t end = off + len >= m->size ? m->n_bits
                                        : (off + len) / m->granularity;
    uint64_t bit = bits_of(off, m->granularity);

    while ((bit = skip_clean(m, bit, end)) < end) {
        bit_change(m, bit++, false);
    }
}

uint64_t dirty_map_bytes(const struct dirty_map *m)
{
    uint64_t tail = m->size % m->granularity;
    uint64_t bytes = m->n_set * m->granularity;

    return tail && m->n_set && bit_is_set(m, m->n_bits - 1)
               ? bytes - (m->granularity - tail)
               : bytes;
}

bool dirty_map_run(const struct dirty_map *m, uint64_t off, uint64_t max,
                   uint64_t *ret_len)
{
    uint64_t bit = off / m->granularity;
    uint64_t end = bits_of(MIN(off + max, m->size), m->granularity);
    bool dirty = bit_is_set(m, bit);

    do {
        bit = dirty ? bit + 1 : skip_clean(m, bit + 1, end);
    } while (bit < end && bit_is_set(m, bit) == dirty);
    *ret_len = MIN(bit * m->granularity - off, max);
    return dirty;
}
