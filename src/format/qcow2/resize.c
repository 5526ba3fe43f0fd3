/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another size of the disk.
 *
 * Growing: what lies behind the disk is given up; a larger L1 table if it takes
 * one (written whole, durable with its refcounts, then one write of the header
 * leads to it); then whatever the new part would show (bytes of the last
 * cluster past the old end, a backing file that is longer than the disk was)
 * becomes zero, durably; then the size.
 *
 * Shrinking: clusters past the new end are given up, durably; then the size;
 * then tables that have no use any more (shrink.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"

/* --- the L1 table --- */

/* Let the header lead to a table of @n entries at @host; the group is
 * locked. */
static CO_FN int l1_co_switch(struct qcow2_image *img, uint64_t host,
                              uint32_t n)
{
    struct qcow2_header h = img->hdr;
    uint64_t old = h.l1_offset, old_len = (uint64_t)h.l1_size * 8;
    int ret;

    h.l1_offset = host;
    h.l1_size = n;
    node_co_debug_event(qcow2_file(img), DEBUG_L1_GROW_ACTIVATE_TABLE);
    ret = qcow2_co_write_header(img, &h);
    /* The old table waits for the next pass, and so for a flush. */
    if (ret == 0 && old_len) {
        qcow2_refcount_decrement(img, 0, old, old_len);
    }
    return ret;
}

/* Write a table of @n entries, the old ones first, to new clusters, and use it.
 * The group is locked. */
static CO_FN int l1_co_move(struct qcow2_image *img, uint32_t n)
{
    size_t bytes = round_up((uint64_t)n * 8, QCOW2_SECTOR);
    uint64_t *l1 = io_buf_get(bytes), host, *old = img->l1;
    size_t old_bytes = img->l1_bytes;
    bool fresh;
    int ret;

    if (!l1) {
        return -ENOMEM;
    }
    node_co_debug_event(qcow2_file(img), DEBUG_L1_GROW_ALLOC_TABLE);
    ret = qcow2_co_alloc(img, 0, bytes, &host, &fresh);
    if (ret < 0) {
        io_buf_put(l1, bytes);
        return ret;
    }
    memset(l1, 0, bytes);
    memcpy(l1, img->l1, (size_t)img->hdr.l1_size * 8);
    qcow2_meta_add(img, QCOW2_META_L1, host, bytes);
    node_co_debug_event(qcow2_file(img), DEBUG_L1_GROW_WRITE_TABLE);
    ret = qcow2_co_write_meta(img, QCOW2_META_L1, host, l1, bytes);
    if (ret == 0) {
        ret = qcow2_co_refcounts_write(img, 0);
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_L1_TABLE, node_co_sync(img->node, qcow2_file(img)));
    }
    if (ret == 0) {
        img->l1 = l1; /* before the size says that it is longer */
        img->l1_bytes = bytes;
        ret = l1_co_switch(img, host, n);
        l1 = old;
    } else {
        old_bytes = bytes;
    }
    if (ret < 0) {
        qcow2_unalloc(img, 0, host, bytes);
    }
    if (l1) {
        io_buf_put(l1, old_bytes);
    }
    return ret;
}

static CO_FN int l1_co_reach(struct qcow2_image *img, uint64_t size)
{
    uint64_t n = qcow2_l1_entries(size, img->cluster_bits, img->shape.extended);
    int ret;

    if (n <= img->hdr.l1_size) {
        return 0;
    }
    group_co_lock(img->group);
    ret = group_error(img->group);
    if (ret == 0) {
        ret = l1_co_move(img, (uint32_t)n);
    }
    group_unlock(img->group);
    return ret;
}

/* --- growing --- */

/* Zeroes into what is allocated of [@off, @end). */
static CO_FN int data_co_clear(struct qcow2_image *img, uint64_t off,
                               uint64_t end)
{
    size_t len = end - off, done = 0;
    uint8_t *buf = io_buf_get(len);
    int ret = buf ? 0 : -ENOMEM;

    if (buf) {
        memset(buf, 0, len);
    }
    while (done < len && ret == 0) {
        struct qcow2_run run;
        struct iovec v;
        size_t now;

        ret = qcow2_co_lookup(img, off + done, len - done, &run);
        if (ret < 0) {
            break;
        }
        now = run.len;
        if (run.kind == QCOW2_DATA || run.kind == QCOW2_RUN_COMPRESSED) {
            ret = qcow2_co_write_part(img, off + done,
                                      iov_one(&v, buf + done, run.len), &now);
        }
        done += now;
    }
    if (buf) {
        io_buf_put(buf, len);
    }
    return ret;
}

/* Behind the disk the state of a machine may lie, as a snapshot left it:
 * nothing of it becomes part of the disk. */
static CO_FN int state_co_drop(struct qcow2_image *img, uint64_t old)
{
    uint64_t n = qcow2_l1_entries(old, img->cluster_bits, img->shape.extended);
    unsigned bits = img->l2_bits + img->cluster_bits;

    return img->hdr.l1_size <= n
               ? 0
               : qcow2_co_drop_clusters(img, old,
                                        (uint64_t)img->hdr.l1_size << bits);
}

/* Version 2 has no zero clusters: over a longer base zeroes are data. Nobody
 * else writes behind the end of the disk. */
static CO_FN int zeroes_co_write(struct node *n, uint64_t off, uint64_t end)
{
    /* A multiple of the largest cluster. */
    size_t piece = (size_t)min_u64(end - off, UINT64_C(2) << 20);
    uint8_t *buf = io_buf_get(piece);
    int ret = buf ? 0 : -ENOMEM;

    if (buf) {
        memset(buf, 0, piece);
    }
    while (ret == 0 && off < end) {
        size_t len = (size_t)min_u64(end - off, piece);
        struct iovec v;

        ret = qcow2_co_pwritev(n, off, iov_one(&v, buf, len), 0);
        off += len;
    }
    if (buf) {
        io_buf_put(buf, piece);
    }
    return ret;
}

/* A data file is as long as the disk. What a raw one had behind the old end
 * would show, and a device has what was cut off before. */
static CO_FN int data_file_co_grow(struct qcow2_image *img, uint64_t old,
                                   uint64_t size)
{
    int ret;

    if (!img->data) {
        return 0;
    }
    ret = qcow2_co_data_file_cut(img, size);
    if (ret == 0) {
        ret = qcow2_co_data_file_reach(img, size, NULL);
    }
    if (ret == 0 && qcow2_data_is_raw(img)) {
        ret = qcow2_co_data_zero(img, old, size - old, IO_MAY_UNMAP);
        if (ret == 0) {
            ret = qcow2_co_data_map(img, round_up(old, qcow2_sub_size(img)),
                                    size);
        }
    }
    return ret;
}

/* The disk keeps its size: so does the data file, as far as it can be told. */
static CO_FN void data_file_co_keep(struct qcow2_image *img, uint64_t size)
{
    if (img->data) {
        img->data_end = size;
        (void)qcow2_co_data_file_reach(img, size, NULL);
    }
}

static CO_FN int qcow2_new_part_co_clear(struct node *n, uint64_t old,
                                         uint64_t size)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t cluster = qcow2_cluster_size(img);
    struct edge *e = node_child(n, "backing");
    uint64_t base = e ? e->child->size : 0;
    uint64_t from = round_up(old, qcow2_sub_size(img));
    uint64_t to = round_up(min_u64(base, size), cluster);
    uint64_t epoch = qcow2_access_begin(img);
    int ret = 0;

    if (old & (cluster - 1)) {
        ret = data_co_clear(img, old, round_up(old, cluster));
    }
    qcow2_access_end(img, epoch);
    if (ret == 0 && from < to) {
        ret = qcow2_co_zero(n, from, to - from, 0);
        if (ret == -ENOTSUP) {
            ret = zeroes_co_write(n, from, to);
        }
    }
    return ret;
}

/* --- shrinking --- */

/* What is cut off is given up before the size is written. Clusters of a raw
 * data file become zeroes but stay mapped: other programs read that file as the
 * disk, and its space has no other use. */
static CO_FN int cut_part_co_drop(struct qcow2_image *img, uint64_t size,
                                  uint64_t old)
{
    return qcow2_data_is_raw(img)
               ? qcow2_co_data_zero(img, size, old - size, IO_MAY_UNMAP)
               : qcow2_co_drop_clusters(img, size, old);
}

/* --- both --- */

static int qcow2_size_validate(struct node *n, uint64_t size, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t entries = qcow2_l1_entries(size, img->cluster_bits,
                                        img->shape.extended);
    int ret = qcow2_check_writable(img, err);

    if (ret < 0) {
        return ret;
    }
    if (size % QCOW2_SECTOR) {
        return err_set(err, EINVAL, "The new size must be a multiple of %d",
                       QCOW2_SECTOR);
    }
    if (img->hdr.n_snapshots && img->shape.version < 3) {
        return err_set(err, ENOTSUP,
                       "Can't resize a v2 image which has "
                       "snapshots");
    }
    if (entries > QCOW2_L1_BYTES_MAX / 8) {
        return err_set(err, EFBIG,
                       "qcow2 image size must be at most %" PRIu64
                       " bytes with clusters of %" PRIu64 " bytes",
                       (uint64_t)(QCOW2_L1_BYTES_MAX / 8)
                           << (img->l2_bits + img->cluster_bits),
                       qcow2_cluster_size(img));
    }
    return 0;
}

static CO_FN int size_co_write(struct qcow2_image *img, uint64_t size)
{
    struct qcow2_header h;
    int ret;

    group_co_lock(img->group);
    h = img->hdr;
    h.size = size;
    ret = group_error(img->group);
    if (ret == 0) {
        ret = qcow2_co_write_header(img, &h);
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_RESIZE_HEADER,
                      node_co_sync(img->node, qcow2_file(img)));
    }
    group_unlock(img->group);
    return ret;
}

static CO_FN int qcow2_truncate_co_run(struct node *n, uint64_t size,
                                       GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t old = n->size;
    int ret = qcow2_co_ready(img);

    if (ret == 0) {
        ret = qcow2_co_bitmaps_hold(img);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not update the qcow2 bitmaps");
    }
    if (size > old) {
        ret = state_co_drop(img, old);
        if (ret == 0) {
            ret = l1_co_reach(img, size);
        }
        if (ret == 0) {
            ret = data_file_co_grow(img, old, size);
        }
        if (ret == 0) {
            ret = qcow2_new_part_co_clear(n, old, size);
        }
    } else {
        ret = cut_part_co_drop(img, size, old);
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_RESIZE_CLEAR, qcow2_co_flush(n));
    }
    if (ret == 0 && size < old) {
        ret = qcow2_co_data_file_cut(img, size);
    }
    if (ret == 0) {
        ret = size_co_write(img, size);
    }
    if (ret < 0) {
        data_file_co_keep(img, old);
        if (size < old) { /* clusters may be gone that nobody changed */
            qcow2_bitmaps_changed(img, old, size, old - size);
        }
        return err_set_errno(err, -ret, "Could not resize the qcow2 image");
    }
    if (size < old && qcow2_data_is_raw(img)) { /* no harm if they stay */
        (void)qcow2_co_drop_clusters(img, size, old);
    }
    n->size = size;
    qcow2_bitmaps_changed(img, size, min_u64(old, size),
                          size - min_u64(old, size));
    if (size < old) {
        qcow2_co_shrink_metadata(img, old, size);
    }
    return 0;
}

int qcow2_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret = qcow2_size_validate(n, size, err);

    if (ret < 0 || size == n->size) {
        return ret;
    }
    img->resizing++;
    qcow2_prepared_co_drop(img);
    ret = qcow2_truncate_co_run(n, size, err);
    img->resizing--;
    return ret;
}
