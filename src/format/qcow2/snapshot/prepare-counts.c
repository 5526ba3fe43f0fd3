/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often the copies of a preparation refer to a cluster. */
#include <errno.h>
#include "base/math.h"
#include "format/qcow2/snapshot/prepare-int.h"
#include "format/qcow2/space/refcount.h"

static size_t more_bytes(const struct qcow2_image *img, unsigned order)
{
    return MAX((((size_t)1 << img->refcounts->block_bits) << order) / 8, 1);
}

void qcow2_prepared_block_free(void *block)
{
    struct qcow2_prepared_block *b = block;

    g_free(b->more);
    g_free(b);
}

/* NULL: memory is short, or there is no such block. */
static struct qcow2_prepared_block *block_get(struct qcow2_image *img,
                                              uint64_t number)
{
    GHashTable *blocks = img->prepared->blocks;
    struct qcow2_prepared_block *b = g_hash_table_lookup(
        blocks, GSIZE_TO_POINTER(number));
    uint8_t *more;

    if (b || number >= img->refcounts->len || !img->refcounts->table[number]) {
        return b;
    }
    more = g_try_malloc0(more_bytes(img, 0));
    if (more) {
        b = g_new(struct qcow2_prepared_block, 1);
        *b = (struct qcow2_prepared_block) {
            .number = number,
            .end = (uint32_t)qcow2_cluster_size(img),
            .more = more,
        };
        g_hash_table_insert(blocks, GSIZE_TO_POINTER(number), b);
    }
    return b;
}

/* Larger numbers. */
static bool block_widen(const struct qcow2_image *img,
                        struct qcow2_prepared_block *b)
{
    uint8_t *more = b->order < 6 ? g_try_malloc0(more_bytes(img, b->order + 1))
                                 : NULL;

    for (uint64_t i = 0; more && i < UINT64_C(1) << img->refcounts->block_bits;
         i++) {
        qcow2_count_put(b->order + 1, more, i,
                        qcow2_count_get(b->order, b->more, i));
    }
    if (more) {
        g_free(b->more);
        b->more = more;
        b->order++;
    }
    return more;
}

/* Number @i was changed. */
static void block_number_changed(const struct qcow2_image *img,
                                 struct qcow2_prepared_block *b, uint64_t i)
{
    uint64_t bit = i << img->refcounts->order;

    qcow2_prepared_block_stale(
        b, (uint32_t)(bit / 8),
        (uint32_t)((bit + (UINT64_C(1) << img->refcounts->order) + 7) / 8));
}

static bool block_add(const struct qcow2_image *img,
                      struct qcow2_prepared_block *b, uint64_t i)
{
    uint64_t was = qcow2_count_get(b->order, b->more, i);

    if (was == UINT64_MAX >> (64 - (1u << b->order)) && !block_widen(img, b)) {
        return false;
    }
    qcow2_count_put(b->order, b->more, i, was + 1);
    block_number_changed(img, b, i);
    return true;
}

static void block_take(const struct qcow2_image *img,
                       struct qcow2_prepared_block *b, uint64_t i)
{
    uint64_t was = qcow2_count_get(b->order, b->more, i);

    g_assert(was > 0);
    qcow2_count_put(b->order, b->more, i, was - 1);
    block_number_changed(img, b, i);
}

/* Add (or take away) references; the block of the last one is remembered. */
struct counter {
    struct qcow2_image *img;
    struct qcow2_prepared_block *last;
    bool add;
};

static bool counter_cluster(struct counter *c, uint64_t cluster)
{
    const struct qcow2_refcounts *r = c->img->refcounts;
    uint64_t number = qcow2_block_of(r, cluster);
    uint64_t i = cluster - qcow2_block_first(r, number);

    if (!c->last || c->last->number != number) {
        c->last = block_get(c->img, number);
    }
    if (!c->last) {
        return false;
    }
    if (!c->add) {
        block_take(c->img, c->last, i);
        return true;
    }
    return block_add(c->img, c->last, i);
}

/* The clusters of @d: *@ret_n, 0 for none. False: it makes no sense. */
static bool desc_clusters(const struct qcow2_image *img, struct qcow2_desc d,
                          uint64_t *ret_first, uint64_t *ret_n)
{
    uint64_t host = d.entry & QCOW2_OFFSET_MASK, end;
    uint32_t len;

    *ret_n = 0;
    if (d.entry & QCOW2_COMPRESSED) {
        qcow2_compressed_get(&img->shape, d.entry, &host, &len);
        end = host + len - 1;
    } else if (!qcow2_desc_has_host(&img->shape, d)) {
        return true;
    } else {
        end = host;
        if (host & (qcow2_cluster_size(img) - 1) ||
            qcow2_desc_kind(&img->shape, d, 0) == QCOW2_INVALID) {
            return false;
        }
    }
    *ret_first = host >> img->cluster_bits;
    *ret_n = (end >> img->cluster_bits) - *ret_first + 1;
    return true;
}

static bool counter_desc(struct counter *c, struct qcow2_desc d)
{
    uint64_t first, n;
    bool good = desc_clusters(c->img, d, &first, &n);

    for (uint64_t k = 0; good && k < n; k++) {
        good = counter_cluster(c, first + k);
    }
    return good;
}

bool qcow2_prepared_count_entries(struct qcow2_image *img, const void *old,
                                  const void *now)
{
    struct counter add = { .img = img, .add = true }, take = { .img = img };
    bool good = true;

    for (uint32_t i = 0; i < UINT32_C(1) << img->l2_bits && good; i++) {
        struct qcow2_desc to = qcow2_desc_get(&img->shape, now, i), from;

        if (old) {
            from = qcow2_desc_get(&img->shape, old, i);
            if (from.entry == to.entry && from.bits == to.bits) {
                continue;
            }
            good = counter_desc(&take, from);
        }
        good = good && counter_desc(&add, to);
    }
    return good;
}

bool qcow2_prepared_count_copy(struct qcow2_image *img, uint64_t was,
                               uint64_t at)
{
    struct counter add = { .img = img, .add = true }, take = { .img = img };

    return was == at ||
           ((!was || counter_cluster(&take, was >> img->cluster_bits)) &&
            counter_cluster(&add, at >> img->cluster_bits));
}

int qcow2_prepared_block_fill(const struct qcow2_image *img,
                              const struct qcow2_prepared_block *b, void *buf)
{
    const struct qcow2_refcounts *r = img->refcounts;
    unsigned per = 8u >> MIN(b->order, 3);

    for (uint64_t i = 0; i < UINT64_C(1) << r->block_bits; i++) {
        uint64_t more, was;

        if (b->order < 3 && i % per == 0 && b->more[i / per] == 0) {
            i += per - 1; /* none of these */
            continue;
        }
        more = qcow2_count_get(b->order, b->more, i);
        was = more ? qcow2_count_get(r->order, buf, i) : 1;
        if (was == 0) {
            return -EIO;
        }
        if (more > r->max - was) {
            return -EINVAL;
        }
        if (more) {
            qcow2_count_put(r->order, buf, i, was + more);
        }
    }
    return 0;
}
