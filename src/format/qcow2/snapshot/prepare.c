/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshots that are prepared; see format/qcow2/snapshot/prepare.h. */
#include "format/qcow2/snapshot/prepare.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/refcount.h"
#include "format/trace.h"
#include "loop/io.h"
#include "loop/parallel.h"

enum {
    BESIDE_GUEST = 4, /* tables at once while the guest goes on */
    GUEST_WAITS = 16, /* ... and while it waits */
    ROUNDS = 8,
    FEW = 8, /* stale tables that may be left for the guest to wait for */
    KEPT_MAX = 256, /* copies of tables in memory */
};

/* A round of copying; @tx: that of the snapshot, while the guest waits. */
struct round {
    struct qcow2_image *img;
    struct qcow2_prepared *p;
    struct qcow2_transaction *tx;
    GArray *numbers; /* uint64_t: what is copied */
};

/* --- steps: none runs while the image is drained --- */

/* Nobody drained the image, and the preparation is there still. */
static bool round_goes_on(const struct round *r)
{
    return !r->img->quiesced && r->img->prepared == r->p && r->img->group;
}

static bool prepare_step_begin(const struct round *r)
{
    if (r->tx) {
        return true;
    }
    if (!round_goes_on(r)) {
        return false;
    }
    co_latch_add(&r->img->preparing);
    return true;
}

static void prepare_step_end(const struct round *r)
{
    if (!r->tx) {
        co_latch_done(&r->img->preparing);
    }
}

/* A new cluster for structure @what. */
static CO_FN int cluster_co_take(const struct round *r, enum qcow2_meta what,
                                 uint64_t *ret_host)
{
    struct qcow2_image *img = r->img;
    uint64_t cluster = qcow2_cluster_size(img);
    struct qcow2_decrement d = { 0, 0, 1 };
    bool fresh;
    int ret;

    if (r->tx) {
        return qcow2_transaction_co_alloc(r->tx, what, cluster, ret_host);
    }
    ret = qcow2_co_alloc(img, 0, cluster, ret_host, &fresh);
    if (ret == 0) {
        d.first = *ret_host >> img->cluster_bits;
        g_array_append_val(r->p->taken, d);
        qcow2_meta_add(img, what, *ret_host, cluster);
    }
    return ret;
}

/* --- how often the copies refer to a cluster --- */

static size_t more_bytes(const struct qcow2_image *img, unsigned order)
{
    return MAX((((size_t)1 << img->refcounts->block_bits) << order) / 8, 1);
}

static void prepared_block_free(void *block)
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

/* Table @now takes the place of @old, if there was one. False: an entry makes no
 * sense, or memory is short; the preparation cannot be used then. */
static bool entries_count(struct qcow2_image *img, const void *old,
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

/* The copy is at cluster offset @at now, and was at @was, if anywhere. */
static bool copy_count(struct qcow2_image *img, uint64_t was, uint64_t at)
{
    struct counter add = { .img = img, .add = true }, take = { .img = img };

    return was == at ||
           ((!was || counter_cluster(&take, was >> img->cluster_bits)) &&
            counter_cluster(&add, at >> img->cluster_bits));
}

/* --- tables --- */

static CO_FN int prepared_table_co_read(struct qcow2_image *img, uint64_t host,
                                        void *buf)
{
    struct iovec v;

    if (host & (qcow2_cluster_size(img) - 1) || host >= qcow2_file(img)->size) {
        return -EIO;
    }
    return node_co_preadv(qcow2_file(img), host,
                          iov_one(&v, buf, qcow2_cluster_size(img)), 0);
}

/* The active table of L1 entry @i, from memory if it is there. *@ret_entry: the
 * entry that leads to it, a table that is new and not linked yet included, as
 * what is in memory is that one. */
static CO_FN int active_co_read(struct qcow2_image *img, uint32_t i,
                                uint64_t *ret_entry, uint8_t *buf)
{
    unsigned n = 1u << (img->l2_bits - img->slice_bits), k = 0;
    size_t bytes = qcow2_slice_bytes(img);

    *ret_entry = qcow2_l2_entry(img, i);
    while (k < n) {
        struct table *t = metadata_cache_peek(&img->slices,
                                              (uint64_t)i * n + k);

        if (!t) {
            break;
        }
        memcpy(buf + k++ * bytes, t->data, bytes);
    }
    return k == n ? 0
                  : prepared_table_co_read(img, *ret_entry & QCOW2_OFFSET_MASK,
                                           buf);
}

/* Without COPIED; was it there? */
static bool copied_clear(const struct qcow2_image *img, void *table)
{
    bool was = false;

    for (uint32_t i = 0; i < UINT32_C(1) << img->l2_bits; i++) {
        struct qcow2_desc d = qcow2_desc_get(&img->shape, table, i);

        if (d.entry & QCOW2_COPIED && !(d.entry & QCOW2_COMPRESSED)) {
            d.entry &= ~QCOW2_COPIED;
            qcow2_desc_put(&img->shape, table, i, d);
            was = true;
        }
    }
    return was;
}

/* Write @now to the copy at @at, where @old stands, if it is given. */
static CO_FN int copy_co_write(struct qcow2_image *img, uint64_t at,
                               const uint8_t *now, const uint8_t *old)
{
    uint64_t size = qcow2_cluster_size(img), a = 0, b;
    int ret = 0;

    while (a < size && ret == 0) {
        for (; old && a < size && !memcmp(now + a, old + a, QCOW2_SECTOR);
             a += QCOW2_SECTOR) {
        }
        for (b = a;
             b < size && (!old || memcmp(now + b, old + b, QCOW2_SECTOR));
             b += QCOW2_SECTOR) {
        }
        if (a < b) {
            ret = qcow2_co_write_meta(img, QCOW2_META_L2, at + a, now + a,
                                      b - a);
        }
        a = b;
    }
    return ret;
}

/* The table of L1 entry @entry, @now, replaces what @t had copied, @old. */
static CO_FN int prepared_table_co_replace(const struct round *r,
                                           struct qcow2_prepared_table *t,
                                           uint64_t entry, void *now,
                                           const void *old)
{
    struct qcow2_image *img = r->img;
    bool changed = copied_clear(img, now) || entry & QCOW2_COPIED;
    uint64_t at = t->own ? t->at : entry & QCOW2_OFFSET_MASK;
    int ret = 0;

    if (changed && !t->own) {
        ret = cluster_co_take(r, QCOW2_META_L2, &at);
    }
    if (ret == 0 && (changed || t->own)) {
        ret = copy_co_write(img, at, now, t->own ? old : NULL);
    }
    if (ret < 0) {
        return ret;
    }
    if (!copy_count(img, t->at, at) || !entries_count(img, old, now)) {
        return -EIO;
    }
    t->at = at;
    t->own = t->own || changed;
    return 0;
}

/* What changed once will change again: then its copy need not be read. */
static void copy_keep(struct qcow2_prepared *p, struct qcow2_prepared_table *t,
                      const void *copy, size_t bytes)
{
    if (!t->kept && p->n_kept < KEPT_MAX) {
        t->kept = g_try_malloc(bytes);
        p->n_kept += t->kept != NULL;
    }
    if (t->kept) {
        memcpy(t->kept, copy, bytes);
    }
}

/* Copy the table of L1 entry @i; @bufs: room for two. */
static CO_FN int table_co_copy_in(const struct round *r, uint32_t i,
                                  uint8_t *bufs)
{
    struct qcow2_image *img = r->img;
    struct qcow2_prepared_table *t = &r->p->tables[i];
    uint64_t cluster = qcow2_cluster_size(img), entry;
    uint8_t *old = t->kept ? t->kept : t->at ? bufs + cluster : NULL;
    int ret = 0;

    t->stale = false;
    r->p->n_stale--;
    if (!(qcow2_l2_entry(img, i) & QCOW2_OFFSET_MASK)) {
        return t->at ? -EIO : 0; /* passes take no table away */
    }
    if (old && !t->kept) {
        ret = prepared_table_co_read(img, t->at, old);
    }
    if (ret == 0) {
        ret = active_co_read(img, i, &entry, bufs);
    }
    if (ret == 0) {
        ret = prepared_table_co_replace(r, t, entry, bufs, old);
    }
    if (ret == 0 && old) {
        copy_keep(r->p, t, bufs, cluster);
    }
    return ret;
}

static CO_FN int round_co_table(void *arg, unsigned i)
{
    const struct round *r = arg;
    size_t bytes = 2 * qcow2_cluster_size(r->img);
    uint8_t *bufs;
    int ret = -ENOMEM;

    if (!prepare_step_begin(r)) {
        return -EAGAIN;
    }
    bufs = io_buf_get(bytes);
    if (bufs) {
        ret = table_co_copy_in(
            r, (uint32_t)g_array_index(r->numbers, uint64_t, i), bufs);
        io_buf_put(bufs, bytes);
    }
    r->p->failed = r->p->failed || ret < 0;
    prepare_step_end(r);
    return ret;
}

static CO_FN int tables_co_copy(struct round *r)
{
    int ret;

    r->numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (uint64_t i = 0; i < r->p->n; i++) {
        if (r->p->tables[i].stale) {
            g_array_append_val(r->numbers, i);
        }
    }
    ret = parallel_co_for(r->img->loop, r->numbers->len,
                          r->tx ? GUEST_WAITS : BESIDE_GUEST, round_co_table,
                          r);
    g_array_unref(r->numbers);
    return ret;
}

/* --- blocks --- */

/* @buf, a block, with the references of the copies. 0; -EIO: a cluster that is
 * referred to is not counted; -EINVAL: too many for the width. */
static int block_fill(const struct qcow2_image *img,
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

/* Write the copy of a block, which has a cluster. One that makes no sense, as
 * some tables are stale, stays so. */
static CO_FN int prepared_block_co_write(const struct round *r,
                                         struct qcow2_prepared_block *b,
                                         uint8_t *buf)
{
    struct qcow2_image *img = r->img;
    struct qcow2_refcounts *c = img->refcounts;
    uint64_t a, len;
    int ret;

    do {
        ret = qcow2_co_blocks_ready(img, qcow2_block_first(c, b->number), 1,
                                    false);
    } while (ret == 1);
    if (ret < 0) {
        return ret;
    }
    memcpy(buf, metadata_cache_peek(&c->blocks, b->number)->data,
           qcow2_cluster_size(img));
    if (block_fill(img, b, buf) < 0) {
        return 0;
    }
    a = round_down(b->first, QCOW2_SECTOR);
    len = round_up(b->end, QCOW2_SECTOR) - a;
    b->first = b->end = 0;
    return qcow2_co_write_meta(img, QCOW2_META_REFBLOCK, b->host + a, buf + a,
                               len);
}

static CO_FN int round_co_block(void *arg, unsigned i)
{
    const struct round *r = arg;
    struct qcow2_prepared_block *b;
    size_t bytes = qcow2_cluster_size(r->img);
    uint8_t *buf;
    int ret = -ENOMEM;

    if (!prepare_step_begin(r)) {
        return -EAGAIN;
    }
    b = g_hash_table_lookup(
        r->p->blocks, GSIZE_TO_POINTER(g_array_index(r->numbers, uint64_t, i)));
    buf = io_buf_get(bytes);
    if (buf) {
        ret = b->host ? 0 : cluster_co_take(r, QCOW2_META_REFBLOCK, &b->host);
        ret = ret == 0 ? prepared_block_co_write(r, b, buf) : ret;
        io_buf_put(buf, bytes);
    }
    r->p->failed = r->p->failed || ret < 0;
    prepare_step_end(r);
    return ret;
}

static gint compare_number_values(gconstpointer a, gconstpointer b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The numbers of the blocks that are stale, or of all, in order. */
static GArray *block_numbers(const struct qcow2_prepared *p, bool all)
{
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, p->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const struct qcow2_prepared_block *b = value;

        if (all || b->first < b->end) {
            g_array_append_val(numbers, b->number);
        }
    }
    g_array_sort(numbers, compare_number_values);
    return numbers;
}

/* Their clusters are counted by blocks, too, so a second look finds some stale
 * again. */
static CO_FN int blocks_co_copy(struct round *r)
{
    int ret = 0;

    for (unsigned look = 0; look < 2 && ret == 0; look++) {
        if (!round_goes_on(r)) {
            return -EAGAIN;
        }
        r->numbers = block_numbers(r->p, false);
        ret = parallel_co_for(r->img->loop, r->numbers->len, BESIDE_GUEST,
                              round_co_block, r);
        g_array_unref(r->numbers);
    }
    return ret;
}

/* --- beside the guest --- */

static struct qcow2_prepared *prepared_new(struct qcow2_image *img)
{
    struct qcow2_prepared *p = g_new0(struct qcow2_prepared, 1);

    p->l1_offset = img->hdr.l1_offset;
    p->n = img->hdr.l1_size;
    p->tables = g_try_new0(struct qcow2_prepared_table, MAX(p->n, 1));
    if (!p->tables) {
        g_free(p);
        return NULL;
    }
    for (uint32_t i = 0; i < p->n; i++) {
        p->tables[i].stale = true;
    }
    p->n_stale = p->n;
    p->blocks = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                      prepared_block_free);
    p->taken = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement));
    p->epoch = qcow2_access_begin(img);
    return p;
}

bool qcow2_prepared_fits(const struct qcow2_image *img)
{
    const struct qcow2_prepared *p = img->prepared;

    return p && !p->failed && p->l1_offset == img->hdr.l1_offset &&
           p->n == img->hdr.l1_size;
}

/* Publish what waits, and copy what is stale. */
static CO_FN int round_co_run(struct round *r)
{
    int ret = group_co_flush(r->img->group);

    if (ret == 0) {
        ret = round_goes_on(r) ? tables_co_copy(r) : -EAGAIN;
    }
    if (ret == 0) {
        ret = round_goes_on(r) ? blocks_co_copy(r) : -EAGAIN;
    }
    return ret == 0 && !round_goes_on(r) ? -EAGAIN : ret;
}

/* The second round makes durable what the first one wrote, so that there is
 * less to flush while the guest waits. */
static CO_FN int rounds_co_run(struct round *r)
{
    uint64_t changes = 0;
    int ret = 0;

    for (unsigned i = 0; i < ROUNDS && ret == 0 && (i < 2 || changes > FEW);
         i++) {
        ret = round_co_run(r);
        if (ret == 0) {
            changes = r->p->n_stale + pending_count(&r->img->pending);
        }
    }
    return ret;
}

void qcow2_co_snapshot_prepare(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);
    struct round r = { .img = img };

    if (qcow2_check_writable(img, NULL) < 0 || img->shape.data_file ||
        img->quiesced) {
        return;
    }
    if (!qcow2_prepared_fits(img)) {
        qcow2_prepared_drop(img);
        img->prepared = prepared_new(img);
    }
    r.p = img->prepared;
    if (r.p) {
        int ret = rounds_co_run(&r);

        trace_qcow2_snapshot_prepare(n->name, ret);
    }
}

void qcow2_co_snapshot_tidy(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);

    if (qcow2_check_writable(img, NULL) < 0 || img->quiesced) {
        return;
    }
    co_latch_add(&img->preparing);
    qcow2_prepared_drop(img);
    qcow2_co_settle(img);
    co_latch_done(&img->preparing);
}

/* --- while the guest waits --- */

/* Is there more to do than to lead to its copy? */
static bool block_is_stale(const struct qcow2_image *img,
                           const struct qcow2_prepared_block *b)
{
    return b->first < b->end ||
           g_hash_table_contains(img->refcounts->dirty,
                                 GSIZE_TO_POINTER(b->number));
}

/* Let @b take the place of its block. */
static CO_FN int block_co_use(struct qcow2_transaction *tx,
                              struct qcow2_prepared_block *b)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_refcounts *r = img->refcounts;
    int ret = 0;

    if (!b->host) {
        ret = qcow2_transaction_co_alloc(tx, QCOW2_META_REFBLOCK,
                                         qcow2_cluster_size(img), &b->host);
    }
    if (ret < 0 || !block_is_stale(img, b)) {
        if (ret == 0) {
            qcow2_transaction_move_block(tx, b->number, b->host, 0, 0);
        }
        return ret;
    }
    do {
        ret = qcow2_co_blocks_ready(img, qcow2_block_first(r, b->number), 1,
                                    false);
    } while (ret == 1);
    if (ret == 0) {
        ret = block_fill(img, b,
                         metadata_cache_peek(&r->blocks, b->number)->data);
    }
    if (ret == 0) {
        qcow2_transaction_move_block(tx, b->number, b->host, b->first, b->end);
    }
    return ret;
}

static CO_FN int round_co_load(void *arg, unsigned i)
{
    const struct round *r = arg;
    struct table *t;
    int ret = metadata_cache_co_get(&r->img->refcounts->blocks,
                                    g_array_index(r->numbers, uint64_t, i), &t);

    if (ret == 0) {
        metadata_cache_put(&r->img->refcounts->blocks, t);
    }
    return ret;
}

/* Those that will be needed into memory, at once. */
static CO_FN int blocks_co_load(struct round *r)
{
    int ret;

    r->numbers = block_numbers(r->p, false);
    ret = parallel_co_for(r->img->loop, r->numbers->len, GUEST_WAITS,
                          round_co_load, r);
    g_array_unref(r->numbers);
    return ret;
}

static CO_FN int blocks_co_use(struct qcow2_transaction *tx,
                               const struct qcow2_prepared *p)
{
    GArray *numbers = block_numbers(p, true);
    int ret = 0;

    for (guint i = 0; i < numbers->len && ret == 0; i++) {
        ret = block_co_use(
            tx, g_hash_table_lookup(p->blocks, GSIZE_TO_POINTER(g_array_index(
                                                   numbers, uint64_t, i))));
    }
    g_array_unref(numbers);
    return ret;
}

/* The new L1 table leads to the copies; what they stand for loses one
 * reference. */
static void l1_fill(struct qcow2_transaction *tx,
                    const struct qcow2_prepared *p, uint64_t *l1)
{
    const struct qcow2_image *img = tx->img;

    for (uint32_t i = 0; i < p->n; i++) {
        uint64_t was = get_be64(&img->l1[i]) & QCOW2_OFFSET_MASK;

        if (p->tables[i].own) {
            qcow2_transaction_drop(tx, was, qcow2_cluster_size(img));
        }
        put_be64(&l1[i], p->tables[i].at);
    }
}

int qcow2_prepared_co_share(struct qcow2_transaction *tx, uint64_t *ret_l1)
{
    struct round r = { .img = tx->img, .p = tx->img->prepared, .tx = tx };
    uint32_t tables = r.p->n_stale;
    int ret = tables_co_copy(&r);

    if (ret == 0) {
        ret = blocks_co_load(&r);
    }
    if (ret == 0) {
        ret = blocks_co_use(tx, r.p);
    }
    if (ret == 0) {
        l1_fill(tx, r.p, ret_l1);
    }
    trace_qcow2_snapshot_share(tx->img->node->name, tables, r.p->n, ret);
    return ret;
}
