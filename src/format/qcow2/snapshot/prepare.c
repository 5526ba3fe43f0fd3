/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshots that are prepared; see format/qcow2/snapshot/prepare.h. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/prepare-int.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/refcount.h"
#include "format/trace.h"
#include "loop/io.h"
#include "loop/parallel.h"

enum {
    ROUNDS = 8,
    FEW = 8, /* changes that may be left for the guest to wait for */
};

/* --- blocks --- */

/* Write the copy of a block, which has a cluster. One that makes no sense, as
 * some tables are stale, stays so. */
static CO_FN int prepared_block_co_write(const struct qcow2_prepare_round *r,
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
    if (qcow2_prepared_block_fill(img, b, buf) < 0) {
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
    const struct qcow2_prepare_round *r = arg;
    struct qcow2_prepared_block *b;
    size_t bytes = qcow2_cluster_size(r->img);
    uint8_t *buf;
    int ret = -ENOMEM;

    if (!qcow2_prepare_step_begin(r)) {
        return -EAGAIN;
    }
    b = g_hash_table_lookup(
        r->p->blocks, GSIZE_TO_POINTER(g_array_index(r->numbers, uint64_t, i)));
    buf = io_buf_get(bytes);
    if (buf) {
        ret = b->host
                  ? 0
                  : qcow2_prepare_co_alloc(r, QCOW2_META_REFBLOCK, &b->host);
        ret = ret == 0 ? prepared_block_co_write(r, b, buf) : ret;
        io_buf_put(buf, bytes);
    }
    r->p->failed = r->p->failed || ret < 0;
    qcow2_prepare_step_end(r);
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
static CO_FN int blocks_co_copy(struct qcow2_prepare_round *r)
{
    int ret = 0;

    for (unsigned look = 0; look < 2 && ret == 0; look++) {
        if (!qcow2_prepare_goes_on(r)) {
            return -EAGAIN;
        }
        r->numbers = block_numbers(r->p, false);
        ret = parallel_co_for(r->img->loop, r->numbers->len,
                              QCOW2_PREPARE_BESIDE, round_co_block, r);
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
                                      qcow2_prepared_block_free);
    p->taken = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement));
    p->epoch = qcow2_access_begin(img);
    return p;
}

bool qcow2_prepared_fits(const struct qcow2_image *img)
{
    const struct qcow2_prepared *p = img->prepared;

    return p && !p->failed && !p->ends && p->l1_offset == img->hdr.l1_offset &&
           p->n == img->hdr.l1_size;
}

/* Publish what waits, and copy what is stale. */
static CO_FN int round_co_run(struct qcow2_prepare_round *r)
{
    int ret = group_co_flush(r->img->group);

    if (ret == 0) {
        ret = qcow2_prepare_goes_on(r) ? qcow2_prepare_co_tables(r) : -EAGAIN;
    }
    if (ret == 0) {
        ret = qcow2_prepare_goes_on(r) ? blocks_co_copy(r) : -EAGAIN;
    }
    return ret == 0 && !qcow2_prepare_goes_on(r) ? -EAGAIN : ret;
}

/* The second round makes durable what the first one wrote, so that there is
 * less to flush while the guest waits. */
static CO_FN int rounds_co_run(struct qcow2_prepare_round *r)
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
    struct qcow2_prepare_round r = { .img = img };

    if (qcow2_check_writable(img, NULL) < 0 || img->shape.data_file ||
        img->quiesced || img->resizing) {
        return;
    }
    if (!qcow2_prepared_fits(img)) {
        qcow2_prepared_co_drop(img);
        img->prepared = img->quiesced || img->resizing ? NULL
                                                       : prepared_new(img);
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
    qcow2_prepared_co_drop(img);
    if (!img->group || img->quiesced) {
        return;
    }
    co_latch_add(&img->preparing);
    qcow2_co_settle(img);
    co_latch_done(&img->preparing);
}

/* --- while the guest waits --- */

/* Is there more to do than to lead to its copy? */
static bool block_is_stale(const struct qcow2_image *img,
                           const struct qcow2_prepared_block *b)
{
    return b->first < b->end ||
           metadata_cache_is_held(&img->refcounts->blocks, b->number);
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
        ret = qcow2_prepared_block_fill(
            img, b, metadata_cache_peek(&r->blocks, b->number)->data);
    }
    if (ret == 0) {
        qcow2_transaction_move_block(tx, b->number, b->host, b->first, b->end);
    }
    return ret;
}

static CO_FN int round_co_load(void *arg, unsigned i)
{
    const struct qcow2_prepare_round *r = arg;
    struct table *t;
    int ret = metadata_cache_co_get(&r->img->refcounts->blocks,
                                    g_array_index(r->numbers, uint64_t, i), &t);

    if (ret == 0) {
        metadata_cache_put(&r->img->refcounts->blocks, t);
    }
    return ret;
}

/* Those that will be needed into memory, at once. */
static CO_FN int blocks_co_load(struct qcow2_prepare_round *r)
{
    int ret;

    r->numbers = block_numbers(r->p, false);
    ret = parallel_co_for(r->img->loop, r->numbers->len, QCOW2_PREPARE_HELD,
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
    struct qcow2_prepare_round r = { .img = tx->img,
                                     .p = tx->img->prepared,
                                     .tx = tx };
    uint32_t tables = r.p->n_stale;
    int ret = qcow2_prepare_co_tables(&r);

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
