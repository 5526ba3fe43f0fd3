/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L2 tables in memory, bounded in bytes.
 *
 * Unused tables are evicted, the one that rested longest first.  When all are in
 * use a loader waits for one to be put; nobody holds two, so that ends.  A
 * table is never evicted while it is loading, so there is one copy at a time.
 * Tables are not dirty outside a publish, which holds its table: eviction
 * never writes.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "format/qed/qed.h"
#include "loop/io.h"

static void table_free(struct qed_image *img, struct qed_l2 *t)
{
    img->cache.bytes -= img->table_bytes;
    if (t->entries) {
        io_buf_put(t->entries, img->table_bytes);
    }
    g_free(t);
}

void qed_cache_init(struct qed_image *img)
{
    img->cache.tables = g_hash_table_new(g_direct_hash, g_direct_equal);
    img->cache.max_bytes = QED_CACHE_BYTES;
    g_queue_init(&img->cache.lru);
}

static bool evict_one(struct qed_image *img)
{
    GList *link = g_queue_peek_head_link(&img->cache.lru);
    struct qed_l2 *t;

    if (!link) {
        return false;
    }
    t = link->data;
    g_queue_unlink(&img->cache.lru, link);
    g_hash_table_remove(img->cache.tables, GUINT_TO_POINTER(t->l1_idx));
    table_free(img, t);
    return true;
}

void qed_cache_clear(struct qed_image *img)
{
    while (evict_one(img)) {
    }
    g_assert(img->cache.bytes == 0);
}

void qed_cache_done(struct qed_image *img)
{
    if (!img->cache.tables) {
        return;
    }
    qed_cache_clear(img);
    g_hash_table_destroy(img->cache.tables);
    img->cache.tables = NULL;
}

uint64_t qed_l2_offset(const struct qed_image *img, uint32_t l1_idx)
{
    uint64_t off = get_le64(&img->l1[l1_idx]);

    if (off == 0 && img->fresh) {
        off = GPOINTER_TO_SIZE(g_hash_table_lookup(
            img->fresh, GUINT_TO_POINTER(l1_idx)));
    }
    return off;
}

static struct qed_l2 *find(struct qed_image *img, uint32_t l1_idx)
{
    return g_hash_table_lookup(img->cache.tables, GUINT_TO_POINTER(l1_idx));
}

static void table_ref(struct qed_image *img, struct qed_l2 *t)
{
    if (t->refs++ == 0) {
        g_queue_unlink(&img->cache.lru, &t->lru);
    }
}

void qed_l2_put(struct qed_image *img, struct qed_l2 *t)
{
    g_assert(t->refs > 0);
    if (--t->refs > 0) {
        return;
    }
    if (t->error) {
        table_free(img, t); /* it has left the hash already */
    } else {
        g_queue_push_tail_link(&img->cache.lru, &t->lru);
    }
    co_queue_wake_all(&img->cache.room);
}

struct qed_l2 *qed_l2_peek(struct qed_image *img, uint32_t l1_idx)
{
    struct qed_l2 *t = find(img, l1_idx);

    if (!t || t->loading) {
        return NULL;
    }
    if (t->refs == 0) { /* used: it goes to the young end */
        g_queue_unlink(&img->cache.lru, &t->lru);
        g_queue_push_tail_link(&img->cache.lru, &t->lru);
    }
    return t;
}

/* A place for a table that the cache does not hold. 1: it appeared meanwhile. */
static CO_FN int slot_co_get(struct qed_image *img, uint32_t l1_idx,
                             struct qed_l2 **ret_t)
{
    struct qed_cache *c = &img->cache;
    struct qed_l2 *t;

    while (c->bytes > 0 && c->bytes + img->table_bytes > c->max_bytes) {
        if (!evict_one(img)) {
            co_queue_co_wait(&c->room);
            if (find(img, l1_idx)) {
                return 1;
            }
        }
    }
    t = g_new0(struct qed_l2, 1);
    t->l1_idx = l1_idx;
    t->lru.data = t;
    t->refs = 1;
    c->bytes += img->table_bytes;
    t->entries = io_buf_get(img->table_bytes);
    if (!t->entries) {
        table_free(img, t);
        return -ENOMEM;
    }
    g_hash_table_insert(c->tables, GUINT_TO_POINTER(l1_idx), t);
    *ret_t = t;
    return 0;
}

static CO_FN int table_co_load(struct qed_image *img, struct qed_l2 *t)
{
    uint64_t off = qed_l2_offset(img, t->l1_idx);
    struct iovec v;
    int ret;

    t->loading = true;
    if (qed_offset_valid(img, off, img->table_bytes)) {
        node_co_debug_event(qed_file(img), DEBUG_L2_LOAD);
        ret = node_co_preadv(qed_file(img), off,
                             iov_one(&v, t->entries, img->table_bytes), 0);
    } else {
        ret = node_corrupt(img->node, NULL, img->hdr.l1_table_offset +
                           (uint64_t) t->l1_idx * 8, "QED L1 entry %u is 0x%"
                           PRIx64 ": no table of this file (run a check)",
                           t->l1_idx, off);
    }
    t->loading = false;
    if (ret < 0) {
        t->error = ret;
        g_hash_table_remove(img->cache.tables, GUINT_TO_POINTER(t->l1_idx));
    } else if (img->group) {
        for (uint32_t i = 0; i < qed_entries(img); i++) {
            qed_note_offset(img, get_le64(&t->entries[i]),
                            qed_cluster_size(img));
        }
    }
    co_queue_wake_all(&t->waiters);
    return ret;
}

int qed_l2_co_get(struct qed_image *img, uint32_t l1_idx,
                  struct qed_l2 **ret_t)
{
    struct qed_l2 *t;
    int ret;

    do {
        t = find(img, l1_idx);
        ret = t ? 1 : slot_co_get(img, l1_idx, &t);
        if (ret < 0) {
            return ret;
        }
    } while (ret == 1 && !(t = find(img, l1_idx)));
    if (ret == 0) {
        ret = table_co_load(img, t);
    } else {
        table_ref(img, t);
        while (t->loading) {
            co_queue_co_wait(&t->waiters);
        }
        ret = t->error;
    }
    if (ret < 0) {
        qed_l2_put(img, t);
        return ret;
    }
    *ret_t = t;
    return 0;
}

int qed_l2_co_new(struct qed_image *img, uint32_t l1_idx,
                  struct qed_l2 **ret_t)
{
    int ret = slot_co_get(img, l1_idx, ret_t);

    g_assert(ret != 1); /* one publisher per table */
    if (ret == 0) {
        memset((*ret_t)->entries, 0, img->table_bytes);
    }
    return ret;
}
