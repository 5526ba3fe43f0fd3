/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts: their blocks are brought into memory, and made; the state of all.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/refcount.h"
#include "graph/memory.h"
#include "loop/io.h"

/* --- blocks --- */

static CO_FN int qcow2_block_co_load(void *arg, struct table *t)
{
    struct qcow2_image *img = arg;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t host = r->table[t->key], cluster = qcow2_cluster_size(img);
    struct iovec v;

    if (host & (cluster - 1) || host >> 56) {
        return qcow2_co_corrupt(img, img->hdr.reftable_offset + t->key * 8,
                                "refcount table entry %" PRIu64 " is 0x%" PRIx64
                                ": no cluster (run a check)",
                                t->key, host);
    }
    node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_LOAD);
    return node_co_preadv(qcow2_file(img), host, iov_one(&v, t->data, cluster),
                          0);
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
    size_t bytes = (size_t)img->hdr.reftable_clusters << img->cluster_bits;
    uint8_t *buf = g_try_malloc(bytes);
    struct iovec v;
    int ret;

    r->len = (uint32_t)(bytes / 8);
    r->table = g_try_new0(uint64_t, r->len);
    if (!buf || !r->table) {
        g_free(buf);
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the "
                       "refcount table",
                       bytes);
    }
    node_co_debug_event(qcow2_file(img), DEBUG_REFTABLE_LOAD);
    ret = node_co_preadv(qcow2_file(img), img->hdr.reftable_offset,
                         iov_one(&v, buf, bytes), 0);
    for (uint32_t i = 0; i < r->len && ret == 0; i++) {
        uint64_t entry = get_be64(buf + (size_t)i * 8);

        r->table[i] = entry & QCOW2_REFBLOCK_MASK;
        r->reserved_bits = r->reserved_bits || entry != r->table[i];
        r->used = r->table[i] ? i + 1 : r->used;
    }
    g_free(buf);
    return ret < 0 ? err_set_errno(err, -ret,
                                   "Could not read the refcount "
                                   "table")
                   : 0;
}

int qcow2_co_refcounts_open(struct qcow2_image *img, GError **err)
{
    struct qcow2_refcounts *r = g_new0(struct qcow2_refcounts, 1);
    size_t cluster = qcow2_cluster_size(img);
    int ret;

    img->refcounts = r;
    r->order = img->hdr.refcount_order;
    r->block_bits = img->cluster_bits + 3 - r->order;
    r->max = r->order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << r->order)) - 1;
    metadata_cache_init(&r->blocks, cluster,
                        max_u64(img->opts.block_cache_bytes, 8 * cluster),
                        qcow2_block_co_load, img);
    metadata_cache_set_budget(&r->blocks, graph_memory(img->node->graph),
                              img->opts.cache_idle_s);
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
        metadata_cache_put(
            &r->blocks, metadata_cache_peek(&r->blocks, GPOINTER_TO_SIZE(key)));
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
