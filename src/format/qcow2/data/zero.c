/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeroes and discards.
 *
 * Version 3 has a flag for a cluster that reads as zeroes, so neither ever lets
 * the backing file show (G8).  A cluster keeps its host cluster unless the
 * caller allows to free it; a shared or compressed one never does.
 *
 * Version 2 has no flag.  Without a backing file it gives the cluster up.  Over
 * one it takes clusters whose bytes are a hole in the file: the image grows by
 * the table entries alone.
 *
 * With extended entries whole subclusters are enough.
 */
#include <errno.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"

/* Without a backing file, attached or named, nothing reads as zeroes anyhow. */
static bool qcow2_has_backing(const struct qcow2_image *img)
{
    return img->hdr.backing_offset || node_child(img->node, "backing");
}

/* --- whole clusters --- */

/* What a cluster becomes that reads as zeroes. */
static struct qcow2_delta zero_delta(const struct qcow2_image *img,
                                     uint64_t host)
{
    struct qcow2_delta d = {
        .entry = host ? host | QCOW2_COPIED : 0,
        .whole = true,
    };

    if (img->shape.extended) {
        d.zero = UINT32_MAX;
    } else if (img->shape.version >= 3) {
        d.entry |= QCOW2_ZERO_FLAG;
    }
    return d;
}

/* @n clusters from @idx have descriptors like @d, and their host clusters are
 * contiguous. */
static void clusters_zero(struct qcow2_image *img, uint64_t idx, uint64_t n,
                          struct qcow2_desc d, bool unmap)
{
    bool host = qcow2_desc_has_host(&img->shape, d);
    bool keep = host && (d.entry & QCOW2_COPIED) && !unmap &&
                img->shape.version >= 3;
    uint64_t gen = group_join(img->group, n * QCOW2_MARKER_COST);
    struct qcow2_delta delta = zero_delta(
        img, keep ? d.entry & QCOW2_OFFSET_MASK : 0);

    qcow2_pending_add_run(img, gen, idx, n, &delta);
    if (host && !keep && !img->shape.data_file) {
        qcow2_refcount_decrement(img, gen, d.entry & QCOW2_OFFSET_MASK,
                                 n << img->cluster_bits);
    } else if (!host) {
        qcow2_free_desc(img, gen, d);
    }
    group_data_done(img->group, gen);
}

static bool entry_follows(const struct qcow2_image *img, struct qcow2_desc a,
                          uint64_t n, struct qcow2_desc b)
{
    if ((a.entry | b.entry) & QCOW2_COMPRESSED || a.bits != b.bits) {
        return false;
    }
    return b.entry == a.entry + (qcow2_desc_has_host(&img->shape, a)
                                     ? n << img->cluster_bits
                                     : 0);
}

/* Clusters from @idx up to @end whose descriptors go on like that of the first,
 * which is *@ret_d. */
static CO_FN int same_co_count(struct qcow2_image *img, uint64_t idx,
                               uint64_t end, struct qcow2_desc *ret_d,
                               uint64_t *ret_n)
{
    int ret = qcow2_co_desc(img, idx, ret_d);

    for (*ret_n = 1;
         ret == 0 && idx + *ret_n < end && *ret_n < QCOW2_MARKERS_AT_ONCE;
         ++*ret_n) {
        struct qcow2_desc d;

        ret = qcow2_co_desc(img, idx + *ret_n, &d);
        if (ret == 0 && !entry_follows(img, *ret_d, *ret_n, d)) {
            break;
        }
    }
    return ret;
}

/* The same, once there is room for their change. */
static CO_FN int same_co_next(struct qcow2_image *img, uint64_t idx,
                              uint64_t end, struct qcow2_desc *ret_d,
                              uint64_t *ret_n)
{
    int ret = qcow2_co_pending_room(img);

    return ret == 0 ? same_co_count(img, idx, end, ret_d, ret_n) : ret;
}

/* Does every part of the cluster read as zeroes, and nothing else? */
static bool all_zero(const struct qcow2_image *img, struct qcow2_desc d,
                     bool absent_is_zero)
{
    enum qcow2_kind kind = qcow2_desc_kind(&img->shape, d, 0);
    bool whole = !img->shape.extended ||
                 qcow2_desc_run(&img->shape, d, 0) == QCOW2_SUBCLUSTERS;

    return whole &&
           (kind == QCOW2_ZERO || (kind == QCOW2_ABSENT && absent_is_zero));
}

static CO_FN int whole_co_zero(struct qcow2_image *img, uint64_t idx,
                               uint64_t end, bool unmap)
{
    bool absent_is_zero = !qcow2_has_backing(img);
    int ret = 0;

    while (idx < end && ret == 0) {
        struct qcow2_desc d;
        uint64_t n = 0;

        ret = same_co_next(img, idx, end, &d, &n);
        if (ret == 0 && !(all_zero(img, d, absent_is_zero) &&
                          !(unmap && qcow2_desc_has_host(&img->shape, d)))) {
            clusters_zero(img, idx, n, d, unmap);
            co_relax();
        }
        idx += n;
    }
    return ret;
}

/* Clusters without a table: nothing to do where they read as zeroes. */
static CO_FN int qcow2_clusters_co_zero(struct qcow2_image *img, uint64_t off,
                                        uint64_t end, bool unmap)
{
    int ret = 0;

    while (off < end && ret == 0) {
        struct qcow2_run run;

        ret = qcow2_co_lookup(img, off, end - off, &run);
        if (ret == 0 && !(run.kind == QCOW2_ABSENT && run.entry == 0 &&
                          !qcow2_has_backing(img))) {
            uint64_t last = off + run.len - 1;
            ret = whole_co_zero(img, off >> img->cluster_bits,
                                (last >> img->cluster_bits) + 1, unmap);
            run.len = round_up(last + 1, qcow2_cluster_size(img)) - off;
        }
        off += run.len;
    }
    return ret;
}

/* --- parts of one cluster: extended entries --- */

static CO_FN int subs_co_zero(struct qcow2_image *img, uint64_t off,
                              uint64_t len)
{
    uint64_t idx = off >> img->cluster_bits, gen;
    struct qcow2_cluster_lock *c;
    struct qcow2_desc d;
    int ret = qcow2_co_pending_room(img);

    if (ret < 0) {
        return ret;
    }
    c = qcow2_cluster_lock_co_get(img, idx, false);
    ret = qcow2_co_desc(img, idx, &d);
    if (ret == 0 && d.entry & QCOW2_COMPRESSED) {
        ret = -ENOTSUP; /* written as data */
    }
    if (ret == 0) {
        struct qcow2_delta delta = { .zero = qcow2_sub_mask(img, off, len) };

        gen = group_join(img->group, QCOW2_MARKER_COST);
        qcow2_pending_add(img, gen, idx, &delta);
        group_data_done(img->group, gen);
    }
    qcow2_cluster_lock_put(img, c);
    return ret;
}

/* The ends of a range that are no whole clusters, then those. */
static CO_FN int range_co_zero(struct qcow2_image *img, uint64_t off,
                               uint64_t end, bool unmap)
{
    uint64_t cluster = qcow2_cluster_size(img), cut;
    int ret = 0;

    if (off & (cluster - 1)) {
        cut = min_u64(round_up(off, cluster), end);
        ret = subs_co_zero(img, off, cut - off);
        off = cut;
    }
    if (ret == 0 && off < end && end != img->node->size &&
        (end & (cluster - 1))) {
        cut = max_u64(round_down(end, cluster), off);
        ret = subs_co_zero(img, cut, end - cut);
        end = cut;
    }
    return ret == 0 && off < end ? qcow2_clusters_co_zero(img, off, end, unmap)
                                 : ret;
}

/* --- host clusters --- */

/* A new host cluster at @host that reads as zeroes: its bytes are zeroes,
 * unless they go through a cipher or count by subclusters. */
static struct qcow2_delta host_delta(const struct qcow2_image *img,
                                     uint64_t host)
{
    struct qcow2_delta d = { .entry = host | QCOW2_COPIED, .whole = true };

    return img->crypt || img->shape.extended ? zero_delta(img, host) : d;
}

/* Clusters that have no host cluster yet get one that reads as zeroes. In a raw
 * data file they do already. */
static CO_FN int absent_co_alloc(struct qcow2_image *img, uint64_t off,
                                 uint64_t len, unsigned flags)
{
    uint64_t bytes = round_up(len, qcow2_cluster_size(img));
    uint64_t n = bytes >> img->cluster_bits;
    uint64_t gen = group_join(img->group, n * QCOW2_MARKER_COST), host;
    bool fresh;
    int ret = qcow2_co_host_alloc(img, gen, off, bytes, &host, &fresh);

    if (ret < 0) {
        group_data_done(img->group, gen);
        return ret;
    }
    ret = qcow2_data_is_raw(img)
              ? 0
              : node_co_zero(qcow2_data(img), host, bytes,
                             flags & (IO_MAY_UNMAP | IO_ALLOCATE));
    if (ret == 0) {
        struct qcow2_delta d = host_delta(img, host);

        qcow2_pending_add_run(img, gen, off >> img->cluster_bits, n, &d);
    } else {
        qcow2_host_free(img, gen, host, bytes);
    }
    group_data_done(img->group, gen);
    return ret;
}

/* A host cluster for each of the clusters in [@off, @to) that has none; a
 * cluster that is only partly in the range stays as it is. */
static CO_FN int clusters_co_alloc(struct qcow2_image *img, uint64_t off,
                                   uint64_t to, unsigned flags)
{
    uint64_t cluster = qcow2_cluster_size(img);
    uint64_t idx = round_up(off, cluster) >> img->cluster_bits;
    uint64_t end = (to == img->node->size ? round_up(to, cluster) : to) >>
                   img->cluster_bits;
    int ret = 0;

    while (idx < end && ret == 0) {
        struct qcow2_desc d;
        uint64_t n = 0;

        ret = same_co_next(img, idx, end, &d, &n);
        if (ret == 0 && !qcow2_desc_has_host(&img->shape, d)) {
            ret = absent_co_alloc(img, idx << img->cluster_bits,
                                  n << img->cluster_bits, flags);
        }
        idx += n;
    }
    return ret;
}

/* --- version 2 over a backing file --- */

/* -ENOTSUP for what is shared, compressed or encrypted: it is written.
 * @discard: only what has a host cluster of its own. */
static CO_FN int old_co_zero(struct qcow2_image *img, uint64_t off,
                             uint64_t len, bool discard)
{
    uint64_t end = off + len;
    int ret = img->crypt ? -ENOTSUP : 0;

    while (off < end && ret == 0) {
        struct qcow2_run run;

        ret = qcow2_co_lookup_to_change(img, off, end - off, &run);
        if (ret != 0) {
            break;
        }
        run.len = min_u64(run.len,
                          (uint64_t)QCOW2_MARKERS_AT_ONCE << img->cluster_bits);
        if (run.kind == QCOW2_ABSENT && !discard) {
            ret = absent_co_alloc(img, off, run.len, IO_MAY_UNMAP);
        } else if (run.kind == QCOW2_DATA && run.in_place) {
            ret = qcow2_co_check_overlap(img, QCOW2_META_DATA, run.host,
                                         run.len);
            if (ret == 0) {
                ret = node_co_zero(qcow2_file(img), run.host, run.len,
                                   IO_MAY_UNMAP);
            }
        } else if (!discard) {
            ret = -ENOTSUP;
        }
        off += run.len;
    }
    return ret;
}

/* --- leaving version 3 --- */

/* @n clusters from @idx, which read as zeroes by their flag, over nothing: they
 * become absent. */
static void clusters_forget(struct qcow2_image *img, uint64_t idx, uint64_t n,
                            struct qcow2_desc d)
{
    const struct qcow2_delta none = { .whole = true };
    uint64_t gen = group_join(img->group, n * QCOW2_MARKER_COST);

    qcow2_pending_add_run(img, gen, idx, n, &none);
    if (qcow2_desc_has_host(&img->shape, d)) {
        qcow2_refcount_decrement(img, gen, d.entry & QCOW2_OFFSET_MASK,
                                 n << img->cluster_bits);
    }
    group_data_done(img->group, gen);
}

/* The same over a backing file: data that is zeroes in the file.  The clusters
 * are not shared. */
static CO_FN int clusters_co_fill(struct qcow2_image *img, uint64_t idx,
                                  uint64_t n, struct qcow2_desc d)
{
    uint64_t off = idx << img->cluster_bits, len = n << img->cluster_bits;
    uint64_t host = d.entry & QCOW2_OFFSET_MASK, gen;
    const struct qcow2_delta data = { .entry = host | QCOW2_COPIED,
                                      .whole = true };
    int ret;

    if (!qcow2_desc_has_host(&img->shape, d)) {
        return absent_co_alloc(img, off, len, IO_MAY_UNMAP);
    }
    gen = group_join(img->group, n * QCOW2_MARKER_COST);
    ret = node_co_zero(qcow2_file(img), host, len, IO_MAY_UNMAP);
    if (ret == 0) {
        qcow2_pending_add_run(img, gen, idx, n, &data);
    }
    group_data_done(img->group, gen);
    return ret;
}

int qcow2_co_zeroes_expand(struct qcow2_image *img)
{
    uint64_t off = 0, cluster = qcow2_cluster_size(img);
    int ret = 0;

    while (off < img->node->size && ret == 0) {
        uint64_t idx = off >> img->cluster_bits, n = 0;
        struct qcow2_run run = { 0 };
        struct qcow2_desc d;

        ret = qcow2_co_lookup_to_change(img, off, img->node->size - off, &run);
        if (ret == 0 && run.kind == QCOW2_ZERO) {
            ret = same_co_count(
                img, idx, idx + ((run.len + cluster - 1) >> img->cluster_bits),
                &d, &n);
            if (ret == 0 && qcow2_has_backing(img)) {
                ret = clusters_co_fill(img, idx, n, d);
            } else if (ret == 0) {
                clusters_forget(img, idx, n, d);
            }
            run.len = n << img->cluster_bits;
        }
        off += run.len;
    }
    return ret;
}

/* --- requests --- */

static bool qcow2_zero_is_whole(const struct node *n, uint64_t off,
                                uint64_t end)
{
    uint64_t mask = qcow2_sub_size(qcow2_image(n)) - 1;

    return !(off & mask) && (!(end & mask) || end == n->size);
}

/* In what way depends on what the image can say. */
static CO_FN int range_co_change(struct qcow2_image *img, uint64_t off,
                                 uint64_t end, unsigned flags, bool discard)
{
    bool unmap = flags & IO_MAY_UNMAP;
    bool v2 = img->shape.version < 3;

    if (flags & IO_ALLOCATE) {
        return v2 && img->crypt ? -ENOTSUP
                                : clusters_co_alloc(img, off, end, flags);
    }
    if (v2 && (qcow2_has_backing(img) || !unmap)) {
        return old_co_zero(img, off, end - off, discard);
    }
    return qcow2_data_is_raw(img) ? qcow2_co_data_map(img, off, end)
                                  : range_co_zero(img, off, end, unmap);
}

static CO_FN int request_co_zero(struct node *n, uint64_t off, uint64_t len,
                                 unsigned flags, bool discard)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t epoch;
    int ret;

    ret = qcow2_co_ready(img);
    if (ret < 0) {
        return ret;
    }
    if (!qcow2_zero_is_whole(n, off, off + len)) {
        return -ENOTSUP;
    }
    if (off < n->size && !(flags & IO_POPULATE)) { /* no resize clears it */
        ret = qcow2_co_bitmaps_mark(img, off, min_u64(len, n->size - off));
        if (ret < 0) {
            return ret;
        }
    }
    epoch = qcow2_access_begin(img);
    ret = qcow2_co_data_zero(img, off, len, discard ? flags | IO_FAST : flags);
    if (ret == 0) {
        ret = range_co_change(img, off, off + len, flags, discard);
    }
    qcow2_access_end(img, epoch);
    return ret;
}

int qcow2_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return request_co_zero(n, off, len, flags, false);
}

int qcow2_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    int ret = request_co_zero(n, off, len, IO_MAY_UNMAP, true);

    return ret == -ENOTSUP ? 0 : ret;
}
