/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whole clusters taken over from other storage, where the file system shares
 * extents.  What is not simple is refused before anything is done, and then
 * copied as an ordinary write.
 */
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"
#include "format/trace.h"

/* Ciphers need the bytes; parts of clusters are too small to be worth it. */
bool qcow2_can_copy_in(struct node *n, struct node *src)
{
    struct qcow2_image *img = qcow2_image(n);

    return !img->crypt && !img->shape.extended && !img->corrupt &&
           !img->sector.unknown && node_can_copy_in(qcow2_data(img), src);
}

static CO_FN int data_co_copy_in(struct qcow2_image *img, uint64_t host,
                                 struct node *src, uint64_t src_off,
                                 uint64_t len)
{
    int ret = qcow2_co_check_overlap(img, QCOW2_META_DATA, host, len);

    if (ret < 0) {
        return ret;
    }
    node_co_debug_event(qcow2_file(img), DEBUG_WRITE_AIO);
    return node_co_copy_in(qcow2_data(img), host, src, src_off, len, 0);
}

/* Clusters that have no host cluster. */
static CO_FN int absent_co_copy_in(struct qcow2_image *img, uint64_t off,
                                   struct node *src, uint64_t src_off,
                                   uint64_t len)
{
    uint64_t gen = group_join(img->group, len / GROUP_SHARED_WEIGHT), host;
    bool fresh;
    int ret = qcow2_co_host_alloc(img, gen, off, len, &host, &fresh);

    if (ret == 0) {
        ret = data_co_copy_in(img, host, src, src_off, len);
        if (ret == 0) {
            struct qcow2_delta d = {
                .entry = host | QCOW2_COPIED,
                .whole = true,
            };
            qcow2_pending_add_run(img, gen, off >> img->cluster_bits,
                                  len >> img->cluster_bits, &d);
        } else {
            qcow2_host_free(img, gen, host, len);
        }
    }
    group_data_done(img->group, gen);
    return ret;
}

static CO_FN int request_co_copy_in(struct qcow2_image *img, uint64_t off,
                                    struct node *src, uint64_t src_off,
                                    uint64_t len)
{
    uint64_t done = 0;
    int ret = 0;

    while (done < len && ret == 0) {
        struct qcow2_run run;

        ret = qcow2_co_lookup(img, off + done, len - done, &run);
        if (ret < 0) {
            break;
        }
        if (run.kind == QCOW2_DATA && run.in_place) {
            ret = data_co_copy_in(img, run.host, src, src_off + done, run.len);
        } else if (run.kind == QCOW2_ABSENT ||
                   (run.kind == QCOW2_ZERO && !run.host)) {
            ret = absent_co_copy_in(img, off + done, src, src_off + done,
                                    run.len);
        } else {
            ret = -ENOTSUP; /* what was done is done again: no harm */
        }
        done += run.len;
    }
    return ret;
}

int qcow2_co_copy_in(struct node *n, uint64_t off, struct node *src,
                     uint64_t src_off, uint64_t len, unsigned flags)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t mask = qcow2_cluster_size(img) - 1, epoch;
    int ret = 0;

    if (!qcow2_can_copy_in(n, src) || ((off | len) & mask)) {
        return -ENOTSUP;
    }
    ret = qcow2_co_pending_room(img);
    if (ret == 0) { /* a populate changes nothing for the guest, but that is not
                     * known here */
        ret = qcow2_co_bitmaps_mark(img, off, len);
    }
    if (ret < 0) {
        return ret;
    }
    epoch = qcow2_access_begin(img);
    ret = request_co_copy_in(img, off, src, src_off, len);
    qcow2_access_end(img, epoch);
    return ret;
}
