/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts in memory: values, and the blocks that hold them.
 *
 * Widths below a byte fill a byte from its least significant bits; others are
 * big-endian.  A cluster whose block does not exist has refcount 0.
 */
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/space/prepared.h"
#include "format/qcow2/space/refcount.h"

G_STATIC_ASSERT(sizeof(gpointer) == sizeof(uint64_t));

gint qcow2_compare_numbers(gconstpointer a, gconstpointer b)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;

    return x < y ? -1 : x > y;
}

/* --- values --- */

static uint64_t small_get(unsigned order, const uint8_t *p, uint64_t i)
{
    unsigned bits = 1u << order, per_byte = 8u >> order;

    return (uint64_t)(p[i / per_byte] >> (i % per_byte * bits)) &
           ((1u << bits) - 1);
}

static void small_put(unsigned order, uint8_t *p, uint64_t i, uint64_t value)
{
    unsigned bits = 1u << order, per_byte = 8u >> order;
    unsigned shift = (unsigned)(i % per_byte) * bits;
    unsigned mask = ((1u << bits) - 1) << shift;

    p[i / per_byte] = (uint8_t)((p[i / per_byte] & ~mask) |
                                ((unsigned)value << shift & mask));
}

uint64_t qcow2_count_get(unsigned order, const void *block, uint64_t i)
{
    const uint8_t *p = block;

    switch (order) {
    case 3: return p[i];
    case 4: return get_be16(p + i * 2);
    case 5: return get_be32(p + i * 4);
    case 6: return get_be64(p + i * 8);
    default: return small_get(order, p, i);
    }
}

void qcow2_count_put(unsigned order, void *block, uint64_t i, uint64_t value)
{
    uint8_t *p = block;

    switch (order) {
    case 3: p[i] = (uint8_t)value; break;
    case 4: put_be16(p + i * 2, (uint16_t)value); break;
    case 5: put_be32(p + i * 4, (uint32_t)value); break;
    case 6: put_be64(p + i * 8, value); break;
    default: small_put(order, p, i, value);
    }
}

/* --- blocks that were changed --- */

void qcow2_dirty_free(void *dirty_block)
{
    g_free(dirty_block);
}

void qcow2_block_dirty(struct qcow2_image *img, struct table *t, uint32_t first,
                       uint32_t end)
{
    struct qcow2_refcounts *r = img->refcounts;
    gpointer key = GSIZE_TO_POINTER(t->key);
    struct qcow2_dirty_block *d = g_hash_table_lookup(r->dirty, key);

    if (!d) {
        d = g_new(struct qcow2_dirty_block, 1);
        *d = (struct qcow2_dirty_block) { t, first, end };
        metadata_cache_ref(&r->blocks, t);
        g_hash_table_insert(r->dirty, key, d);
    }
    qcow2_prepared_block_changed(img, t->key, first, end);
    d->first = MIN(d->first, first);
    d->end = MAX(d->end, end);
}

/* --- of clusters --- */

/* The block of @cluster, which is ready; NULL: there is none. */
static struct table *block_at(struct qcow2_image *img, uint64_t cluster)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t i = qcow2_block_of(r, cluster);
    struct table *t;

    if (i >= r->len || !r->table[i]) {
        return NULL;
    }
    t = metadata_cache_peek(&r->blocks, i);
    g_assert(t);
    return t;
}

static uint64_t index_of(const struct qcow2_refcounts *r, uint64_t cluster)
{
    return cluster & ((UINT64_C(1) << r->block_bits) - 1);
}

uint64_t qcow2_count_at(struct qcow2_image *img, uint64_t cluster)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct table *t = block_at(img, cluster);

    return t ? qcow2_count_get(r->order, t->data, index_of(r, cluster)) : 0;
}

void qcow2_count_set(struct qcow2_image *img, uint64_t cluster, uint64_t value)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct table *t = block_at(img, cluster);
    uint64_t i = index_of(r, cluster), bit = i << r->order;

    g_assert(t && value <= r->max);
    qcow2_count_put(r->order, t->data, i, value);
    qcow2_block_dirty(img, t, (uint32_t)(bit / 8),
                      (uint32_t)((bit + (UINT64_C(1) << r->order) + 7) / 8));
}

uint64_t qcow2_count_find(struct qcow2_image *img, uint64_t first, uint64_t end,
                          bool used)
{
    struct qcow2_refcounts *r = img->refcounts;

    while (first < end) {
        struct table *t = block_at(img, first);
        uint64_t stop = min_u64(
            end, qcow2_block_first(r, qcow2_block_of(r, first) + 1));

        if (!t && !used) {
            return first;
        }
        for (; t && first < stop; first++) {
            bool is_used = qcow2_count_get(r->order, t->data,
                                           index_of(r, first)) != 0;
            if (is_used == used) {
                return first;
            }
        }
        first = stop;
    }
    return end;
}
