/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Steps of a preparation: none runs while the image is drained. */
#include "format/qcow2/snapshot/prepare-int.h"

bool qcow2_prepare_goes_on(const struct qcow2_prepare_round *r)
{
    return !r->img->quiesced && r->img->prepared == r->p && !r->p->ends &&
           r->img->group;
}

bool qcow2_prepare_step_begin(const struct qcow2_prepare_round *r)
{
    if (r->tx) {
        return true;
    }
    if (!qcow2_prepare_goes_on(r)) {
        return false;
    }
    co_latch_add(&r->img->preparing);
    return true;
}

void qcow2_prepare_step_end(const struct qcow2_prepare_round *r)
{
    if (!r->tx) {
        co_latch_done(&r->img->preparing);
    }
}

int qcow2_prepare_co_alloc(const struct qcow2_prepare_round *r,
                           enum qcow2_meta what, uint64_t *ret_host)
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
