/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check of one L2 entry: what is wrong with it, and what replaces it.
 *
 * A repair never changes what a guest can read.  Of an extended entry those
 * subclusters stay what they are whose meaning is clear; none is where the
 * entry shows that it is not one, as in a table that something else was written
 * over.  What cannot be read becomes zeroes, never the content of the backing
 * file, which is older than what was lost.  Version 2 has no zero clusters:
 * there all such entries share one cluster of zeroes.
 */
#include <errno.h>
#include <string.h>
#include "base/math.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/data/data.h"
#include "loop/io.h"

static bool bits_conflict(const struct qcow2_image *img, struct qcow2_desc d)
{
    return img->shape.extended && (uint32_t)d.bits & (d.bits >> 32);
}

/* Of an entry that is not compressed. */
static bool is_aligned(const struct qcow2_image *img, struct qcow2_desc d)
{
    return !(d.entry & QCOW2_OFFSET_MASK & (qcow2_cluster_size(img) - 1));
}

static bool is_misplaced(const struct qcow2_image *img, struct qcow2_desc d,
                         uint64_t guest)
{
    uint64_t at = d.entry & QCOW2_OFFSET_MASK;

    if (d.entry & QCOW2_COMPRESSED) {
        return img->shape.data_file;
    }
    return !is_aligned(img, d) ||
           (img->shape.data_file && qcow2_desc_has_host(&img->shape, d) &&
            at != guest);
}

const char *qcow2_check_entry_fault(const struct qcow2_image *img,
                                    struct qcow2_desc d, uint64_t guest)
{
    if (d.entry & QCOW2_COMPRESSED) {
        return img->shape.data_file ? "compressed cluster with data file"
               : d.bits ? "compressed cluster with non-zero subcluster "
                          "allocation bitmap"
                        : NULL;
    }
    if (!is_aligned(img, d)) {
        return "Cluster is not properly aligned; L2 entry corrupted";
    }
    if (is_misplaced(img, d, guest)) { /* in a data file that is all there is */
        return "Cluster is not at its guest offset in the data file";
    }
    if (bits_conflict(img, d)) {
        return "Allocated cluster has corrupted subcluster allocation bitmap";
    }
    return qcow2_desc_kind(&img->shape, d, 0) == QCOW2_INVALID
               ? "L2 entry corrupted"
               : NULL;
}

bool qcow2_check_has_place(const struct qcow2_image *img, struct qcow2_desc d,
                           uint64_t guest)
{
    return (d.entry & QCOW2_COMPRESSED) ? !img->shape.data_file
                                        : qcow2_desc_has_host(&img->shape, d) &&
                                              !is_misplaced(img, d, guest);
}

/* --- what replaces it --- */

/* Version 2: a cluster of zeroes for one more entry. */
static CO_FN int zeroes_co_place(struct qcow2_check *c, uint64_t *ret_host)
{
    uint64_t len = qcow2_cluster_size(c->img);
    uint8_t *buf;
    int ret = 0;

    if (!c->zeroes ||
        qcow2_counts_get(c->counts, c->zeroes >> c->img->cluster_bits) >=
            c->img->refcounts->max) {
        buf = io_buf_get(len);
        if (!buf) {
            return -ENOMEM;
        }
        memset(buf, 0, len);
        ret = qcow2_co_check_append(c, buf, len, &c->zeroes);
        io_buf_put(buf, len);
    } else {
        ret = qcow2_counts_add(c->counts, c->zeroes >> c->img->cluster_bits, 1);
    }
    *ret_host = c->zeroes;
    return ret;
}

bool qcow2_check_is_zeroes(const struct qcow2_check *c, struct qcow2_desc d)
{
    return c->zeroes && d.entry == c->zeroes;
}

/* Encrypted zeroes are others at each offset: there is no cluster for all. */
static bool zeroes_need_place(const struct qcow2_image *img)
{
    return img->shape.version < 3 && img->backing_name;
}

bool qcow2_check_can_replace(const struct qcow2_image *img)
{
    return !zeroes_need_place(img) || img->hdr.crypt_method == QCOW2_CRYPT_NONE;
}

/* Is nothing that extended entry @d says to be believed, even that subclusters
 * are those of the backing file?  Its offset cannot be one, or both its halves
 * are wrong.  None of the cluster could be read then. */
static bool is_no_entry(const struct qcow2_image *img, struct qcow2_desc d,
                        bool lost)
{
    return !is_aligned(img, d) || (lost && bits_conflict(img, d));
}

/* Subclusters of data become zeroes, where @lost, or where they are marked as
 * zeroes, too. */
static struct qcow2_desc extended_replace(const struct qcow2_image *img,
                                          struct qcow2_desc d, bool lost)
{
    const struct qcow2_desc all_zero = { 0, (uint64_t)UINT32_MAX << 32 };
    uint32_t data = (uint32_t)d.bits, zero = (uint32_t)(d.bits >> 32);

    if (d.entry & QCOW2_COMPRESSED) {
        return lost ? all_zero : (struct qcow2_desc) { d.entry, 0 };
    }
    lost = lost || !qcow2_desc_has_host(&img->shape, d);
    if (is_no_entry(img, d, lost)) {
        return all_zero;
    }
    if (lost) {
        return (struct qcow2_desc) { 0, (uint64_t)(data | zero) << 32 };
    }
    return (struct qcow2_desc) { d.entry,
                                 (data & ~zero) | (uint64_t)zero << 32 };
}

int qcow2_co_check_replace(struct qcow2_check *c, struct qcow2_desc d,
                           uint64_t guest, bool lost, struct qcow2_desc *ret)
{
    const struct qcow2_image *img = c->img;
    uint64_t host;
    int r;

    lost = lost || is_misplaced(img, d, guest);
    if (qcow2_data_is_raw(img)) { /* what is there in the file */
        *ret = (struct qcow2_desc) { guest | QCOW2_COPIED,
                                     img->shape.extended ? UINT32_MAX : 0 };
    } else if (img->shape.extended) {
        *ret = extended_replace(img, d, lost);
    } else if (zeroes_need_place(img)) {
        r = zeroes_co_place(c, &host);
        if (r < 0) {
            return r;
        }
        *ret = (struct qcow2_desc) { host, 0 };
    } else {
        *ret = (struct qcow2_desc) { img->shape.version >= 3 ? QCOW2_ZERO_FLAG
                                                             : 0,
                                     0 };
    }
    return 0;
}

/* --- compressed --- */

/* A stream whose recorded length passes @end may end before that. */
CO_FN bool qcow2_co_check_shorten(struct qcow2_check *c, struct qcow2_desc d,
                                  uint64_t guest, uint64_t end,
                                  struct qcow2_desc *ret)
{
    struct qcow2_image *img = c->img;
    uint64_t len;
    struct qcow2_run run = { .kind = QCOW2_RUN_COMPRESSED, .entry = d.entry };
    struct iovec v;
    uint8_t *buf;
    int r;

    qcow2_compressed_get(&img->shape, d.entry, &run.host, &run.compressed_len);
    if (run.host >= end ||
        qcow2_check_spend(c, "tables", qcow2_cluster_size(img)) < 0) {
        return false;
    }
    len = min_u64(run.compressed_len, end - run.host);
    run.entry = qcow2_compressed_entry(&img->shape, run.host, (uint32_t)len);
    buf = io_buf_get(qcow2_cluster_size(img));
    if (!buf) {
        return false;
    }
    run.compressed_len = (uint32_t)len;
    r = qcow2_co_read_compressed(img, &run, guest,
                                 iov_one(&v, buf, qcow2_cluster_size(img)), 0);
    io_buf_put(buf, qcow2_cluster_size(img));
    *ret = (struct qcow2_desc) { run.entry, 0 };
    return r == 0;
}
