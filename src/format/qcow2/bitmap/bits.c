/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bits of a dirty bitmap: in memory, and as clusters of the file. */
#include <errno.h>
#include <string.h>
#include "base/dirty-map.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"

uint64_t qcow2_bitmap_bytes(const struct qcow2_bitmap *b, uint64_t size)
{
    uint64_t n = size >> b->granularity_bits;

    if (size & ((UINT64_C(1) << b->granularity_bits) - 1)) {
        n++;
    }
    return n / 8 + (n % 8 != 0);
}

/* Bits that the last byte has beyond the disk are 0, also after it shrank. */
static void clear_tail(struct qcow2_bitmap *b, uint64_t size)
{
    uint64_t unit = UINT64_C(1) << b->granularity_bits;
    uint64_t n = (size >> b->granularity_bits) + (size % unit != 0);

    if (n % 8) {
        b->bits[n / 8] &= (uint8_t)((1u << n % 8) - 1);
    }
}

int qcow2_bitmap_fit(struct qcow2_bitmap *b, uint64_t size)
{
    uint64_t n = qcow2_bitmap_bytes(b, size);
    uint8_t *bits;

    if (b->bits && n == b->n_bytes) {
        clear_tail(b, size);
        return 0;
    }
    if (n > QCOW2_BITMAP_BYTES_MAX) {
        return -ENOMEM;
    }
    bits = g_try_realloc(b->bits, MAX(n, 1));
    if (!bits) {
        return -ENOMEM;
    }
    if (!b->bits) {
        b->n_bytes = 0;
    }
    if (n > b->n_bytes) {
        memset(bits + b->n_bytes, 0, n - b->n_bytes);
    }
    b->bits = bits;
    b->n_bytes = n;
    clear_tail(b, size);
    return 0;
}

void qcow2_bitmap_set(struct qcow2_bitmap *b, uint64_t off, uint64_t len)
{
    uint64_t first, last;

    if (len == 0) {
        return;
    }
    first = off >> b->granularity_bits;
    last = (off + len - 1) >> b->granularity_bits;
    g_assert(last / 8 < b->n_bytes);
    while (first <= last && first % 8) {
        b->bits[first / 8] |= (uint8_t)(1u << first % 8);
        first++;
    }
    if (first + 8 <= last + 1) {
        uint64_t whole = (last + 1 - first) / 8;

        memset(b->bits + first / 8, 0xff, whole);
        first += whole * 8;
    }
    for (; first <= last; first++) {
        b->bits[first / 8] |= (uint8_t)(1u << first % 8);
    }
}

void qcow2_bitmap_merge(struct qcow2_bitmap *b, const struct qcow2_bitmap *from,
                        uint64_t size)
{
    uint64_t unit = UINT64_C(1) << from->granularity_bits;

    if (b->granularity_bits == from->granularity_bits) {
        for (uint64_t i = 0; i < b->n_bytes; i++) {
            b->bits[i] |= from->bits[i];
        }
        return;
    }
    for (uint64_t i = 0; i < from->n_bytes; i++) {
        for (unsigned k = 0; from->bits[i] && k < 8; k++) {
            uint64_t off = (i * 8 + k) << from->granularity_bits;

            if (from->bits[i] & 1u << k) {
                qcow2_bitmap_set(b, off, min_u64(unit, size - off));
            }
        }
    }
}

uint64_t qcow2_bitmap_cost(const struct qcow2_image *img,
                           const struct qcow2_bitmap *b)
{
    return qcow2_bitmap_bytes(b, img->node->size) + (uint64_t)b->table_size * 8;
}

/* One cluster of bits, as much of it as the disk has. */
static CO_FN int load_co_cluster(struct qcow2_image *img,
                                 struct qcow2_bitmap *b, uint32_t i,
                                 uint64_t entry)
{
    uint64_t cluster = qcow2_cluster_size(img), at = i * cluster, len;
    struct iovec v;

    if (at >= b->n_bytes) {
        return 0;
    }
    len = min_u64(cluster, b->n_bytes - at);
    if (entry & QCOW2_BITMAP_OFFSET) {
        return node_co_preadv(qcow2_file(img), entry & QCOW2_BITMAP_OFFSET,
                              iov_one(&v, b->bits + at, len), 0);
    }
    memset(b->bits + at, entry & QCOW2_BITMAP_ONES ? 0xff : 0, len);
    return 0;
}

int qcow2_co_bitmap_load(struct qcow2_image *img, struct qcow2_bitmap *b,
                         GError **err)
{
    uint64_t size = img->node->size, *table;
    int ret;

    g_assert(!b->bits && !(b->flags & QCOW2_BITMAP_IN_USE));
    if (qcow2_bitmap_bytes(b, size) > (uint64_t)b->table_size
                                          << img->cluster_bits) {
        return err_set(err, EINVAL, "Bitmap '%s' is shorter than the disk",
                       b->name);
    }
    ret = qcow2_co_bitmap_table(img, b, &table, err);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_bitmap_fit(b, size);
    for (uint32_t i = 0; i < b->table_size && ret == 0; i++) {
        ret = load_co_cluster(img, b, i, table[i]);
    }
    g_free(table);
    if (ret < 0) {
        g_clear_pointer(&b->bits, g_free);
        return err_set_errno(err, -ret, "Could not load bitmap '%s'", b->name);
    }
    clear_tail(b, size);
    return 0;
}

int qcow2_co_bitmap_copy_bits(struct qcow2_image *img, struct qcow2_bitmap *b,
                              GError **err)
{
    bool loaded = b->from->bits;
    int ret = loaded ? 0 : qcow2_co_bitmap_load(b->from_image, b->from, err);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_bitmap_fit(b, img->node->size);
    if (ret == 0) {
        qcow2_bitmap_merge(b, b->from, img->node->size);
    } else {
        err_set_errno(err, -ret, "Could not copy bitmap '%s'", b->name);
    }
    if (!loaded) {
        g_clear_pointer(&b->from->bits, g_free);
    }
    return ret;
}

/* --- reading --- */

/* Bits of @b, which are in memory, as runs. */
static void bits_to_map(const struct qcow2_bitmap *b, struct dirty_map *map)
{
    uint64_t unit = UINT64_C(1) << b->granularity_bits;
    uint64_t end = dirty_map_size(map), off = 0, from;

    while (off < end) {
        const uint8_t *byte = &b->bits[(off >> b->granularity_bits) / 8];

        if (*byte == 0) {
            off = ((off >> b->granularity_bits) / 8 + 1) * 8
                  << b->granularity_bits;
            continue;
        }
        for (from = off;
             off < end && b->bits[(off >> b->granularity_bits) / 8] >>
                                  (off >> b->granularity_bits) % 8 &
                              1;
             off += unit) {
        }
        if (off > from) {
            dirty_map_set(map, from, off - from);
        } else {
            off += unit;
        }
    }
}

/* A copy of what the file has; again while somebody stores bitmaps, which gives
 * away the clusters that this reads. */
static CO_FN int read_co_stored(struct qcow2_image *img, const char *name,
                                struct qcow2_bitmap *copy, GError **err)
{
    uint64_t stored;
    int ret;

    do {
        const struct qcow2_bitmap *b = qcow2_bitmap_find(img, name);

        g_clear_pointer(&copy->bits, g_free);
        g_clear_error(err);
        if (!b) {
            return err_set(err, ENOENT, "Dirty bitmap '%s' not found", name);
        }
        if (qcow2_bitmap_is_broken(b)) {
            return err_set(err, EINVAL,
                           "Bitmap '%s' is inconsistent and cannot be used",
                           name);
        }
        *copy = *b;
        if (b->bits) {
            copy->bits = g_memdup2(b->bits, b->n_bytes);
            return 0;
        }
        stored = img->bitmaps->stored;
        ret = qcow2_co_bitmap_load(img, copy, err);
    } while (stored != img->bitmaps->stored);
    return ret;
}

int qcow2_co_bitmap_read(struct qcow2_image *img, const char *name,
                         struct dirty_map **ret_bits, GError **err)
{
    struct qcow2_bitmap copy = { 0 };
    struct dirty_map *map = NULL;
    GError *why = NULL;
    int ret = read_co_stored(img, name, &copy, &why);

    if (ret == 0) {
        map = dirty_map_new_within(img->node->size,
                                   UINT32_C(1) << copy.granularity_bits,
                                   QCOW2_BITMAP_BYTES_MAX, &why);
        ret = map ? 0 : -EFBIG;
    }
    if (ret == 0) {
        bits_to_map(&copy, map);
        *ret_bits = map;
    }
    g_free(copy.bits);
    if (why) {
        g_propagate_error(err, why);
    }
    return ret;
}
