/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcount blocks that count nothing, as a disk that became smaller leaves them.
 *
 * A range of clusters without a block has refcounts of 0, so such a block is
 * given back: its entry in the refcount table is cleared, durably, and then its
 * cluster is free.  No pass runs meanwhile, but others may allocate: whoever
 * takes a cluster in that range while the entry is written keeps the block,
 * which is linked again by the next pass, before any pointer to the cluster.
 */
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"

/* The cluster of block @i. */
static uint64_t block_cluster(const struct qcow2_image *img, uint64_t i)
{
    return img->refcounts->table[i] >> img->cluster_bits;
}

/* Does @t count nothing but its own cluster? */
static bool counts_nothing(const struct qcow2_image *img, const struct table *t)
{
    const struct qcow2_refcounts *r = img->refcounts;
    uint64_t first = qcow2_block_first(r, t->key);
    uint64_t own = block_cluster(img, t->key);

    for (uint64_t i = 0; i < UINT64_C(1) << r->block_bits; i++) {
        uint64_t n = qcow2_count_get(r->order, t->data, i);

        if (n > (first + i == own ? 1 : 0)) {
            return false;
        }
    }
    return true;
}

/* Is block @i empty, and in the file as it is in memory? 1 or 0, -errno. */
static CO_FN int block_co_is_empty(struct qcow2_image *img, uint64_t i)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct table *t;
    int ret = metadata_cache_co_get(&r->blocks, i, &t);

    if (ret < 0) {
        return ret;
    }
    ret = !g_hash_table_contains(r->dirty, GSIZE_TO_POINTER((gsize)i)) &&
          counts_nothing(img, t);
    metadata_cache_put(&r->blocks, t);
    return ret;
}

static CO_FN int blocks_co_collect(struct qcow2_image *img, GArray *numbers)
{
    const struct qcow2_refcounts *r = img->refcounts;
    int ret = 0;

    for (uint64_t i = 0; i < r->used && ret >= 0; i++) {
        ret = r->table[i] ? block_co_is_empty(img, i) : 0;
        if (ret == 1) {
            g_array_append_val(numbers, i);
        }
    }
    return ret < 0 ? ret : 0;
}

/* Nothing leads to block @i any more: forget it, and free its cluster. */
static CO_FN void block_co_drop(struct qcow2_image *img, uint64_t i)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t own = block_cluster(img, i);

    metadata_cache_forget(&r->blocks, i);
    r->table[i] = 0;
    g_tree_remove(r->unlinked, GSIZE_TO_POINTER((gsize)i));
    if (qcow2_block_of(r, own) != i) {
        qcow2_reclaim_now(img, own, 1);
        return;
    }
    /* It was counted by itself alone.  Nobody takes it before a block for this
     * range is made, which waits for `grow`. */
    qcow2_meta_remove(img, own << img->cluster_bits, qcow2_cluster_size(img));
    node_co_discard(qcow2_file(img), own << img->cluster_bits,
                    qcow2_cluster_size(img));
}

/* `grow` and `writing` are held. */
static CO_FN int blocks_co_drop(struct qcow2_image *img, const GArray *numbers)
{
    struct qcow2_refcounts *r = img->refcounts;
    int ret = qcow2_co_blocks_unlink(img, numbers);

    for (unsigned k = 0; k < numbers->len && ret >= 0; k++) {
        uint64_t i = g_array_index(numbers, uint64_t, k);

        ret = block_co_is_empty(img, i);
        if (ret == 1 && !metadata_cache_is_held(&r->blocks, i)) {
            block_co_drop(img, i);
        }
    }
    while (r->used > 0 && r->table[r->used - 1] == 0) {
        r->used--;
    }
    return ret < 0 ? ret : 0;
}

int qcow2_co_empty_blocks_free(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    int ret = 0;

    co_mutex_co_lock(&r->grow);
    co_mutex_co_lock(&r->writing);
    /* What waits to be linked waits for a pass; its turn comes later. */
    if (!r->moved_to && g_tree_nnodes(r->unlinked) == 0) {
        ret = blocks_co_collect(img, numbers);
    }
    if (ret == 0 && numbers->len > 0) {
        ret = blocks_co_drop(img, numbers);
    }
    co_mutex_unlock(&r->writing);
    co_mutex_unlock(&r->grow);
    if (ret == 0 && numbers->len > 0) {
        ret = qcow2_co_space_refind(img);
    }
    g_array_unref(numbers);
    return ret;
}
