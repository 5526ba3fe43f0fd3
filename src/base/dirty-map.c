/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/dirty-map.h"
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
    return dirty_map_new_within(size, granularity, DIRTY_MAX_BYTES, err);
}

struct dirty_map *dirty_map_new_within(uint64_t size, uint32_t granularity,
                                       uint64_t max_bytes, GError **err)
{
    uint32_t least = DIRTY_DEFAULT_GRANULARITY;
    struct dirty_map *m;

    while (bits_of(size, least) / 8 > max_bytes) {
        least *= 2;
    }
    if (granularity && bits_of(size, granularity) / 8 > max_bytes) {
        g_autofree char *max = size_format(max_bytes);

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

static void word_change(struct dirty_map *m, uint64_t bit, uint64_t mask,
                        bool to)
{
    struct page **p = &m->pages[bit / PAGE_BITS];
    uint64_t *word, was;
    unsigned changed;

    if (!*p && !to) {
        return;
    }
    if (!*p) {
        *p = g_new0(struct page, 1);
    }
    word = &(*p)->words[bit % PAGE_BITS / WORD_BITS];
    was = *word;
    *word = to ? was | mask : was & ~mask;
    changed = (unsigned)__builtin_popcountll(was ^ *word);
    (*p)->used += to ? changed : -changed;
    m->n_set += to ? changed : -(uint64_t)changed;
    if ((*p)->used == 0) {
        g_clear_pointer(p, g_free);
    }
}

/* Bits from @bit on, below @end. */
static void bits_change(struct dirty_map *m, uint64_t bit, uint64_t end,
                        bool to)
{
    while (bit < end) {
        uint64_t n = MIN(WORD_BITS - bit % WORD_BITS, end - bit);
        uint64_t ones = n == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << n) - 1;

        word_change(m, bit, ones << bit % WORD_BITS, to);
        bit += n;
    }
}

void dirty_map_set(struct dirty_map *m, uint64_t off, uint64_t len)
{
    if (len > 0 && off < m->size) {
        uint64_t rest = m->size - off;

        bits_change(m, off / m->granularity,
                    bits_of(off + MIN(len, rest), m->granularity), true);
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
        uint64_t stop = MIN((bit / PAGE_BITS + 1) * PAGE_BITS, end);

        bits_change(m, bit, stop, false);
        bit = stop;
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

bool dirty_map_next(const struct dirty_map *m, uint64_t off, uint64_t *ret_off,
                    uint64_t *ret_len)
{
    uint64_t len;

    while (off < m->size) {
        if (dirty_map_run(m, off, m->size - off, &len)) {
            *ret_off = off;
            *ret_len = len;
            return true;
        }
        off += len;
    }
    return false;
}

void dirty_map_merge(struct dirty_map *m, const struct dirty_map *from)
{
    uint64_t off = 0, len;

    g_assert(m->size == from->size);
    for (; dirty_map_next(from, off, &off, &len); off += len) {
        dirty_map_set(m, off, len);
    }
}

struct dirty_map *dirty_map_copy(const struct dirty_map *m)
{
    struct dirty_map *copy = g_memdup2(m, sizeof(*m));

    copy->pages = g_new0(struct page *, m->n_pages);
    for (uint64_t i = 0; i < m->n_pages; i++) {
        copy->pages[i] = m->pages[i]
                             ? g_memdup2(m->pages[i], sizeof(struct page))
                             : NULL;
    }
    return copy;
}

void dirty_map_resize(struct dirty_map *m, uint64_t size)
{
    uint64_t n_bits = bits_of(size, m->granularity);
    uint64_t n_pages = bits_of(n_bits, PAGE_BITS);

    if (n_bits < m->n_bits) {
        bits_change(m, n_bits, m->n_bits, false);
    }
    for (uint64_t i = n_pages; i < m->n_pages; i++) {
        g_assert(!m->pages[i]);
    }
    m->pages = g_renew(struct page *, m->pages, n_pages);
    for (uint64_t i = m->n_pages; i < n_pages; i++) {
        m->pages[i] = NULL;
    }
    m->size = size;
    m->n_bits = n_bits;
    m->n_pages = n_pages;
}

uint64_t dirty_map_size(const struct dirty_map *m)
{
    return m->size;
}

uint64_t dirty_map_count(const struct dirty_map *m)
{
    return m->n_set;
}

uint64_t dirty_map_words(const struct dirty_map *m)
{
    return bits_of(m->n_bits, WORD_BITS);
}

uint64_t dirty_map_word(const struct dirty_map *m, uint64_t i)
{
    const struct page *p = m->pages[i * WORD_BITS / PAGE_BITS];

    return p ? p->words[i % (PAGE_BITS / WORD_BITS)] : 0;
}
