/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free space: runs of clusters, from what was freed or found free, else at the
 * end of the file.
 *
 * Free clusters inside the file are found by reading one refcount block per
 * allocation until all were seen, so no request pays for the size of the image.
 * A refcount in memory decides in the end, never the set of free ones alone.
 *
 * The end is that of the last cluster in use: storage may be longer (a block
 * device, or what a crash left).  Clusters past the end that storage had when
 * the image was opened are fresh: they read as zeroes until they are written.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "format/trace.h"

/* Free runs that are looked at for one that is long enough. */
#define FIT_TRIES 16
/* Refcount blocks that are looked at for the last cluster in use. */
#define EMPTY_BLOCKS_MAX 256

/* --- the set of free runs --- */

static void free_insert(struct qcow2_space *sp, uint64_t first, uint64_t n)
{
    g_tree_insert(sp->free, GSIZE_TO_POINTER(first), GSIZE_TO_POINTER(n));
    sp->n_free += n;
}

static void free_remove(struct qcow2_space *sp, GTreeNode *t)
{
    sp->n_free -= GPOINTER_TO_SIZE(g_tree_node_value(t));
    g_tree_remove(sp->free, g_tree_node_key(t));
}

static uint64_t qcow2_run_first(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_key(t));
}

static uint64_t run_len(GTreeNode *t)
{
    return GPOINTER_TO_SIZE(g_tree_node_value(t));
}

/* The last run that begins at or before @at. */
static GTreeNode *run_before(struct qcow2_space *sp, uint64_t at)
{
    GTreeNode *t = g_tree_upper_bound(sp->free, GSIZE_TO_POINTER(at));

    return t ? g_tree_node_previous(t) : g_tree_node_last(sp->free);
}

void qcow2_space_add_free(struct qcow2_image *img, uint64_t first, uint64_t n)
{
    struct qcow2_space *sp = img->space;
    uint64_t end = first + n;
    GTreeNode *t = run_before(sp, end);

    /* One run out of all that touch it. */
    while (t && qcow2_run_first(t) + run_len(t) >= first) {
        first = min_u64(first, qcow2_run_first(t));
        end = max_u64(end, qcow2_run_first(t) + run_len(t));
        free_remove(sp, t);
        t = run_before(sp, end);
    }
    free_insert(sp, first, end - first);
}

/* A run of at least @n. */
static bool free_find(struct qcow2_space *sp, uint64_t n, uint64_t *ret_first)
{
    GTreeNode *t = sp->n_free >= n ? g_tree_node_first(sp->free) : NULL;

    for (unsigned i = 0; t && i < FIT_TRIES; i++) {
        if (run_len(t) >= n) {
            *ret_first = qcow2_run_first(t);
            return true;
        }
        t = g_tree_node_next(t);
    }
    return false;
}

/* Take [@first, @first+@n) out of the set, as far as it is in it. */
static void free_cut(struct qcow2_space *sp, uint64_t first, uint64_t n)
{
    uint64_t end = first + n;
    GTreeNode *t;

    while ((t = run_before(sp, end - 1)) &&
           qcow2_run_first(t) + run_len(t) > first) {
        uint64_t a = qcow2_run_first(t), b = a + run_len(t);

        free_remove(sp, t);
        if (a < first) {
            free_insert(sp, a, first - a);
        }
        if (b > end) {
            free_insert(sp, end, b - end);
        }
    }
}

/* --- finding free ones --- */

/* A range that has no block is free, up to the next one that has. */
static void scan_skip(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct qcow2_space *sp = img->space;
    uint64_t first = qcow2_block_first(r, sp->scan), end;

    while (sp->scan < sp->scan_end && !r->table[sp->scan]) {
        sp->scan++;
    }
    end = min_u64(qcow2_block_first(r, sp->scan), sp->end);
    if (first < end) {
        qcow2_space_add_free(img, first, end - first);
    }
}

/* Look at one more block. */
static CO_FN int scan_co_step(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct qcow2_space *sp = img->space;
    uint64_t first, end, at;
    int ret;

    scan_skip(img);
    if (sp->scan >= sp->scan_end) {
        return 0;
    }
    first = qcow2_block_first(r, sp->scan);
    sp->scanning = true;
    do {
        ret = qcow2_co_blocks_ready(img, first, 1, false);
    } while (ret == 1);
    sp->scanning = false;
    if (ret < 0) {
        return ret;
    }
    end = min_u64(qcow2_block_first(r, ++sp->scan), sp->end);
    for (at = first; at < end;) {
        uint64_t from = qcow2_count_find(img, at, end, false);
        at = qcow2_count_find(img, from, end, true);
        if (from < at) {
            qcow2_space_add_free(img, from, at - from);
        }
    }
    return 0;
}

/* --- handing out --- */

/* [@first, @first+@n), whose blocks are ready, if all of it is free. */
static bool run_take(struct qcow2_image *img, uint64_t first, uint64_t n)
{
    if (qcow2_count_find(img, first, first + n, true) < first + n) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        qcow2_count_set(img, first + i, 1);
    }
    return true;
}

/* From the set. 1: there is nothing that fits. */
static CO_FN int space_co_alloc_known(struct qcow2_image *img, uint64_t n,
                                      uint64_t *ret_first)
{
    struct qcow2_space *sp = img->space;
    uint64_t first;
    int ret;

    while (free_find(sp, n, &first)) {
        ret = qcow2_co_blocks_ready(img, first, n, true);
        if (ret < 0) {
            return ret;
        }
        if (ret == 1) {
            continue;
        }
        free_cut(sp, first, n); /* taken, or wrong in the set */
        if (run_take(img, first, n)) {
            *ret_first = first;
            return 0;
        }
    }
    return 1;
}

static CO_FN int end_co_alloc(struct qcow2_image *img, uint64_t n,
                              uint64_t *ret_first, bool *ret_fresh)
{
    struct qcow2_space *sp = img->space;
    int ret;

    for (;;) {
        uint64_t first = sp->end, used;
        bool taken;

        if (n > sp->limit || first > sp->limit - n) {
            return -ENOSPC;
        }
        ret = qcow2_co_blocks_ready(img, first, n, true);
        if (ret < 0) {
            return ret;
        }
        if (ret == 1) {
            continue;
        }
        used = qcow2_count_find(img, first, first + n, true);
        if (used < first + n) {
            if (used > first) {
                qcow2_space_add_free(img, first, used - first);
            }
            sp->end = qcow2_count_find(img, used, first + n, false);
            continue;
        }
        sp->end = first + n;
        taken = run_take(img, first, n);
        g_assert(taken);
        *ret_fresh = first >= sp->virgin;
        sp->virgin = max_u64(sp->virgin, sp->end);
        *ret_first = first;
        return 0;
    }
}

int qcow2_co_alloc(struct qcow2_image *img, uint64_t gen, uint64_t bytes,
                   uint64_t *ret_host, bool *ret_fresh)
{
    struct qcow2_space *sp = img->space;
    uint64_t n = (bytes + qcow2_cluster_size(img) - 1) >> img->cluster_bits;
    uint64_t first = 0;
    int ret;

    node_co_debug_event(qcow2_file(img), DEBUG_CLUSTER_ALLOC);
    node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_ALLOC);
    *ret_fresh = false;
    ret = img->sector.unknown ? -EIO : space_co_alloc_known(img, n, &first);
    if (ret == 1 && sp->scan < sp->scan_end && !sp->scanning) {
        ret = scan_co_step(img);
        ret = ret < 0 ? ret : space_co_alloc_known(img, n, &first);
    }
    if (ret == 1) {
        ret = end_co_alloc(img, n, &first, ret_fresh);
    }
    if (ret == 0) {
        /* Where a refcount is too low, the cluster may hold a table. */
        ret = qcow2_co_check_free(img, first << img->cluster_bits,
                                  n << img->cluster_bits);
    }
    if (ret == 0) {
        *ret_host = first << img->cluster_bits;
    }
    trace_qcow2_alloc(img->node->name, n, first, ret);
    return ret;
}

void qcow2_unalloc(struct qcow2_image *img, uint64_t gen, uint64_t host,
                   uint64_t len)
{
    uint64_t first = host >> img->cluster_bits;
    uint64_t last = (host + len - 1) >> img->cluster_bits;

    qcow2_reclaim_now(img, first, last - first + 1);
}

/* --- compressed data: byte by byte --- */

/* The rest of the cluster that was begun, which gets one more reference unless
 * that would be too many. -ENOSPC: no; 1: others had a turn. */
static CO_FN int compressed_co_extend(struct qcow2_image *img, uint32_t len,
                                      uint64_t *ret_host)
{
    struct qcow2_space *sp = img->space;
    uint64_t cluster = qcow2_cluster_size(img);
    uint64_t begun = sp->compressed & (cluster - 1), count;
    uint64_t at = sp->compressed >> img->cluster_bits;
    int ret;

    if (begun == 0 || len > cluster - begun) {
        return -ENOSPC;
    }
    ret = qcow2_co_blocks_ready(img, at, 1, false);
    if (ret != 0) {
        return ret;
    }
    count = qcow2_count_at(img, at);
    if (count == 0 || count == img->refcounts->max) {
        sp->compressed = 0;
        return -ENOSPC;
    }
    qcow2_count_set(img, at, count + 1);
    *ret_host = sp->compressed;
    sp->compressed += len;
    return 0;
}

int qcow2_co_alloc_compressed(struct qcow2_image *img, uint64_t gen,
                              uint32_t len, uint64_t *ret_host)
{
    struct qcow2_space *sp = img->space;
    uint64_t cluster = qcow2_cluster_size(img);
    bool fresh;
    int ret;

    g_assert(len > 0 && len <= cluster);
    node_co_debug_event(qcow2_file(img), DEBUG_CLUSTER_ALLOC_BYTES);
    do {
        ret = compressed_co_extend(img, len, ret_host);
    } while (ret == 1);
    if (ret != -ENOSPC) {
        return ret;
    }
    ret = qcow2_co_alloc(img, gen, cluster, ret_host, &fresh);
    if (ret == 0) {
        sp->compressed = *ret_host + len;
    }
    return ret;
}

int qcow2_free_desc(struct qcow2_image *img, uint64_t gen, struct qcow2_desc d)
{
    uint64_t host;
    uint32_t len;

    if (d.entry & QCOW2_COMPRESSED) {
        qcow2_compressed_get(&img->shape, d.entry, &host, &len);
        return qcow2_refcount_decrement(img, gen, host, len);
    }
    if (img->shape.data_file || !qcow2_desc_has_host(&img->shape, d)) {
        return 0;
    }
    return qcow2_refcount_decrement(img, gen, d.entry & QCOW2_OFFSET_MASK,
                                    qcow2_cluster_size(img));
}

/* --- open, close --- */

void qcow2_space_rewind(struct qcow2_image *img, uint64_t end)
{
    struct qcow2_space *sp = img->space;

    g_tree_remove_all(sp->free);
    sp->n_free = 0;
    sp->end = end;
    sp->scan = 0;
    sp->scan_end = img->refcounts->used;
}

/* One more than the last cluster that is in use. After many blocks that say
 * nothing is, the end of the file must do. */
static CO_FN int end_co_find(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    unsigned looks = EMPTY_BLOCKS_MAX;

    for (uint32_t i = r->used; i-- > 0;) {
        uint64_t first = qcow2_block_first(r, i);
        uint64_t n = UINT64_C(1) << r->block_bits;
        int ret;

        if (r->table[i] == 0) {
            continue;
        }
        if (looks-- == 0) {
            img->space->end = img->space->virgin;
            return 0;
        }
        do {
            ret = qcow2_co_blocks_ready(img, first, 1, false);
        } while (ret == 1);
        if (ret < 0) {
            return ret;
        }
        while (n > 0 && qcow2_count_at(img, first + n - 1) == 0) {
            n--;
        }
        if (n > 0) {
            img->space->end = first + n;
            return 0;
        }
    }
    return 0;
}

int qcow2_co_space_refind(struct qcow2_image *img)
{
    int ret = end_co_find(img);

    qcow2_space_rewind(img, img->space->end);
    return ret;
}

int qcow2_co_space_open(struct qcow2_image *img, unsigned flags, GError **err)
{
    struct qcow2_space *sp = g_new0(struct qcow2_space, 1);
    uint64_t size = qcow2_file(img)->size, cluster = qcow2_cluster_size(img);
    int ret;

    img->space = sp;
    sp->free = g_tree_new(qcow2_compare_numbers);
    sp->limit = (UINT64_C(1) << 56) / cluster;
    sp->virgin = round_up(size, cluster) / cluster;
    sp->scan_end = img->refcounts->used;
    qcow2_reclaim_init(img);
    ret = end_co_find(img);
    if (ret < 0 && (flags & NODE_CHECK)) {
        sp->end = sp->virgin;
        sp->scan_end = 0;
    } else if (ret < 0) {
        qcow2_space_close(img);
        return err_set_errno(err, -ret, "Could not read the refcounts");
    }
    return 0;
}

void qcow2_space_close(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;

    if (sp) {
        qcow2_reclaim_done(img);
        g_tree_destroy(sp->free);
        g_clear_pointer(&img->space, g_free);
    }
}
