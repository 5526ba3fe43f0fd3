/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes and flushes.
 *
 * A write goes in place where a cluster has a host cluster that it does not
 * share; else clusters are allocated, the data is written there at once, and
 * the change of the table waits in memory for its commit group.  Any number run
 * in parallel; the dispatcher keeps two allocating writes off one cluster.
 */
#include <errno.h>
#include <string.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"
#include "format/trace.h"

#define ZERO_BYTES 65536u
#define STACK_VECS 24

static uint8_t qcow2_zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

int qcow2_co_write_data(struct qcow2_image *img, uint64_t off, uint64_t host,
                        struct iov iov, unsigned flags)
{
    int ret = qcow2_co_check_overlap(img, QCOW2_META_DATA, host, iov.len);

    if (ret < 0) {
        return ret;
    }
    node_co_debug_event(qcow2_file(img), DEBUG_WRITE_AIO);
    return img->crypt ? qcow2_co_crypt_write(img, off, host, iov, flags)
                      : qcow2_co_data_write(img, host, iov, flags);
}

/* --- new clusters --- */

static unsigned add_zeroes(struct iovec *v, unsigned n, size_t len)
{
    while (len > 0) {
        size_t part = MIN(len, ZERO_BYTES);

        v[n++] = (struct iovec) { qcow2_zeroes, part };
        len -= part;
    }
    return n;
}

static CO_FN int padded_co_write(struct qcow2_image *img, uint64_t off,
                                 uint64_t host, struct iov iov, size_t before,
                                 size_t after)
{
    size_t count = iov.n + 4 + (before + after) / ZERO_BYTES, len;
    struct iovec stack[STACK_VECS];
    struct iovec *v = count <= STACK_VECS ? stack : g_new(struct iovec, count);
    unsigned n = add_zeroes(v, 0, before);
    int ret;

    n += iov_export(iov, v + n, iov.n, &len);
    g_assert(len == iov.len);
    n = add_zeroes(v, n, after);
    ret = qcow2_co_write_data(img, off - before, host - before,
                              (struct iov) { v, n, 0, before + len + after },
                              0);
    if (v != stack) {
        g_free(v);
    }
    return ret;
}

int qcow2_co_write_padded(struct qcow2_image *img, uint64_t off, uint64_t host,
                          struct iov iov, bool pad, unsigned unit_bits)
{
    uint64_t unit = UINT64_C(1) << unit_bits;
    size_t before = off & (unit - 1);
    size_t after = round_up(off + iov.len, unit) - (off + iov.len);

    if (!pad || before + after == 0) {
        return qcow2_co_write_data(img, off, host, iov, 0);
    }
    return padded_co_write(img, off, host, iov, before, after);
}

int qcow2_co_host_alloc(struct qcow2_image *img, uint64_t gen, uint64_t off,
                        uint64_t bytes, uint64_t *ret_host, bool *ret_fresh)
{
    if (img->shape.data_file) {
        *ret_host = off;
        *ret_fresh = false;
        return off + bytes - 1 <= QCOW2_OFFSET_MASK ? 0 : -EFBIG;
    }
    return qcow2_co_alloc(img, gen, bytes, ret_host, ret_fresh);
}

void qcow2_host_free(struct qcow2_image *img, uint64_t gen, uint64_t host,
                     uint64_t bytes)
{
    if (!img->shape.data_file) {
        qcow2_unalloc(img, gen, host, bytes);
    }
}

int qcow2_co_write_absent(struct qcow2_image *img, uint64_t off, struct iov iov)
{
    uint64_t skip = off & (qcow2_cluster_size(img) - 1);
    uint64_t first = off >> img->cluster_bits;
    uint64_t n = ((off + iov.len - 1) >> img->cluster_bits) - first + 1;
    uint64_t gen = group_join(img->group, iov.len), host;
    bool fresh;
    int ret = qcow2_co_host_alloc(img, gen, off - skip, n << img->cluster_bits,
                                  &host, &fresh);

    if (ret < 0) {
        group_data_done(img->group, gen);
        return ret;
    }
    /* What is fresh reads as zeroes, but not through a cipher. */
    ret = qcow2_co_write_padded(img, off, host + skip, iov,
                                !fresh || img->crypt, img->cluster_bits);
    if (ret == 0) {
        struct qcow2_delta d = {
            .entry = host | QCOW2_COPIED,
            .data = img->shape.extended ? UINT32_MAX : 0,
            .whole = true,
        };
        qcow2_pending_add_run(img, gen, first, n, &d);
    } else {
        qcow2_host_free(img, gen, host, n << img->cluster_bits);
    }
    group_data_done(img->group, gen);
    return ret;
}

/* A zero cluster with a host cluster of its own, whose bytes are undefined. */
static CO_FN int zero_co_fill(struct qcow2_image *img, uint64_t off,
                              uint64_t host, struct iov iov)
{
    uint64_t skip = off & (qcow2_cluster_size(img) - 1);
    uint64_t first = off >> img->cluster_bits;
    uint64_t n = ((off + iov.len - 1) >> img->cluster_bits) - first + 1;
    uint64_t gen = group_join(img->group, iov.len);
    int ret = qcow2_co_write_padded(img, off, host, iov, true,
                                    img->cluster_bits);

    if (ret == 0) {
        struct qcow2_delta d = {
            .entry = (host - skip) | QCOW2_COPIED,
            .whole = true,
        };
        qcow2_pending_add_run(img, gen, first, n, &d);
    }
    group_data_done(img->group, gen);
    return ret;
}

/* --- a request --- */

static uint64_t cluster_left(const struct qcow2_image *img, uint64_t off)
{
    return qcow2_cluster_size(img) - (off & (qcow2_cluster_size(img) - 1));
}

int qcow2_co_write_part(struct qcow2_image *img, uint64_t off, struct iov iov,
                        size_t *ret_done)
{
    struct qcow2_run run;
    int ret = qcow2_co_lookup(img, off, iov.len, &run);
    bool has_place;

    if (ret < 0) {
        return ret;
    }
    *ret_done = run.len;
    has_place = run.kind == QCOW2_DATA || (run.kind == QCOW2_ZERO && run.host);
    if (run.kind == QCOW2_DATA && run.in_place) {
        return qcow2_co_write_data(img, off, run.host,
                                   iov_slice(iov, 0, run.len), 0);
    }
    if (run.kind == QCOW2_RUN_COMPRESSED || (has_place && !run.in_place)) {
        *ret_done = min_u64(run.len, cluster_left(img, off));
        return qcow2_co_write_copy(img, off, iov_slice(iov, 0, *ret_done));
    }
    if (img->shape.extended) {
        return qcow2_co_write_extended(img, off, iov_slice(iov, 0, run.len),
                                       ret_done);
    }
    iov = iov_slice(iov, 0, run.len);
    return run.kind == QCOW2_ZERO && run.host
               ? zero_co_fill(img, off, run.host, iov)
               : qcow2_co_write_absent(img, off, iov);
}

int qcow2_co_write_parts(struct qcow2_image *img, uint64_t off, struct iov iov)
{
    size_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        size_t now = 0;

        ret = qcow2_co_write_part(img, off + done,
                                  iov_slice(iov, done, iov.len - done), &now);
        done += now;
    }
    return ret;
}

int qcow2_co_write_plain(struct qcow2_image *img, uint64_t off, struct iov iov)
{
    uint64_t epoch = qcow2_access_begin(img);
    int ret = qcow2_co_write_parts(img, off, iov);

    qcow2_access_end(img, epoch);
    return ret;
}

int qcow2_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                     unsigned flags)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret = qcow2_co_ready(img);

    if (ret == 0) {
        ret = qcow2_co_pending_room(img);
    }
    if (ret == 0 && !(flags & IO_POPULATE)) {
        ret = qcow2_co_bitmaps_mark(img, off, iov.len);
    }
    if (ret < 0) {
        return ret;
    }
    ret = flags & IO_COMPRESSED
              ? qcow2_co_write_compressed(img, off, iov, flags)
              : qcow2_co_write_plain(img, off, iov);
    return ret;
}
