/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metadata transactions; see format/qcow2/meta/transaction.h. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/meta/transaction.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "loop/io.h"

int qcow2_transaction_begin(struct qcow2_transaction *tx,
                            struct qcow2_image *img)
{
    size_t cluster = qcow2_cluster_size(img);

    *tx = (struct qcow2_transaction) {
        .img = img,
        .moved = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                       g_free),
        .taken = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement)),
        .end = img->space->end,
        .old = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement)),
        .table = io_buf_get(cluster),
        .other = io_buf_get(cluster),
    };
    return tx->table && tx->other ? 0 : -ENOMEM;
}

void qcow2_transaction_end(struct qcow2_transaction *tx)
{
    size_t cluster = qcow2_cluster_size(tx->img);

    g_hash_table_destroy(tx->moved);
    g_array_unref(tx->old);
    g_array_unref(tx->taken);
    if (tx->table) {
        io_buf_put(tx->table, cluster);
    }
    if (tx->other) {
        io_buf_put(tx->other, cluster);
    }
}

static struct qcow2_decrement
qcow2_transaction_clusters_of(const struct qcow2_image *img, uint64_t host,
                              uint64_t len)
{
    unsigned bits = img->cluster_bits;
    uint64_t first = host >> bits;

    return (struct qcow2_decrement) { 0, first,
                                      ((host + len - 1) >> bits) - first + 1 };
}

void qcow2_transaction_drop(struct qcow2_transaction *tx, uint64_t host,
                            uint64_t len)
{
    if (len) {
        struct qcow2_decrement d = qcow2_transaction_clusters_of(tx->img, host,
                                                                 len);

        g_array_append_val(tx->old, d);
    }
}

int qcow2_transaction_co_alloc(struct qcow2_transaction *tx,
                               enum qcow2_meta what, uint64_t len,
                               uint64_t *ret_host)
{
    struct qcow2_decrement d;
    bool fresh;
    int ret = qcow2_co_alloc(tx->img, 0, len, ret_host, &fresh);

    if (ret == 0) {
        d = qcow2_transaction_clusters_of(tx->img, *ret_host, len);
        g_array_append_val(tx->taken, d);
        qcow2_meta_add(tx->img, what, *ret_host, len);
    }
    return ret;
}

void qcow2_transaction_move_block(struct qcow2_transaction *tx, uint64_t block,
                                  uint64_t host, uint32_t first, uint32_t end)
{
    struct qcow2_refcounts *r = tx->img->refcounts;
    uint64_t len = qcow2_cluster_size(tx->img);
    struct qcow2_decrement *was = g_new(struct qcow2_decrement, 1);

    *was = qcow2_transaction_clusters_of(tx->img, r->table[block], len);
    g_hash_table_insert(tx->moved, GSIZE_TO_POINTER(block), was);
    qcow2_transaction_drop(tx, r->table[block], len);
    r->table[block] = host;
    if (metadata_cache_is_held(&r->blocks, block) || first < end) {
        qcow2_block_dirty(tx->img, metadata_cache_peek(&r->blocks, block),
                          first, end);
    } else {
        metadata_cache_forget(&r->blocks, block);
    }
}

/* Move the block of @cluster to a new cluster; a block that nothing refers to
 * yet need not move. */
static CO_FN int block_co_move(struct qcow2_transaction *tx, uint64_t cluster)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t len = qcow2_cluster_size(img), host;
    uint64_t block = qcow2_block_of(r, cluster);
    gpointer key = GSIZE_TO_POINTER(block);
    int ret;

    if (g_hash_table_contains(tx->moved, key) ||
        g_tree_lookup(r->unlinked, key)) {
        return 0;
    }
    if (block >= r->len || r->table[block] == 0) {
        return 0; /* whoever counts finds 0 */
    }
    ret = qcow2_transaction_co_alloc(tx, QCOW2_META_REFBLOCK, len, &host);
    if (ret < 0) {
        return ret;
    }
    do {
        ret = qcow2_co_blocks_ready(img, cluster, 1, false);
    } while (ret == 1);
    if (ret < 0) {
        return ret;
    }
    qcow2_transaction_move_block(tx, block, host, 0, (uint32_t)len);
    return 0;
}

int qcow2_transaction_co_count(struct qcow2_transaction *tx, uint64_t host,
                               uint64_t len, int by)
{
    struct qcow2_image *img = tx->img;
    uint64_t last = (host + len - 1) >> img->cluster_bits, count;

    for (uint64_t i = host >> img->cluster_bits; i <= last; i++) {
        int ret = block_co_move(tx, i);

        if (ret < 0) {
            return ret;
        }
        do {
            ret = qcow2_co_blocks_ready(img, i, 1, false);
        } while (ret == 1);
        if (ret < 0) {
            return ret;
        }
        count = qcow2_count_at(img, i);
        if (count == 0 || (by < 0 && count == 1)) {
            return qcow2_co_corrupt(img, i << img->cluster_bits,
                                    "the refcount "
                                    "of cluster %" PRIu64 " is %" PRIu64
                                    ", but "
                                    "more refers to it (run a check)",
                                    i, count);
        }
        if (by > 0 && count == img->refcounts->max) {
            return -EINVAL;
        }
        qcow2_count_set(img, i, by > 0 ? count + 1 : count - 1);
    }
    return 0;
}

int qcow2_transaction_co_store(struct qcow2_transaction *tx,
                               enum qcow2_meta what, const void *buf,
                               uint64_t len, uint64_t *ret_host)
{
    struct qcow2_image *img = tx->img;
    uint64_t bytes = round_up(len, QCOW2_SECTOR), host;
    uint8_t *copy;
    int ret;

    *ret_host = 0;
    if (len == 0) {
        return 0;
    }
    copy = io_buf_get(bytes);
    if (!copy) {
        return -ENOMEM;
    }
    ret = qcow2_transaction_co_alloc(tx, what, bytes, &host);
    if (ret == 0) {
        memset(copy + len, 0, bytes - len);
        memcpy(copy, buf, len);
        ret = qcow2_co_write_meta(img, what, host, copy, bytes);
        *ret_host = host;
    }
    io_buf_put(copy, bytes);
    return ret;
}

void qcow2_transaction_co_undo(struct qcow2_transaction *tx)
{
    struct qcow2_image *img = tx->img;
    GHashTableIter iter;
    gpointer key, value;

    qcow2_co_reclaim(img);
    for (guint i = 0; i < tx->taken->len; i++) {
        struct qcow2_decrement d = g_array_index(tx->taken,
                                                 struct qcow2_decrement, i);

        qcow2_meta_remove(img, d.first << img->cluster_bits,
                          d.n << img->cluster_bits);
    }
    g_hash_table_iter_init(&iter, tx->moved);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        const struct qcow2_decrement *was = value;

        img->refcounts->table[GPOINTER_TO_SIZE(key)] = was->first
                                                       << img->cluster_bits;
    }
    qcow2_blocks_drop_new(img);
    qcow2_refcounts_forget(img);
    qcow2_space_rewind(img, tx->end);
}

int qcow2_transaction_co_run(struct qcow2_transaction *tx,
                             const struct qcow2_header *h)
{
    struct qcow2_image *img = tx->img;
    int ret = group_error(img->group);

    if (ret == 0 && img->corrupt) {
        ret = -EIO;
    }
    if (ret == 0) {
        ret = qcow2_co_refcounts_switch(img, h, tx->exts,
                                        g_hash_table_size(tx->moved) > 0);
    }
    if (ret < 0) {
        qcow2_transaction_co_undo(tx);
        return ret;
    }
    tx->done = true;
    ret = BARRIER(QCOW2_SNAPSHOT_HEADER, group_co_sync(img->group));
    for (guint i = 0; i < tx->old->len && ret == 0; i++) {
        struct qcow2_decrement d = g_array_index(tx->old,
                                                 struct qcow2_decrement, i);

        qcow2_refcount_decrement(img, 0, d.first << img->cluster_bits,
                                 d.n << img->cluster_bits);
    }
    if (ret == 0) {
        qcow2_space_published(img, 0);
    }
    return ret;
}
