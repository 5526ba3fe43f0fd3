/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts: values, and the blocks that hold them.
 *
 * Widths below a byte fill a byte from its least significant bits; others are
 * big-endian.  A cluster whose block does not exist has refcount 0.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/refcount.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"

G_STATIC_ASSERT(sizeof(gpointer) == sizeof(uint64_t));

gint qcow2_compare_numbers(gconstpointer a, gconstpointer b)
{
    uintptr_t x = (uintptr_t) a, y = (uintptr_t) b;

    return x < y ? -1 : x > y;
}

/* --- values --- */

static uint64_t small_get(unsigned order, const uint8_t *p, uint64_t i)
{
    unsigned bits = 1u << order, per_byte = 8u >> order;

    return (uint64_t) (p[i / per_byte] >> (i % per_byte * bits)) &
           ((1u << bits) - 1);
}

static void small_put(unsigned order, uint8_t *p, uint64_t i, uint64_t value)
{
    unsigned bits = 1u << order, per_byte = 8u >> order;
    unsigned shift = (unsigned) (i % per_byte) * bits;
    unsigned mask = ((1u << bits) - 1) << shift;

    p[i / per_byte] = (uint8_t) ((p[i / per_byte] & ~mask) |
                                 ((unsigned) value << shift & mask));
}

uint64_t qcow2_count_get(unsigned order, const void *block, uint64_t i)
{
    const uint8_t *p = block;

    switch (order) {
    case 3:
        return p[i];
    case 4:
        return get_be16(p + i * 2);
    case 5:
        return get_be32(p + i * 4);
    case 6:
        return get_be64(p + i * 8);
    default:
        return small_get(order, p, i);
    }
}

void qcow2_count_put(unsigned order, void *block, uint64_t i, uint64_t value)
{
    uint8_t *p = block;

    switch (order) {
    case 3:
        p[i] = (uint8_t) value;
        break;
    case 4:
        put_be16(p + i * 2, (uint16_t) value);
        break;
    case 5:
        put_be32(p + i * 4, (uint32_t) value);
        break;
    case 6:
        put_be64(p + i * 8, value);
        break;
    default:
        small_put(order, p, i, value);
    }
}

/* --- blocks --- */

static CO_FN int qcow2_block_co_load(void *arg, struct table *t)
{
    struct qcow2_image *img = arg;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t host = r->table[t->key], cluster = qcow2_cluster_size(img);
    struct iovec v;

    if (host & (cluster - 1) || host >> 56) {
        return qcow2_co_corrupt(img, img->hdr.reftable_offset + t->key * 8,
                                "refcount table entry %" PRIu64 " is 0x%"
                                PRIx64 ": no cluster (run a check)", t->key,
                                host);
    }
    node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_LOAD);
    return node_co_preadv(qcow2_file(img), host,
                          iov_one(&v, t->data, cluster), 0);
}

int qcow2_co_blocks_ready(struct qcow2_image *img, uint64_t first, uint64_t n,
                          bool make)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t last = qcow2_block_of(r, first + n - 1);
    struct table *t;
    int ret = qcow2_co_blocks_trim(img);

    if (ret != 0) {
        return ret;
    }
    for (uint64_t i = qcow2_block_of(r, first); i <= last; i++) {
        bool exists = i < r->len && r->table[i];

        if (!exists && make) {
            ret = qcow2_co_block_add(img, i);
            return ret < 0 ? ret : 1;
        }
        if (exists && !metadata_cache_peek(&r->blocks, i)) {
            ret = metadata_cache_co_get(&r->blocks, i, &t);
            if (ret < 0) {
                return ret;
            }
            metadata_cache_put(&r->blocks, t);
            return 1;
        }
    }
    return 0;
}

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
    qcow2_block_dirty(img, t, (uint32_t) (bit / 8),
                      (uint32_t) ((bit + (UINT64_C(1) << r->order) + 7) / 8));
}

uint64_t qcow2_count_find(struct qcow2_image *img, uint64_t first,
                          uint64_t end, bool used)
{
    struct qcow2_refcounts *r = img->refcounts;

    while (first < end) {
        struct table *t = block_at(img, first);
        uint64_t stop = min_u64(end, qcow2_block_first(
                                     r, qcow2_block_of(r, first) + 1));

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

/* --- for all --- */

int qcow2_co_refcount_get(struct qcow2_image *img, uint64_t host,
                          uint64_t *ret_count)
{
    uint64_t cluster = host >> img->cluster_bits;
    int ret;

    do {
        ret = qcow2_co_blocks_ready(img, cluster, 1, false);
    } while (ret == 1);
    if (ret == 0) {
        *ret_count = qcow2_count_at(img, cluster);
    }
    return ret;
}

int qcow2_co_refcount_up(struct qcow2_image *img, uint64_t gen, uint64_t host,
                         uint64_t len, uint64_t by)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t first = host >> img->cluster_bits;
    uint64_t n = ((host + len - 1) >> img->cluster_bits) - first + 1;
    int ret;

    do {
        ret = qcow2_co_blocks_ready(img, first, n, true);
    } while (ret == 1);
    for (uint64_t i = 0; i < n && ret == 0; i++) {
        if (by > r->max - qcow2_count_at(img, first + i)) {
            ret = -ERANGE;
        }
    }
    for (uint64_t i = 0; i < n && ret == 0; i++) {
        qcow2_count_set(img, first + i, qcow2_count_at(img, first + i) + by);
    }
    return ret;
}

static CO_FN int qcow2_table_co_load(struct qcow2_image *img, GError **err)
{
    struct qcow2_refcounts *r = img->refcounts;
    size_t bytes = (size_t) img->hdr.reftable_clusters << img->cluster_bits;
    uint8_t *buf = g_try_malloc(bytes);
    struct iovec v;
    int ret;

    r->len = (uint32_t) (bytes / 8);
    r->table = g_try_new0(uint64_t, r->len);
    if (!buf || !r->table) {
        g_free(buf);
        return err_set(err, ENOMEM, "Could not allocate %zu bytes for the "
                       "refcount table", bytes);
    }
    node_co_debug_event(qcow2_file(img), DEBUG_REFTABLE_LOAD);
    ret = node_co_preadv(qcow2_file(img), img->hdr.reftable_offset,
                         iov_one(&v, buf, bytes), 0);
    for (uint32_t i = 0; i < r->len && ret == 0; i++) {
        uint64_t entry = get_be64(buf + (size_t) i * 8);

        r->table[i] = entry & QCOW2_REFBLOCK_MASK;
        r->reserved_bits = r->reserved_bits || entry != r->table[i];
        r->used = r->table[i] ? i + 1 : r->used;
    }
    g_free(buf);
    return ret < 0 ? err_set_errno(err, -ret, "Could not read the refcount "
                                   "table") : 0;
}

int qcow2_co_refcounts_open(struct qcow2_image *img, GError **err)
{
    struct qcow2_refcounts *r = g_new0(struct qcow2_refcounts, 1);
    size_t cluster = qcow2_cluster_size(img);
    int ret;

    img->refcounts = r;
    r->order = img->hdr.refcount_order;
    r->block_bits = img->cluster_bits + 3 - r->order;
    r->max = r->order == 6 ? UINT64_MAX
                           : (UINT64_C(1) << (1u << r->order)) - 1;
    metadata_cache_init(&r->blocks, cluster,
                max_u64(QCOW2_BLOCK_CACHE_BYTES, 8 * cluster), qcow2_block_co_load,
                img);
    r->dirty = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                     qcow2_dirty_free);
    r->unlinked = g_tree_new(qcow2_compare_numbers);
    ret = qcow2_table_co_load(img, err);
    if (ret < 0) {
        qcow2_refcounts_close(img);
    }
    return ret;
}

static void drop_dirty(struct qcow2_refcounts *r)
{
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, r->dirty);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        metadata_cache_put(&r->blocks, metadata_cache_peek(&r->blocks,
                                           GPOINTER_TO_SIZE(key)));
    }
    g_hash_table_destroy(r->dirty);
}

void qcow2_refcounts_forget(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;

    drop_dirty(r);
    r->dirty = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                     qcow2_dirty_free);
    metadata_cache_clear(&r->blocks);
    while (r->used > 0 && r->table[r->used - 1] == 0) {
        r->used--;
    }
}

void qcow2_refcounts_close(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;

    if (!r) {
        return;
    }
    drop_dirty(r);
    metadata_cache_done(&r->blocks);
    g_tree_destroy(r->unlinked);
    g_free(r->table);
    g_free(r);
    img->refcounts = NULL;
}
