/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The end of a preparation, whether a snapshot came of it or not. */
#include "format/qcow2/space/prepared.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"

void qcow2_prepared_end(struct qcow2_image *img)
{
    struct qcow2_prepared *p = g_steal_pointer(&img->prepared);

    if (p) {
        qcow2_access_end(img, p->epoch);
        g_array_unref(p->taken);
        g_hash_table_destroy(p->blocks);
        for (uint32_t i = 0; i < p->n; i++) {
            g_free(p->tables[i].kept);
        }
        g_free(p->tables);
        g_free(p);
    }
}

void qcow2_prepared_co_drop(struct qcow2_image *img)
{
    struct qcow2_prepared *p = img->prepared;

    if (!p) {
        return;
    }
    p->ends = true;
    co_latch_co_wait(&img->preparing);
    p = img->prepared; /* another may have dropped it meanwhile */
    for (guint i = 0; p && i < p->taken->len; i++) {
        struct qcow2_decrement d = g_array_index(p->taken,
                                                 struct qcow2_decrement, i);

        qcow2_meta_remove(img, d.first << img->cluster_bits,
                          d.n << img->cluster_bits);
        qcow2_reclaim_now(img, d.first, d.n);
    }
    qcow2_prepared_end(img);
}
