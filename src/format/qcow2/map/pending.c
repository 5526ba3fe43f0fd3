/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changes of descriptors that wait for their commit group.
 *
 * Each generation has an ordered map of deltas.  What a cluster is follows from
 * its table entry by applying the deltas of all generations, old ones first;
 * so a write that joined generation N and ends after one of N + 1 takes nothing
 * from it: where both touch one cluster they touch different subclusters, and
 * their deltas commute.
 */
#include "format/qcow2/map/map.h"

int qcow2_co_pending_room(struct qcow2_image *img)
{
    return pending_count(&img->pending) >= QCOW2_PENDING_MAX
               ? group_co_flush(img->group)
               : 0;
}

static GTree *qcow2_pending_map(struct qcow2_image *img, uint64_t gen)
{
    return pending_of(&img->pending, gen, g_free)->map;
}

static void qcow2_pending_insert(GTree *map, uint64_t idx,
                                 const struct qcow2_delta *delta)
{
    struct qcow2_delta *d = g_tree_lookup(map, GSIZE_TO_POINTER(idx));

    if (d) {
        qcow2_delta_merge(d, delta);
        return;
    }
    g_tree_insert(map, GSIZE_TO_POINTER(idx), g_memdup2(delta, sizeof(*delta)));
}

void qcow2_pending_add(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                       const struct qcow2_delta *delta)
{
    qcow2_pending_insert(qcow2_pending_map(img, gen), idx, delta);
}

void qcow2_pending_add_run(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                           uint64_t n, const struct qcow2_delta *first)
{
    GTree *map = qcow2_pending_map(img, gen);
    struct qcow2_delta d = *first;
    bool counts = qcow2_desc_has_host(&img->shape,
                                      (struct qcow2_desc) { d.entry, 0 });

    for (uint64_t i = 0; i < n; i++) {
        qcow2_pending_insert(map, idx + i, &d);
        if (counts) {
            d.entry += qcow2_cluster_size(img);
        }
    }
}

static gboolean qcow2_pending_older(gpointer key, gpointer value, gpointer map)
{
    struct qcow2_delta sum = *(struct qcow2_delta *)value;
    struct qcow2_delta *newer = g_tree_lookup(map, key);

    if (newer) {
        qcow2_delta_merge(&sum, newer);
        *newer = sum;
    } else {
        g_tree_insert(map, key, g_memdup2(&sum, sizeof(sum)));
    }
    return FALSE;
}

struct pending_gen *qcow2_pending_merge(struct qcow2_image *img, uint64_t gen)
{
    return pending_merge(&img->pending, gen, qcow2_pending_older);
}
