/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What L1 tables refer to, counted once more or once less.
 *
 * A cluster is counted once for every L1 table it can be reached from.  Two L1
 * tables that have a cluster in common have it at the same guest offset, and
 * one L2 table can stand for both.  COPIED stands in the active tables alone,
 * where the refcount is 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "loop/io.h"

/* Runs that wait to be freed before somebody waits for them. */
#define FREE_MAX 4096

static uint32_t n_descs(const struct qcow2_image *img)
{
    return UINT32_C(1) << img->l2_bits;
}

static uint64_t l1_host(const uint64_t *l1, uint32_t i)
{
    return get_be64(&l1[i]) & QCOW2_OFFSET_MASK;
}

/* The L2 table at @host into @buf. */
static CO_FN int table_co_read(struct qcow2_image *img, uint64_t host,
                               uint8_t *buf)
{
    uint64_t cluster = qcow2_cluster_size(img);
    struct iovec v;

    /* The last cluster of a file need not be whole. */
    if (host & (cluster - 1) || host >= qcow2_file(img)->size) {
        return qcow2_co_corrupt(img, host,
                                "an L1 entry leads to %" PRIu64
                                ": no L2 table (run a check)",
                                host);
    }
    return node_co_preadv(qcow2_file(img), host, iov_one(&v, buf, cluster), 0);
}

/* Where the data of @d is; *@ret_len 0: nowhere. -EIO: that makes no sense. */
static CO_FN int desc_co_alloc(struct qcow2_image *img, uint64_t table,
                               struct qcow2_desc d, uint64_t *ret_host,
                               uint64_t *ret_len)
{
    uint64_t cluster = qcow2_cluster_size(img);
    uint32_t len;

    *ret_len = 0;
    if (d.entry & QCOW2_COMPRESSED) {
        qcow2_compressed_get(&img->shape, d.entry, ret_host, &len);
        *ret_len = len;
        return 0;
    }
    if (!qcow2_desc_has_host(&img->shape, d)) {
        return 0;
    }
    *ret_host = d.entry & QCOW2_OFFSET_MASK;
    if (*ret_host & (cluster - 1) ||
        qcow2_desc_kind(&img->shape, d, 0) == QCOW2_INVALID) {
        return qcow2_co_corrupt(img, table,
                                "an L2 entry is 0x%" PRIx64 ": no "
                                "cluster of this image (run a check)",
                                d.entry);
    }
    *ret_len = cluster;
    return 0;
}

/* --- once more --- */

/* The data that the table in tx->table leads to. *@ret_changed: COPIED stood
 * somewhere, and does not any more. */
static CO_FN int data_co_share(struct qcow2_transaction *tx, uint64_t host,
                               bool *ret_changed)
{
    struct qcow2_image *img = tx->img;
    int ret = 0;

    *ret_changed = false;
    for (uint32_t i = 0; i < n_descs(img) && ret == 0; i++) {
        struct qcow2_desc d = qcow2_desc_get(&img->shape, tx->table, i);
        uint64_t at, len;

        ret = desc_co_alloc(img, host, d, &at, &len);
        if (ret < 0 || len == 0) {
            continue;
        }
        ret = qcow2_transaction_co_count(tx, at, len, 1);
        if (d.entry & QCOW2_COPIED && !(d.entry & QCOW2_COMPRESSED)) {
            d.entry &= ~QCOW2_COPIED;
            qcow2_desc_put(&img->shape, tx->table, i, d);
            *ret_changed = true;
        }
    }
    return ret;
}

/* The table at @host. *@ret_entry: what the second L1 table says, and with
 * @both the first one, too. */
static CO_FN int table_co_share(struct qcow2_transaction *tx, uint64_t host,
                                bool both, uint64_t *ret_entry)
{
    uint64_t cluster = qcow2_cluster_size(tx->img), to;
    bool changed;
    int ret = table_co_read(tx->img, host, tx->table);

    if (ret == 0) {
        ret = data_co_share(tx, host, &changed);
    }
    if (ret != 0) {
        return ret;
    }
    if (!changed) {
        *ret_entry = host;
        return qcow2_transaction_co_count(tx, host, cluster, 1);
    }
    ret = qcow2_transaction_co_store(tx, QCOW2_META_L2, tx->table, cluster,
                                     &to);
    if (ret < 0) {
        return ret;
    }
    *ret_entry = both ? to : to | QCOW2_COPIED;
    if (both) {
        qcow2_transaction_drop(tx, host, cluster);
        ret = qcow2_co_refcount_up(tx->img, 0, to, cluster, 1);
        ret = ret == -ERANGE ? -EINVAL : ret;
    }
    return ret;
}

int qcow2_refs_co_share(struct qcow2_transaction *tx, const uint64_t *l1,
                        uint32_t n, bool both, uint64_t *ret_l1)
{
    int ret = 0;

    for (uint32_t i = 0; i < n && ret == 0; i++) {
        uint64_t entry = 0;

        if (l1_host(l1, i)) {
            ret = table_co_share(tx, l1_host(l1, i), both, &entry);
        }
        put_be64(&ret_l1[i], entry);
    }
    return ret;
}

/* --- once less, of what nothing leads to --- */

/* The active L2 table beside entry @i; 0: none. */
static uint64_t active_host(const struct qcow2_image *img, uint32_t i)
{
    return i < img->hdr.l1_size ? l1_host(img->l1, i) : 0;
}

/* Clusters to be freed one after the other are freed at once. */
static CO_FN void run_co_free(struct qcow2_image *img,
                              struct qcow2_decrement *run, uint64_t host,
                              uint64_t len)
{
    uint64_t first = host >> img->cluster_bits, n = 0;

    if (len) {
        n = ((host + len - 1) >> img->cluster_bits) - first + 1;
    }
    if (n && run->n && run->first + run->n == first) {
        run->n += n;
        return;
    }
    if (run->n) {
        qcow2_reclaim_now(img, run->first, run->n);
        if (img->space->reclaimable->len > FREE_MAX) {
            qcow2_co_reclaim(img);
        }
    }
    *run = (struct qcow2_decrement) { 0, first, n };
}

/* Both tables lead to one cluster, and it can be written in place some day. */
static bool is_common(const struct qcow2_image *img, struct qcow2_desc a,
                      struct qcow2_desc b)
{
    return !((a.entry | b.entry) & QCOW2_COMPRESSED) &&
           qcow2_desc_has_host(&img->shape, a) &&
           qcow2_desc_has_host(&img->shape, b) &&
           !((a.entry ^ b.entry) & QCOW2_OFFSET_MASK);
}

/* What the table in tx->table leads to, and the one in tx->other (if there is
 * an @active one) does not. */
static CO_FN void data_co_free(struct qcow2_transaction *tx, uint64_t host,
                               bool active)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_decrement run = { 0 };

    for (uint32_t i = 0; i < n_descs(img); i++) {
        struct qcow2_desc d = qcow2_desc_get(&img->shape, tx->table, i);
        uint64_t at, len;

        int ret = desc_co_alloc(img, host, d, &at, &len);

        if (ret < 0) {
            qcow2_leak(img, (d.entry & QCOW2_OFFSET_MASK) >> img->cluster_bits,
                       1, ret);
        } else if (len > 0 &&
                   !(active &&
                     is_common(img, d,
                               qcow2_desc_get(&img->shape, tx->other, i)))) {
            run_co_free(img, &run, at, len);
        }
    }
    run_co_free(img, &run, 0, 0);
}

void qcow2_refs_co_free(struct qcow2_transaction *tx, const uint64_t *l1,
                        uint32_t n, bool all)
{
    struct qcow2_image *img = tx->img;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t host = l1_host(l1, i);
        uint64_t active = all ? 0 : active_host(img, i);
        int ret;

        if (host == 0 || host == active) {
            continue;
        }
        ret = table_co_read(img, host, tx->table);
        if (ret == 0 && active) {
            ret = table_co_read(img, active, tx->other);
        }
        if (ret < 0) {
            qcow2_leak(img, host >> img->cluster_bits, 1, ret);
            continue;
        }
        data_co_free(tx, host, active != 0);
        if (all) {
            qcow2_reclaim_now(img, host >> img->cluster_bits, 1);
        }
    }
    qcow2_co_reclaim(img);
}

/* --- once less, of what the disk uses --- */

/* The cluster at @at of entry @i of the active table in @table. */
static CO_FN int cluster_co_unshare(struct qcow2_transaction *tx,
                                    uint8_t *table, uint32_t i, uint64_t at,
                                    bool *changed)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_desc d = qcow2_desc_get(&img->shape, table, i);
    int ret = qcow2_transaction_co_count(tx, at, qcow2_cluster_size(img), -1);

    if (ret == 0 && qcow2_count_at(img, at >> img->cluster_bits) == 1) {
        d.entry |= QCOW2_COPIED;
        qcow2_desc_put(&img->shape, table, i, d);
        *changed = true;
    }
    return ret;
}

/* A table that both L1 tables lead to, at @host; *@entry is the active
 * one's. */
static CO_FN int common_co_unshare(struct qcow2_transaction *tx, uint64_t host,
                                   uint64_t *entry)
{
    struct qcow2_image *img = tx->img;
    uint64_t cluster = qcow2_cluster_size(img), at, len, to;
    bool changed = false;
    int ret = table_co_read(img, host, tx->table);

    for (uint32_t i = 0; i < n_descs(img) && ret == 0; i++) {
        struct qcow2_desc d = qcow2_desc_get(&img->shape, tx->table, i);

        ret = desc_co_alloc(img, host, d, &at, &len);
        if (ret < 0 || len == 0) {
            continue;
        }
        ret = d.entry & QCOW2_COMPRESSED
                  ? qcow2_transaction_co_count(tx, at, len, -1)
                  : cluster_co_unshare(tx, tx->table, i, at, &changed);
    }
    if (ret < 0) {
        return ret;
    }
    if (changed) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_L2, tx->table, cluster,
                                         &to);
        *entry = to | QCOW2_COPIED;
        qcow2_transaction_drop(tx, host, cluster); /* of either L1 table */
        qcow2_transaction_drop(tx, host, cluster);
        return ret;
    }
    ret = qcow2_transaction_co_count(tx, host, cluster, -1);
    if (ret == 0 && qcow2_count_at(img, host >> img->cluster_bits) == 1) {
        *entry |= QCOW2_COPIED;
    }
    return ret;
}

/* The table at @host and the active one that *@entry leads to. */
static CO_FN int pair_co_unshare(struct qcow2_transaction *tx, uint64_t host,
                                 uint64_t *entry)
{
    struct qcow2_image *img = tx->img;
    uint64_t cluster = qcow2_cluster_size(img), to;
    uint64_t active = *entry & QCOW2_OFFSET_MASK;
    bool changed = false;
    int ret = table_co_read(img, host, tx->table);

    if (ret == 0) {
        ret = table_co_read(img, active, tx->other);
    }
    for (uint32_t i = 0; i < n_descs(img) && ret == 0; i++) {
        struct qcow2_desc d = qcow2_desc_get(&img->shape, tx->table, i);

        if (is_common(img, d, qcow2_desc_get(&img->shape, tx->other, i))) {
            ret = cluster_co_unshare(tx, tx->other, i,
                                     d.entry & QCOW2_OFFSET_MASK, &changed);
        }
    }
    if (ret == 0 && changed) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_L2, tx->other, cluster,
                                         &to);
        *entry = to | QCOW2_COPIED;
        qcow2_transaction_drop(tx, active, cluster);
    }
    return ret;
}

int qcow2_refs_co_unshare(struct qcow2_transaction *tx, const uint64_t *l1,
                          uint32_t n, uint64_t *ret_l1)
{
    struct qcow2_image *img = tx->img;
    int ret = 0;

    memcpy(ret_l1, img->l1, (size_t)img->hdr.l1_size * 8);
    for (uint32_t i = 0; i < n && ret == 0; i++) {
        uint64_t host = l1_host(l1, i), active = active_host(img, i), entry;

        if (host && active) {
            entry = get_be64(&img->l1[i]);
            ret = host == active ? common_co_unshare(tx, host, &entry)
                                 : pair_co_unshare(tx, host, &entry);
            put_be64(&ret_l1[i], entry);
        }
        if (host && host != active) {
            qcow2_transaction_drop(tx, host, qcow2_cluster_size(img));
        }
    }
    return ret;
}
