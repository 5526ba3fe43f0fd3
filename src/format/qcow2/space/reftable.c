/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * New refcount blocks, a larger refcount table, and how changes reach the file.
 *
 * A new block lies where the next cluster would have been handed out, so it
 * counts itself unless an older block does.  Nothing leads to it before it is
 * durable:
 *
 *   1 changed blocks, new ones and a larger table are written
 *   2 flush, if the file's table must come to lead to any of them
 *   3 the entries of the file's table, or the header that names the larger one
 *
 * and the flush of the commit group follows.  The room of the old table is
 * given back when that pass is durable.
 *
 * A block that counts nothing goes the other way (empty-blocks.c): its entry is
 * cleared, durably, and then its cluster is free.  A write of the entry that
 * failed may have reached the file, or not; either is right as long as the
 * block counts nothing, and it is unlinked like a new one until then.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "loop/io.h"
#include "loop/parallel.h"

/* Of a block in `unlinked`; 0 = it is not there. */
enum { LINK_NEW = 1, LINK_BEGUN };

/* --- a new block --- */

/* Room for table[@block]. */
static int table_reach(struct qcow2_refcounts *r, uint64_t block)
{
    uint32_t len = MAX(r->len, 512);
    uint64_t *table;

    if (block < r->len) {
        return 0;
    }
    if (block >= QCOW2_REFTABLE_BYTES_MAX / 8) {
        return -EFBIG;
    }
    while (len <= block) {
        len *= 2;
    }
    table = g_try_renew(uint64_t, r->table, len);
    if (!table) {
        return -ENOMEM;
    }
    memset(table + r->len, 0, (len - r->len) * sizeof(*table));
    r->table = table;
    r->len = len;
    return 0;
}

/* Take the next cluster for a block. *@ret_own: it is in the range of a block
 * that does not exist, whose first it shall be. */
static CO_FN int block_co_alloc(struct qcow2_image *img, uint64_t *ret_cluster,
                                bool *ret_own)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct qcow2_space *sp = img->space;
    int ret;

    for (;;) {
        uint64_t at = sp->end;

        if (at >= sp->limit) {
            return -ENOSPC;
        }
        if (img->sector.unknown) {
            return -EIO;
        }
        ret = qcow2_co_blocks_ready(img, at, 1, false);
        if (ret < 0) {
            return ret;
        }
        if (ret == 1) {
            continue;
        }
        sp->end++;
        if (qcow2_count_at(img, at) != 0) {
            continue;
        }
        if (qcow2_meta_is_at(img, at << img->cluster_bits)) {
            qcow2_co_corrupt(img, at << img->cluster_bits,
                             "cluster %" PRIu64
                             " holds metadata, but its refcount is 0 (run a "
                             "check)",
                             at);
            return -EIO;
        }
        *ret_own = qcow2_block_of(r, at) >= r->len ||
                   r->table[qcow2_block_of(r, at)] == 0;
        if (!*ret_own) {
            qcow2_count_set(img, at, 1);
        }
        sp->virgin = max_u64(sp->virgin, sp->end);
        *ret_cluster = at;
        return 0;
    }
}

/* Block @block of zeroes at cluster @at, which is ours. */
static CO_FN int block_co_make(struct qcow2_image *img, uint32_t block,
                               uint64_t at)
{
    struct qcow2_refcounts *r = img->refcounts;
    struct table *t;
    int ret = metadata_cache_co_new(&r->blocks, block, &t);

    if (ret < 0) {
        return ret;
    }
    r->table[block] = at << img->cluster_bits;
    r->used = MAX(r->used, block + 1);
    g_tree_insert(r->unlinked, GSIZE_TO_POINTER((gsize)block),
                  GSIZE_TO_POINTER(LINK_NEW));
    qcow2_block_dirty(img, t, 0, (uint32_t)qcow2_cluster_size(img));
    metadata_cache_put(&r->blocks, t);
    qcow2_meta_add(img, QCOW2_META_REFBLOCK, at << img->cluster_bits,
                   qcow2_cluster_size(img));
    return 0;
}

/* No block came of it. */
static void block_unplace(struct qcow2_image *img, uint64_t at, bool own)
{
    struct qcow2_space *sp = img->space;

    if (!own) {
        qcow2_reclaim_now(img, at, 1);
    } else if (sp->end == at + 1) { /* it was not counted */
        sp->end = at;
    }
}

static CO_FN int block_co_add_locked(struct qcow2_image *img, uint64_t block)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t at;
    bool own;
    int ret;

    while (block >= r->len || r->table[block] == 0) {
        uint64_t made = block;

        ret = block_co_alloc(img, &at, &own);
        if (ret < 0) {
            return ret;
        }
        if (own) { /* whoever was asked for: this range must have one first */
            made = qcow2_block_of(r, at);
        }
        ret = table_reach(r, made);
        if (ret == 0) {
            ret = block_co_make(img, (uint32_t)made, at);
        }
        if (ret < 0) {
            block_unplace(img, at, own);
            return ret;
        }
        if (own) {
            qcow2_count_set(img, at, 1);
        }
    }
    return 0;
}

int qcow2_co_block_add(struct qcow2_image *img, uint64_t block)
{
    struct qcow2_refcounts *r = img->refcounts;
    int ret;

    co_mutex_co_lock(&r->grow);
    ret = block_co_add_locked(img, block);
    co_mutex_unlock(&r->grow);
    return ret;
}

/* --- blocks to the file --- */

struct writing {
    struct qcow2_image *img;
    GArray *numbers; /* uint64_t */
};

/* A new block, one for a larger table, or one that was there. */
static enum debug_event block_event(const struct qcow2_refcounts *r,
                                    gpointer key)
{
    return !g_tree_lookup(r->unlinked, key) ? DEBUG_REFBLOCK_UPDATE_PART
           : r->moved_to                    ? DEBUG_REFBLOCK_ALLOC_WRITE_BLOCKS
                                            : DEBUG_REFBLOCK_ALLOC_WRITE;
}

static CO_FN int block_co_write(void *arg, unsigned i)
{
    struct writing *w = arg;
    struct qcow2_image *img = w->img;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t number = g_array_index(w->numbers, uint64_t, i);
    gpointer key = GSIZE_TO_POINTER(number);
    struct qcow2_dirty_block *d = g_hash_table_lookup(r->dirty, key);
    struct qcow2_dirty_block was = *d;
    uint64_t a, len;
    uint8_t *copy;
    int ret;

    a = round_down(was.first, QCOW2_SECTOR);
    len = round_up(was.end, QCOW2_SECTOR) - a;
    copy = io_buf_get(len);
    if (!copy) {
        return -ENOMEM;
    }
    /* Changes meanwhile are new ones. */
    memcpy(copy, (uint8_t *)was.t->data + a, len);
    g_hash_table_remove(r->dirty, key);
    node_co_debug_event(qcow2_file(img), block_event(r, key));
    ret = qcow2_co_write_meta(img, QCOW2_META_REFBLOCK, r->table[number] + a,
                              copy, len);
    if (ret < 0) {
        qcow2_block_dirty(img, was.t, was.first, was.end);
    }
    metadata_cache_put(&r->blocks, was.t);
    io_buf_put(copy, len);
    return ret;
}

static gint compare_values(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* `writing` is held. */
static CO_FN int blocks_co_write(struct qcow2_image *img)
{
    struct writing w = { img, g_array_new(FALSE, FALSE, sizeof(uint64_t)) };
    GHashTableIter iter;
    gpointer key;
    int ret;

    g_hash_table_iter_init(&iter, img->refcounts->dirty);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t number = GPOINTER_TO_SIZE(key);
        g_array_append_val(w.numbers, number);
    }
    g_array_sort(w.numbers, compare_values);
    ret = parallel_co_for(img->loop, w.numbers->len, QCOW2_SPACE_WORKERS,
                          block_co_write, &w);
    g_array_unref(w.numbers);
    return ret;
}

static bool many_dirty(const struct qcow2_refcounts *r)
{
    return g_hash_table_size(r->dirty) * r->blocks.table_bytes >=
           r->blocks.max_bytes / 2;
}

int qcow2_co_blocks_trim(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    int ret = 0;

    if (!many_dirty(r)) {
        return 0;
    }
    co_mutex_co_lock(&r->writing);
    if (many_dirty(r)) {
        ret = blocks_co_write(img);
    }
    co_mutex_unlock(&r->writing);
    return ret < 0 ? ret : 1;
}

/* --- a larger table --- */

static uint32_t disk_entries(const struct qcow2_image *img)
{
    return (
        uint32_t)(((uint64_t)img->hdr.reftable_clusters << img->cluster_bits) /
                  8);
}

/* Room for a table that leads to all blocks, those of its own room included. */
static CO_FN int move_co_prepare(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t cluster = qcow2_cluster_size(img), per = cluster / 8;

    while ((uint64_t)r->moved_clusters * per < r->used) {
        uint64_t want = min_u64((uint64_t)r->used + r->used / 2 + 16,
                                QCOW2_REFTABLE_BYTES_MAX / 8);
        uint64_t clusters = (want + per - 1) / per, host;
        bool fresh;
        int ret;

        if (r->moved_to) {
            qcow2_meta_remove(img, r->moved_to,
                              (uint64_t)r->moved_clusters * cluster);
            qcow2_unalloc(img, 0, r->moved_to,
                          (uint64_t)r->moved_clusters * cluster);
            r->moved_to = 0;
            r->moved_clusters = 0;
        }
        ret = qcow2_co_alloc(img, 0, clusters * cluster, &host, &fresh);
        if (ret < 0) {
            return ret;
        }
        r->moved_to = host;
        r->moved_clusters = (uint32_t)clusters;
        qcow2_meta_add(img, QCOW2_META_REFTABLE, host, clusters * cluster);
    }
    return 0;
}

/* What the file's table may say of block @i by now. */
static uint64_t qcow2_entry_of(const struct qcow2_refcounts *r, uint32_t i)
{
    gsize state = GPOINTER_TO_SIZE(
        g_tree_lookup(r->unlinked, GSIZE_TO_POINTER((gsize)i)));

    return i < r->len && state != LINK_NEW ? r->table[i] : 0;
}

static CO_FN int entries_co_write(struct qcow2_image *img, uint64_t table,
                                  uint32_t first, uint32_t end,
                                  uint32_t table_entries)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint32_t per = QCOW2_SECTOR / 8;
    uint32_t a = first / per * per;
    uint32_t n = MIN((end + per - 1) / per * per, table_entries) - a;
    uint64_t *buf = g_try_new0(uint64_t, n);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        put_be64(&buf[i], qcow2_entry_of(r, a + i));
    }
    ret = qcow2_co_write_meta(img, QCOW2_META_REFTABLE, table + (uint64_t)a * 8,
                              buf, (uint64_t)n * 8);
    g_free(buf);
    return ret;
}

static CO_FN int qcow2_reftable_move_co_write(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint32_t n = (uint32_t)(((uint64_t)r->moved_clusters << img->cluster_bits) /
                            8);

    node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_ALLOC_WRITE_TABLE);
    return entries_co_write(img, r->moved_to, 0, n, n);
}

/* @h is what else the header shall say. */
static CO_FN int move_co_switch(struct qcow2_image *img, struct qcow2_header h)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t old = img->hdr.reftable_offset;
    uint64_t old_len = (uint64_t)img->hdr.reftable_clusters
                       << img->cluster_bits;
    int ret;

    h.reftable_offset = r->moved_to;
    h.reftable_clusters = r->moved_clusters;
    node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_ALLOC_SWITCH_TABLE);
    ret = qcow2_co_write_header(img, &h);
    if (ret < 0) {
        return ret;
    }
    r->moved_to = 0;
    r->moved_clusters = 0;
    qcow2_meta_remove(img, old, old_len);
    return qcow2_refcount_decrement(img, 0, old, old_len);
}

/* --- all of it --- */

static gboolean collect_number(gpointer key, gpointer value, gpointer data)
{
    uint64_t number = GPOINTER_TO_SIZE(key);

    g_array_append_val((GArray *)data, number);
    return FALSE;
}

/* Entries of the blocks in @numbers, near ones by one write. */
static CO_FN int links_co_write(struct qcow2_image *img, const GArray *numbers)
{
    int ret = 0;

    for (unsigned i = 0; i < numbers->len && ret == 0;) {
        uint64_t first = g_array_index(numbers, uint64_t, i), end = first + 1;

        while (++i < numbers->len &&
               g_array_index(numbers, uint64_t, i) < end + 512) {
            end = g_array_index(numbers, uint64_t, i) + 1;
        }
        ret = entries_co_write(img, img->hdr.reftable_offset, (uint32_t)first,
                               (uint32_t)end, disk_entries(img));
    }
    return ret;
}

/* The file's table leads to the blocks in @numbers. */
static void links_end(struct qcow2_refcounts *r, const GArray *numbers)
{
    for (unsigned i = 0; i < numbers->len; i++) {
        g_tree_remove(r->unlinked, GSIZE_TO_POINTER((gsize)g_array_index(
                                       numbers, uint64_t, i)));
    }
}

/* Steps 2 and 3. @numbers: blocks that were written and are not linked. */
static CO_FN int blocks_co_link(struct qcow2_image *img, const GArray *numbers)
{
    struct qcow2_refcounts *r = img->refcounts;
    bool move = r->moved_to != 0;
    int ret;

    if (numbers->len == 0 && !move) {
        return 0;
    }
    ret = BARRIER(QCOW2_REFBLOCK, node_co_sync(img->node, qcow2_file(img)));
    if (ret == 0 && !move) {
        node_co_debug_event(qcow2_file(img), DEBUG_REFBLOCK_ALLOC_HOOKUP);
    }
    if (ret == 0) {
        ret = move ? move_co_switch(img, img->hdr)
                   : links_co_write(img, numbers);
    }
    if (ret == 0) {
        links_end(r, numbers);
    }
    return ret;
}

static void links_set(struct qcow2_refcounts *r, const GArray *numbers,
                      gsize state)
{
    for (unsigned i = 0; i < numbers->len; i++) {
        g_tree_replace(
            r->unlinked,
            GSIZE_TO_POINTER((gsize)g_array_index(numbers, uint64_t, i)),
            GSIZE_TO_POINTER(state));
    }
}

/* What is unlinked now gets its entry after the flush; what comes later does
 * not, even if it shares a sector. */
static GArray *links_begin(struct qcow2_refcounts *r)
{
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    g_tree_foreach(r->unlinked, collect_number, numbers);
    links_set(r, numbers, LINK_BEGUN);
    return numbers;
}

/* `writing` is held. */
static CO_FN int refcounts_co_write(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;
    GArray *numbers = links_begin(r);
    int ret = r->moved_to ? qcow2_reftable_move_co_write(img) : 0;

    if (ret == 0) {
        ret = blocks_co_write(img);
    }
    if (ret == 0) {
        ret = blocks_co_link(img, numbers);
    }
    g_array_unref(numbers);
    return ret;
}

/* Is the table that blocks will be linked in too small? */
static bool table_is_full(const struct qcow2_image *img)
{
    const struct qcow2_refcounts *r = img->refcounts;
    uint64_t room = max_u64(disk_entries(img),
                            ((uint64_t)r->moved_clusters << img->cluster_bits) /
                                8);

    return r->used > room;
}

int qcow2_co_refcounts_write(struct qcow2_image *img, uint64_t gen)
{
    struct qcow2_refcounts *r = img->refcounts;
    int ret;

    for (;;) {
        co_mutex_co_lock(&r->writing);
        if (!table_is_full(img)) {
            break;
        }
        co_mutex_unlock(&r->writing); /* allocation may want it */
        ret = move_co_prepare(img);
        if (ret < 0) {
            return ret;
        }
    }
    ret = refcounts_co_write(img);
    co_mutex_unlock(&r->writing);
    return ret;
}

int qcow2_co_blocks_unlink(struct qcow2_image *img, const GArray *numbers)
{
    int ret;

    links_set(img->refcounts, numbers, LINK_NEW);
    ret = links_co_write(img, numbers);
    return ret < 0 ? ret
                   : BARRIER(QCOW2_EMPTY_BLOCK,
                             node_co_sync(img->node, qcow2_file(img)));
}

bool qcow2_refcounts_pending(const struct qcow2_image *img)
{
    return g_hash_table_size(img->refcounts->dirty) > 0 ||
           g_tree_nnodes(img->refcounts->unlinked) > 0;
}

/* --- with the header --- */

/* Blocks may have moved: write a table of their offsets, and then @h, which
 * leads to it. `writing` is held. */
static CO_FN int apart_co_write(struct qcow2_image *img,
                                const struct qcow2_header *h)
{
    GArray *numbers = links_begin(img->refcounts);
    int ret = qcow2_reftable_move_co_write(img);

    if (ret == 0) {
        ret = blocks_co_write(img);
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_SNAPSHOT, group_co_sync(img->group));
    }
    if (ret == 0) {
        ret = move_co_switch(img, *h);
    }
    if (ret == 0) {
        links_end(img->refcounts, numbers);
    }
    g_array_unref(numbers);
    return ret;
}

static gboolean block_drop(gpointer key, gpointer value, gpointer data)
{
    struct qcow2_image *img = data;
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t block = GPOINTER_TO_SIZE(key);

    qcow2_meta_remove(img, r->table[block], qcow2_cluster_size(img));
    r->table[block] = 0;
    return FALSE;
}

void qcow2_blocks_drop_new(struct qcow2_image *img)
{
    struct qcow2_refcounts *r = img->refcounts;

    qcow2_meta_remove(img, r->moved_to,
                      (uint64_t)r->moved_clusters << img->cluster_bits);
    r->moved_to = 0;
    r->moved_clusters = 0;
    g_tree_foreach(r->unlinked, block_drop, img);
    g_tree_remove_all(r->unlinked);
}

int qcow2_co_refcounts_switch(struct qcow2_image *img,
                              const struct qcow2_header *h, GArray *exts,
                              bool moved)
{
    int ret;

    if (moved) {
        g_assert(!exts);
        ret = move_co_prepare(img);
        if (ret == 0) {
            co_mutex_co_lock(&img->refcounts->writing);
            ret = apart_co_write(img, h);
            co_mutex_unlock(&img->refcounts->writing);
        }
        return ret;
    }
    ret = qcow2_co_refcounts_write(img, 0);
    if (ret == 0) {
        ret = BARRIER(QCOW2_SNAPSHOT, group_co_sync(img->group));
    }
    if (ret == 0) {
        struct qcow2_header to = *h;

        to.reftable_offset = img->hdr.reftable_offset;
        to.reftable_clusters = img->hdr.reftable_clusters;
        ret = exts ? qcow2_co_write_exts_apart(img, &to, exts)
                   : qcow2_co_write_header(img, &to);
    }
    return ret;
}
