/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts against what the check counted: compared, corrected in place, or
 * written anew.
 *
 * A new structure lies behind everything that is referred to, and is durable
 * before one write of the header leads to it; the old one is free space then.
 * So a crash leaves the old or the new one.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/meta/meta.h"
#include "loop/io.h"

/* --- compare --- */

/* The refcount of @cluster becomes @count; its block is ready. */
static void count_correct(struct qcow2_check *c, uint64_t cluster,
                          uint64_t count)
{
    c->changed = true;
    qcow2_count_set(c->img, cluster, count);
}

/* Cluster @i has refcount @is, and @want references. */
static void mismatch(struct qcow2_check *c, uint64_t i, uint64_t is,
                     uint64_t want, bool has_block)
{
    bool leak = is > want;
    bool fix = c->fix & (leak ? CHECK_FIX_LEAKS : CHECK_FIX_ERRORS);

    if (want > c->img->refcounts->max) {
        c->res->corruptions++; /* whatever may be repaired */
        qcow2_check_report(c,
                           "ERROR: %" PRIu64 " references to cluster %" PRIu64
                           " are more than a refcount of this image can "
                           "say: copy it with 'convert'",
                           want, i);
        return;
    }
    if (c->rebuild && !(c->fix & CHECK_FIX_ERRORS)) {
        fix = false;
    }
    qcow2_check_report(
        c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
        fix    ? "Repairing"
        : leak ? "Leaked"
               : "ERROR",
        i, is, want);
    if (fix) {
        c->res->corruptions_fixed += !leak;
        c->res->leaks_fixed += leak;
    } else {
        c->res->corruptions += !leak;
        c->res->leaks += leak;
    }
    if (fix && has_block && !c->rebuild) {
        count_correct(c, i, want);
    } else if (fix) {
        c->changed = true;
        c->rebuild = true;
    }
}

/* Clusters [@first, @end) of the block in @t. */
static void block_compare(struct qcow2_check *c, const struct table *t,
                          uint64_t first, uint64_t end)
{
    const struct qcow2_refcounts *r = c->img->refcounts;
    uint64_t base = qcow2_block_first(r, t->key);
    bool empty = buf_is_zero(t->data, r->blocks.table_bytes);

    for (uint64_t i = first; i < end; i++) {
        uint64_t is, want;

        if (empty) { /* there may be a million of them */
            i = qcow2_counts_next(c->counts, i);
            if (i >= end) {
                break;
            }
        }
        want = qcow2_counts_get(c->counts, i);
        is = qcow2_count_get(r->order, t->data, i - base);
        if (is != want) {
            mismatch(c, i, is, want, true);
        }
        if (is || want) {
            c->res->image_end_offset = (i + 1) << c->img->cluster_bits;
        }
    }
}

static CO_FN int block_co_compare(struct qcow2_check *c, uint32_t block,
                                  uint64_t first, uint64_t end)
{
    struct qcow2_refcounts *r = c->img->refcounts;
    struct table *t;
    int ret = qcow2_check_spend(c, "refcounts", r->blocks.table_bytes);

    if (ret < 0) {
        return ret;
    }
    co_relax();
    ret = qcow2_co_blocks_trim(c->img);
    if (ret >= 0) {
        ret = metadata_cache_co_get(&r->blocks, block, &t);
    }
    if (ret < 0) {
        c->res->check_errors++;
        qcow2_check_report(c,
                           "ERROR: refcount block %" PRIu32 " cannot be "
                           "read: %s",
                           block, g_strerror(-ret));
        return 0;
    }
    block_compare(c, t, first, end);
    metadata_cache_put(&r->blocks, t);
    return 0;
}

/* Counted clusters of a range without a block. */
static void hole_compare(struct qcow2_check *c, uint64_t first, uint64_t end)
{
    uint64_t i = qcow2_counts_next(c->counts, first);

    for (; i < end; i = qcow2_counts_next(c->counts, i + 1)) {
        mismatch(c, i, 0, qcow2_counts_get(c->counts, i), false);
        c->res->image_end_offset = (i + 1) << c->img->cluster_bits;
    }
}

int qcow2_co_check_refcounts(struct qcow2_check *c)
{
    struct qcow2_refcounts *r = c->img->refcounts;
    uint64_t end = c->file_clusters;
    int ret = 0;

    for (uint32_t b = 0; qcow2_block_first(r, b) < end && ret == 0; b++) {
        uint64_t first = qcow2_block_first(r, b);
        uint64_t stop = min_u64(qcow2_block_first(r, b + 1), end);

        if (b < r->used && r->table[b] && !c->bad_blocks[b]) {
            ret = block_co_compare(c, b, first, stop);
        } else {
            if (b >= r->used) { /* as far as it goes */
                stop = end;
            }
            hole_compare(c, first, stop);
            if (b >= r->used) {
                break;
            }
        }
    }
    return ret;
}

/* --- a new structure --- */

struct rebuild {
    struct qcow2_check *c;
    GTree *blocks;  /* number -> file offset */
    uint64_t at;    /* the next free cluster */
    uint64_t table; /* cluster */
    uint64_t table_clusters;
};

/* Count cluster @cluster, and have a block for it. */
static int plan_cluster(struct rebuild *b, uint64_t cluster)
{
    struct qcow2_refcounts *r = b->c->img->refcounts;
    gpointer key = GSIZE_TO_POINTER(qcow2_block_of(r, cluster));
    int ret = 0;

    while (ret == 0 && !g_tree_lookup(b->blocks, key)) {
        uint64_t own = b->at++;

        g_tree_insert(b->blocks, key, GSIZE_TO_POINTER(own));
        ret = qcow2_counts_add(b->c->counts, own, 1);
        /* It may lie in the range of a block that does not exist. */
        key = GSIZE_TO_POINTER(qcow2_block_of(r, own));
    }
    return ret;
}

static int plan_all(struct rebuild *b)
{
    struct qcow2_image *img = b->c->img;
    uint64_t per = qcow2_cluster_size(img) / 8, i, n;
    GTreeNode *last;
    int ret = 0;

    b->at = max_u64(b->c->file_clusters, qcow2_counts_end(b->c->counts));
    for (i = qcow2_counts_next(b->c->counts, 0); i < b->at && ret == 0;
         i = qcow2_counts_next(b->c->counts, i + 1)) {
        ret = plan_cluster(b, i);
    }
    last = g_tree_node_last(b->blocks);
    n = last ? GPOINTER_TO_SIZE(g_tree_node_key(last)) + 2 : 1;
    b->table_clusters = (n + n / 2 + per - 1) / per;
    b->table = b->at;
    b->at += b->table_clusters;
    for (i = b->table; i < b->table + b->table_clusters && ret == 0; i++) {
        ret = qcow2_counts_add(b->c->counts, i, 1);
        ret = ret < 0 ? ret : plan_cluster(b, i);
    }
    last = g_tree_node_last(b->blocks);
    if (ret == 0 &&
        (b->table_clusters * per <= GPOINTER_TO_SIZE(g_tree_node_key(last)) ||
         b->table_clusters << img->cluster_bits > QCOW2_REFTABLE_BYTES_MAX)) {
        ret = -EFBIG;
    }
    return ret;
}

static CO_FN int block_co_store(struct rebuild *b, uint64_t number,
                                uint64_t cluster)
{
    struct qcow2_image *img = b->c->img;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t first = number << r->block_bits;
    uint64_t end = first + (UINT64_C(1) << r->block_bits), i;
    struct iovec v;

    memset(b->c->table, 0, qcow2_cluster_size(img));
    for (i = qcow2_counts_next(b->c->counts, first); i < end;
         i = qcow2_counts_next(b->c->counts, i + 1)) {
        uint64_t count = qcow2_counts_get(b->c->counts, i);

        if (count > r->max) {
            b->c->res->check_errors++;
            count = r->max;
        }
        qcow2_count_put(r->order, b->c->table, i - first, count);
    }
    return node_co_pwritev(qcow2_file(img), cluster << img->cluster_bits,
                           iov_one(&v, b->c->table, qcow2_cluster_size(img)),
                           0);
}

static CO_FN int plan_co_write(struct rebuild *b)
{
    struct qcow2_image *img = b->c->img;
    size_t bytes = b->table_clusters << img->cluster_bits;
    uint64_t *table = g_try_malloc0(bytes);
    struct iovec v;
    int ret = table ? 0 : -ENOMEM;

    for (GTreeNode *t = g_tree_node_first(b->blocks); t && ret == 0;
         t = g_tree_node_next(t)) {
        uint64_t number = GPOINTER_TO_SIZE(g_tree_node_key(t));
        uint64_t cluster = GPOINTER_TO_SIZE(g_tree_node_value(t));

        put_be64(&table[number], cluster << img->cluster_bits);
        ret = block_co_store(b, number, cluster);
        co_relax();
    }
    if (ret == 0) {
        ret = node_co_pwritev(qcow2_file(img), b->table << img->cluster_bits,
                              iov_one(&v, table, bytes), 0);
    }
    g_free(table);
    return ret < 0 ? ret
                   : BARRIER(QCOW2_REBUILD,
                             node_co_sync(img->node, qcow2_file(img)));
}

/* The old structure is no longer referred to. */
static void old_uncount(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    struct qcow2_refcounts *r = img->refcounts;

    qcow2_counts_remove(c->counts,
                        img->hdr.reftable_offset >> img->cluster_bits,
                        img->hdr.reftable_clusters);
    for (uint32_t i = 0; i < r->used; i++) {
        uint64_t at = r->table[i] >> img->cluster_bits;

        if (r->table[i] && !(r->table[i] & (qcow2_cluster_size(img) - 1)) &&
            at < c->file_clusters) {
            qcow2_counts_remove(c->counts, at, 1);
        }
    }
}

int qcow2_co_rebuild_refcounts(struct qcow2_check *c)
{
    struct rebuild b = { .c = c, .blocks = g_tree_new(qcow2_compare_numbers) };
    struct qcow2_header h;
    int ret;

    qcow2_check_report(c, "Rebuilding refcount structure");
    old_uncount(c);
    ret = plan_all(&b);
    if (ret == 0) {
        ret = plan_co_write(&b);
    }
    if (ret == 0) {
        h = c->img->hdr;
        h.reftable_offset = b.table << c->img->cluster_bits;
        h.reftable_clusters = (uint32_t)b.table_clusters;
        ret = qcow2_co_write_header(c->img, &h);
    }
    if (ret == 0) {
        c->res->image_end_offset = b.at << c->img->cluster_bits;
        c->changed = true;
    }
    g_tree_destroy(b.blocks);
    return ret;
}
