/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps to the file: new clusters of bits, new tables, a new directory, then
 * one write of the header, sector 0, whose extension leads to it.  A crash
 * shows the old directory, in which what was held is in use, or the new one.
 */
#include <errno.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/meta/transaction.h"

/* What one becomes in the file. */
struct stored {
    uint64_t table_offset;
    uint32_t table_size;
    uint32_t flags;
};

static bool all_are(const uint8_t *p, size_t len, uint8_t value)
{
    return len == 0 || (p[0] == value && !memcmp(p, p + 1, len - 1));
}

/* The table entry of @len bytes of bits. */
static CO_FN int bits_co_store(struct qcow2_transaction *tx,
                               const uint8_t *bits, size_t len,
                               uint64_t *ret_entry)
{
    size_t cluster = qcow2_cluster_size(tx->img);

    *ret_entry = 0;
    if (all_are(bits, len, 0)) {
        return 0;
    }
    if (len == cluster && all_are(bits, len, 0xff)) {
        *ret_entry = QCOW2_BITMAP_ONES;
        return 0;
    }
    memset(tx->other, 0, cluster);
    memcpy(tx->other, bits, len);
    return qcow2_transaction_co_store(tx, QCOW2_META_BITMAPS, tx->other,
                                      cluster, ret_entry);
}

static CO_FN int bitmap_co_store(struct qcow2_transaction *tx,
                                 const struct qcow2_bitmap *b, struct stored *s)
{
    uint64_t cluster = qcow2_cluster_size(tx->img), *table;
    uint64_t n = (b->n_bytes + cluster - 1) / cluster;
    int ret = 0;

    s->table_size = (uint32_t)MAX(n, 1); /* a disk of 0 bytes has a table */
    table = g_try_new0(uint64_t, s->table_size);
    if (!table) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < n && ret == 0; i++) {
        uint64_t at = i * cluster, entry;

        ret = bits_co_store(tx, b->bits + at, min_u64(cluster, b->n_bytes - at),
                            &entry);
        put_be64(&table[i], entry);
    }
    if (ret == 0) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_BITMAPS, table,
                                         (uint64_t)s->table_size * 8,
                                         &s->table_offset);
    }
    g_free(table);
    s->flags = b->flags & ~QCOW2_BITMAP_IN_USE;
    return ret;
}

/* The transaction frees what @b has in the file. */
static CO_FN int bitmap_co_drop(struct qcow2_transaction *tx,
                                const struct qcow2_bitmap *b)
{
    uint64_t *table;
    int ret;

    if (b->table_offset == 0) {
        return 0; /* new */
    }
    ret = qcow2_co_bitmap_table(tx->img, b, &table, NULL);
    if (ret < 0) {
        return ret;
    }
    for (uint32_t i = 0; i < b->table_size; i++) {
        if (table[i] & QCOW2_BITMAP_OFFSET) {
            qcow2_transaction_drop(tx, table[i] & QCOW2_BITMAP_OFFSET,
                                   qcow2_cluster_size(tx->img));
        }
    }
    g_free(table);
    qcow2_transaction_drop(tx, b->table_offset, (uint64_t)b->table_size * 8);
    return 0;
}

/* All that is new is written to clusters that nothing refers to yet. */
static CO_FN int qcow2_bitmap_store_list_co_store(struct qcow2_transaction *tx,
                                                  const GPtrArray *list,
                                                  struct stored *all)
{
    const GPtrArray *old = tx->img->bitmaps->list;
    g_autoptr(GHashTable) kept = qcow2_bitmaps_set(list);
    int ret = 0;

    for (guint i = 0; i < list->len && ret == 0; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(list, i);

        all[i] = (struct stored) { b->table_offset, b->table_size, b->flags };
        if (b->from) {
            ret = qcow2_co_bitmap_copy_bits(tx->img, b, NULL);
        }
        if (ret == 0 && b->bits) {
            ret = bitmap_co_store(tx, b, &all[i]);
        }
        if (b->from) {
            g_clear_pointer(&b->bits, g_free);
        }
    }
    for (guint i = 0; i < old->len && ret == 0; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(old, i);

        if (b->bits || !g_hash_table_contains(kept, b)) {
            ret = bitmap_co_drop(tx, b);
        }
    }
    return ret;
}

/* Exchange what the bitmaps say of the file with @all. */
static void list_swap(GPtrArray *list, struct stored *all)
{
    for (guint i = 0; i < list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(list, i);
        struct stored was = { b->table_offset, b->table_size, b->flags };

        b->table_offset = all[i].table_offset;
        b->table_size = all[i].table_size;
        b->flags = all[i].flags;
        all[i] = was;
    }
}

void qcow2_bitmaps_set_ext(GArray *exts, guint n, uint64_t host, uint64_t bytes)
{
    uint8_t ext[24] = { 0 };

    put_be32(ext, n);
    put_be64(ext + 8, bytes);
    put_be64(ext + 16, host);
    qcow2_exts_set(exts, QCOW2_EXT_BITMAPS, n ? ext : NULL,
                   n ? sizeof(ext) : 0);
}

/* The directory, and the extension that leads to it. */
static CO_FN int dir_co_store(struct qcow2_transaction *tx, GPtrArray *list,
                              struct stored *all, uint64_t *ret_host,
                              uint64_t *ret_bytes)
{
    uint8_t *dir;
    int ret;

    qcow2_transaction_drop(tx, tx->img->bitmaps->dir_offset,
                           tx->img->bitmaps->dir_bytes);
    list_swap(list, all);
    dir = qcow2_bitmaps_encode(list, ret_bytes);
    list_swap(list, all);
    ret = qcow2_transaction_co_store(tx, QCOW2_META_BITMAPS, dir, *ret_bytes,
                                     ret_host);
    g_free(dir);
    qcow2_bitmaps_set_ext(tx->exts, list->len, *ret_host, *ret_bytes);
    return ret;
}

static CO_FN int store_co_run(struct qcow2_transaction *tx, GPtrArray *list,
                              struct stored *all)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_header h = img->hdr;
    uint64_t host, bytes;
    int ret;

    qcow2_bitmaps_set_ext(tx->exts, list->len, 0, 0);
    if (!qcow2_exts_fit(img, &h, tx->exts)) {
        return -ENOSPC; /* before anything is allocated */
    }
    ret = qcow2_bitmap_store_list_co_store(tx, list, all);
    h.autoclear &= ~QCOW2_A_BITMAPS;
    h.autoclear |= list->len ? QCOW2_A_BITMAPS : 0;
    if (ret == 0) {
        ret = dir_co_store(tx, list, all, &host, &bytes);
    }
    if (ret != 0) {
        qcow2_transaction_co_undo(tx);
        return ret;
    }
    ret = qcow2_transaction_co_run(tx, &h);
    if (tx->done) {
        list_swap(list, all);
        img->bitmaps->dir_offset = host;
        img->bitmaps->dir_bytes = bytes;
    }
    return ret;
}

/* What was held is stored now. */
static void list_take(struct qcow2_bitmaps *bs, GPtrArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(list, i);
        g_clear_pointer(&b->bits, g_free);
    }
    bs->recording = bs->untold = false;
    if (bs->list != list) {
        qcow2_bitmaps_replace(bs, list);
    }
}

int qcow2_co_bitmaps_store(struct qcow2_image *img, GPtrArray *list)
{
    struct stored *all = g_new0(struct stored, MAX(list->len, 1));
    struct qcow2_transaction tx;
    int ret = qcow2_transaction_begin(&tx, img);

    tx.exts = qcow2_exts_copy(img->exts);
    if (ret == 0) {
        ret = store_co_run(&tx, list, all);
    }
    if (tx.done) {
        list_take(img->bitmaps, list);
        img->bitmaps->stored++;
    }
    g_array_unref(tx.exts);
    qcow2_transaction_end(&tx);
    g_free(all);
    return ret;
}
