/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where guest clusters are: what is pending, folded over the tables.
 *
 * A lookup may yield to load one slice; its answer is then formed without
 * yielding, so it is a snapshot.  It stays true for the caller that holds the
 * range; a host cluster that it names is not reused before accesses that began
 * meanwhile have ended (qcow2_access_begin()).
 */
#include <inttypes.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"

/* Descriptors that one lookup looks at, at most: it does not yield. */
#define SCAN_MAX (UINT64_C(1) << 16)

uint64_t qcow2_l2_entry(const struct qcow2_image *img, uint32_t l1_idx)
{
    if (img->fresh) {
        gpointer off = g_hash_table_lookup(img->fresh,
                                           GUINT_TO_POINTER(l1_idx));
        if (off) {
            return GPOINTER_TO_SIZE(off) | QCOW2_COPIED;
        }
    }
    return get_be64(&img->l1[l1_idx]);
}

static bool has_table(const struct qcow2_image *img, uint64_t l1_idx)
{
    return qcow2_l2_entry(img, (uint32_t)l1_idx) & QCOW2_OFFSET_MASK;
}

/* --- a walk over clusters in step with what is pending --- */

struct walk {
    struct qcow2_image *img;
    uint64_t limit; /* cluster index */
    uint64_t seen;  /* descriptors */
    struct pending_walk pending;
    uint64_t slice;    /* that @table is of */
    const void *table; /* NULL: none yet */
};

static void walk_init(struct walk *w, struct qcow2_image *img, uint64_t idx,
                      uint64_t limit)
{
    *w = (struct walk) { .img = img, .limit = limit };
    pending_walk_init(&w->pending, &img->pending, idx);
}

static void walk_apply(struct walk *w, uint64_t idx, struct qcow2_desc *d)
{
    for (unsigned i = 0; i < w->img->pending.n; i++) {
        const struct qcow2_delta *delta = pending_walk_value(&w->pending, i,
                                                             idx);

        if (delta) {
            *d = qcow2_delta_apply(*d, delta);
        }
    }
}

/* The index at which the L1 entries from @l1_idx on that have no table end. */
static uint64_t qcow2_no_tables_end(struct walk *w, uint64_t l1_idx)
{
    const struct qcow2_image *img = w->img;
    uint64_t end = ((w->limit - 1) >> img->l2_bits) + 1;

    while (++l1_idx < end && !has_table(img, l1_idx)) {
    }
    return min_u64(l1_idx << img->l2_bits, w->limit);
}

/* What cluster @idx is; *@ret_n clusters from it are the same, which is more
 * than one only where there is no table. -EAGAIN: load the slice first. */
static int walk_get(struct walk *w, uint64_t idx, struct qcow2_desc *ret,
                    uint64_t *ret_n)
{
    struct qcow2_image *img = w->img;
    uint64_t slice = idx >> img->slice_bits;
    uint64_t next = pending_walk_to(&w->pending, idx);

    *ret_n = 1;
    *ret = (struct qcow2_desc) { 0, 0 };
    if (!w->table || slice != w->slice) {
        if (has_table(img, idx >> img->l2_bits)) {
            struct table *t = metadata_cache_peek(&img->slices, slice);
            if (!t) {
                return -EAGAIN;
            }
            w->table = t->data;
            w->slice = slice;
        } else {
            w->table = NULL;
        }
    }
    if (w->table) {
        *ret = qcow2_desc_get(
            &img->shape, w->table,
            (uint32_t)(idx & ((UINT64_C(1) << img->slice_bits) - 1)));
    } else if (next > idx) {
        *ret_n = min_u64(next, qcow2_no_tables_end(w, idx >> img->l2_bits)) -
                 idx;
    }
    if (next == idx) {
        walk_apply(w, idx, ret);
    }
    w->seen++;
    return 0;
}

/* --- runs --- */

/* The part of cluster @d from guest offset @off on, as a run. In a data file
 * every cluster is at its guest offset. */
static void run_of_cluster(const struct qcow2_image *img, struct qcow2_desc d,
                           uint64_t off, struct qcow2_run *ret)
{
    uint64_t at = off & (qcow2_cluster_size(img) - 1);
    unsigned sub = (unsigned)(at >> img->sub_bits);

    *ret = (struct qcow2_run) {
        .kind = qcow2_desc_kind(&img->shape, d, sub),
        .len = ((uint64_t)(sub + qcow2_desc_run(&img->shape, d, sub))
                << img->sub_bits) -
               at,
        .entry = d.entry,
    };
    if (ret->kind == QCOW2_RUN_COMPRESSED) {
        qcow2_compressed_get(&img->shape, d.entry, &ret->host,
                             &ret->compressed_len);
    } else if ((ret->kind == QCOW2_DATA || ret->kind == QCOW2_ZERO) &&
               qcow2_desc_has_host(&img->shape, d)) {
        ret->host = (d.entry & QCOW2_OFFSET_MASK) + at;
        ret->in_place = d.entry & QCOW2_COPIED;
        if (img->shape.data_file && ret->host != off) {
            ret->kind = QCOW2_INVALID;
        }
    }
}

static bool run_continues(const struct qcow2_run *a, const struct qcow2_run *b)
{
    if (a->kind != b->kind || a->kind == QCOW2_RUN_COMPRESSED ||
        a->in_place != b->in_place) {
        return false;
    }
    if (a->kind == QCOW2_ABSENT ||
        (a->host == 0 && b->host == 0 && !a->in_place)) {
        return true;
    }
    /* In a data file 0 is a valid host offset, too. */
    return (a->host != 0 || a->in_place) && a->host + a->len == b->host;
}

/* From memory alone: a run from @off, up to @end. -EAGAIN; -EUCLEAN: the entry
 * of the first cluster makes no sense, it is in *@ret. */
static int qcow2_scan(struct qcow2_image *img, uint64_t off, uint64_t end,
                      struct qcow2_run *ret)
{
    struct walk w;
    uint64_t pos = off;

    walk_init(&w, img, off >> img->cluster_bits,
              ((end - 1) >> img->cluster_bits) + 1);
    while (pos < end && w.seen < SCAN_MAX) {
        struct qcow2_desc d;
        struct qcow2_run part;
        uint64_t n;
        int r = walk_get(&w, pos >> img->cluster_bits, &d, &n);

        if (r < 0) {
            return pos > off ? 0 : r;
        }
        run_of_cluster(img, d, pos, &part);
        part.len += (n - 1) << img->cluster_bits;
        if (part.kind == QCOW2_INVALID && pos == off) {
            *ret = part;
            return -EUCLEAN;
        }
        if (pos == off) {
            *ret = part;
        } else if (run_continues(ret, &part)) {
            ret->len += part.len;
        } else {
            break;
        }
        pos = off + ret->len;
    }
    ret->len = min_u64(ret->len, end - off);
    return 0;
}

static CO_FN int entry_co_report(struct qcow2_image *img, uint64_t off,
                                 uint64_t entry)
{
    uint64_t idx = off >> img->cluster_bits;
    uint64_t l2 = qcow2_l2_entry(img, (uint32_t)(idx >> img->l2_bits)) &
                  QCOW2_OFFSET_MASK;
    uint64_t at = (idx & ((UINT64_C(1) << img->l2_bits) - 1)) *
                  (img->shape.extended ? 16 : 8);

    return qcow2_co_corrupt(img, l2 + at,
                            "the L2 entry of guest offset %" PRIu64
                            " is 0x%" PRIx64 ": no cluster of this "
                            "image (run a check)",
                            idx << img->cluster_bits, entry);
}

int qcow2_co_lookup(struct qcow2_image *img, uint64_t off, uint64_t len,
                    struct qcow2_run *ret_run)
{
    struct table *t = NULL;
    int ret;

    ret = qcow2_scan(img, off, off + len, ret_run);
    if (ret == -EAGAIN) {
        uint64_t sparse = qcow2_co_sparse_tables(img, off, off + len);

        if (sparse) {
            *ret_run = (struct qcow2_run) {
                .kind = QCOW2_ABSENT,
                .len = sparse,
            };
            return 0;
        }
        ret = metadata_cache_co_get(
            &img->slices, off >> img->cluster_bits >> img->slice_bits, &t);
        if (ret < 0) {
            return ret;
        }
        ret = qcow2_scan(img, off, off + len, ret_run);
        g_assert(ret != -EAGAIN);
        metadata_cache_put(&img->slices, t);
    }
    return ret == -EUCLEAN ? entry_co_report(img, off, ret_run->entry) : ret;
}

int qcow2_co_lookup_to_change(struct qcow2_image *img, uint64_t off,
                              uint64_t len, struct qcow2_run *ret_run)
{
    int ret = qcow2_co_pending_room(img);

    return ret == 0 ? qcow2_co_lookup(img, off, len, ret_run) : ret;
}

int qcow2_co_descs(struct qcow2_image *img, uint64_t idx, uint64_t end,
                   struct qcow2_desc *ret_desc, uint64_t *ret_n)
{
    struct table *t;
    struct walk w;
    int ret;

    walk_init(&w, img, idx, end);
    ret = walk_get(&w, idx, ret_desc, ret_n);
    if (ret == -EAGAIN) {
        ret = metadata_cache_co_get(&img->slices, idx >> img->slice_bits, &t);
        if (ret < 0) {
            return ret;
        }
        walk_init(&w, img, idx, end);
        ret = walk_get(&w, idx, ret_desc, ret_n);
        metadata_cache_put(&img->slices, t);
    }
    return ret;
}

int qcow2_co_desc(struct qcow2_image *img, uint64_t idx,
                  struct qcow2_desc *ret_desc)
{
    uint64_t n;

    return qcow2_co_descs(img, idx, idx + 1, ret_desc, &n);
}
