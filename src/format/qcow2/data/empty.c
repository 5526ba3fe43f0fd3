/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freeing clusters: of the part of a disk that is cut off, or of all of it, as
 * commit does after it has merged the image down.
 *
 * The changes are published like any others, and the space is free when they
 * are durable; so a crash leaves some clusters, and never one that is free and
 * in use.
 */
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

/* Clusters after which others may run. */
#define RELAX_EVERY 4096

/* Cluster @idx, which is @d. One that makes no sense is reported. */
static CO_FN int cluster_co_drop(struct qcow2_image *img, uint64_t idx,
                                 struct qcow2_desc d)
{
    const struct qcow2_delta none = { .whole = true };
    struct qcow2_run run;
    uint64_t gen;
    int ret = qcow2_co_lookup(img, idx << img->cluster_bits, 1, &run);

    if (ret == 0) {
        gen = group_join(img->group, 0);
        qcow2_pending_add(img, gen, idx, &none);
        qcow2_free_desc(img, gen, d);
        group_data_done(img->group, gen);
    }
    return ret;
}

int qcow2_co_drop_clusters(struct qcow2_image *img, uint64_t from, uint64_t to)
{
    uint64_t cluster = qcow2_cluster_size(img), n;
    uint64_t end = round_up(to, cluster) >> img->cluster_bits;
    int ret = 0;

    for (uint64_t idx = round_up(from, cluster) >> img->cluster_bits;
         idx < end && ret == 0; idx += n) {
        struct qcow2_desc d;

        n = 1;
        ret = qcow2_co_pending_room(img);
        if (ret == 0) {
            ret = qcow2_co_descs(img, idx, end, &d, &n);
        }
        if (ret == 0 && (d.entry || d.bits)) {
            ret = cluster_co_drop(img, idx, d);
        }
        if (idx % RELAX_EVERY == 0) {
            co_relax();
        }
    }
    return ret;
}

int qcow2_co_make_empty(struct node *n, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret = qcow2_check_writable(img, err);

    if (ret < 0) {
        return ret;
    }
    if (qcow2_data_is_raw(img)) { /* it would still hold the old bytes */
        return err_set(err, ENOTSUP,
                       "An image whose external data file is raw "
                       "cannot be emptied");
    }
    node_co_debug_event(qcow2_file(img), DEBUG_EMPTY_IMAGE_PREPARE);
    qcow2_prepared_co_drop(img);
    ret = qcow2_co_drop_clusters(img, 0, n->size);
    if (ret == 0) {
        ret = qcow2_co_settle(img);
    }
    return ret < 0 ? err_set_errno(err, -ret, "Could not clear the tables") : 0;
}
