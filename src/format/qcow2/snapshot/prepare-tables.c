/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies of L2 tables, as a snapshot is to share them. */
#include <errno.h>
#include <string.h>
#include "base/endian.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/snapshot/prepare-int.h"
#include "loop/io.h"
#include "loop/parallel.h"

enum { KEPT_MAX = 256 }; /* copies of tables in memory */

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
static CO_FN int prepared_table_co_replace(const struct qcow2_prepare_round *r,
                                           struct qcow2_prepared_table *t,
                                           uint64_t entry, void *now,
                                           const void *old)
{
    struct qcow2_image *img = r->img;
    bool changed = copied_clear(img, now) || entry & QCOW2_COPIED;
    uint64_t at = t->own ? t->at : entry & QCOW2_OFFSET_MASK;
    int ret = 0;

    if (changed && !t->own) {
        ret = qcow2_prepare_co_alloc(r, QCOW2_META_L2, &at);
    }
    if (ret == 0 && (changed || t->own)) {
        ret = copy_co_write(img, at, now, t->own ? old : NULL);
    }
    if (ret < 0) {
        return ret;
    }
    if (!qcow2_prepared_count_copy(img, t->at, at) ||
        !qcow2_prepared_count_entries(img, old, now)) {
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
static CO_FN int table_co_copy_in(const struct qcow2_prepare_round *r,
                                  uint32_t i, uint8_t *bufs)
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
    const struct qcow2_prepare_round *r = arg;
    size_t bytes = 2 * qcow2_cluster_size(r->img);
    uint8_t *bufs;
    int ret = -ENOMEM;

    if (!qcow2_prepare_step_begin(r)) {
        return -EAGAIN;
    }
    bufs = io_buf_get(bytes);
    if (bufs) {
        ret = table_co_copy_in(
            r, (uint32_t)g_array_index(r->numbers, uint64_t, i), bufs);
        io_buf_put(bufs, bytes);
    }
    r->p->failed = r->p->failed || ret < 0;
    qcow2_prepare_step_end(r);
    return ret;
}

int qcow2_prepare_co_tables(struct qcow2_prepare_round *r)
{
    int ret;

    r->numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (uint64_t i = 0; i < r->p->n; i++) {
        if (r->p->tables[i].stale) {
            g_array_append_val(r->numbers, i);
        }
    }
    ret = parallel_co_for(r->img->loop, r->numbers->len,
                          r->tx ? QCOW2_PREPARE_HELD : QCOW2_PREPARE_BESIDE,
                          round_co_table, r);
    g_array_unref(r->numbers);
    return ret;
}
