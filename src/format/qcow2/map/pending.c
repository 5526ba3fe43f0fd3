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

G_STATIC_ASSERT(sizeof(gpointer) == sizeof(uint64_t));

static gint qcow2_compare_keys(gconstpointer a, gconstpointer b, gpointer unused)
{
    uint64_t x = GPOINTER_TO_SIZE(a), y = GPOINTER_TO_SIZE(b);

    return x < y ? -1 : x > y;
}

int qcow2_co_pending_room(struct qcow2_image *img)
{
    return img->n_pending >= QCOW2_PENDING_MAX ? group_co_flush(img->group) : 0;
}

static struct qcow2_pending *qcow2_pending_of(struct qcow2_image *img, uint64_t gen)
{
    unsigned n = img->n_pending_gens;
    struct qcow2_pending *p;

    for (unsigned i = 0; i < n; i++) {
        if (img->pending[i].gen == gen) {
            return &img->pending[i];
        }
    }
    g_assert(n < QCOW2_GENERATIONS);
    /* Two writers may enter changes of two generations in either order. */
    while (n > 0 && img->pending[n - 1].gen > gen) {
        img->pending[n] = img->pending[n - 1];
        n--;
    }
    img->n_pending_gens++;
    p = &img->pending[n];
    *p = (struct qcow2_pending) {
        .gen = gen,
        .map = g_tree_new_full(qcow2_compare_keys, NULL, NULL, g_free),
    };
    return p;
}

static void qcow2_pending_insert(struct qcow2_image *img, struct qcow2_pending *p,
                           uint64_t idx, const struct qcow2_delta *delta)
{
    struct qcow2_delta *d = g_tree_lookup(p->map, GSIZE_TO_POINTER(idx));

    if (d) {
        qcow2_delta_merge(d, delta);
        return;
    }
    g_tree_insert(p->map, GSIZE_TO_POINTER(idx),
                  g_memdup2(delta, sizeof(*delta)));
    img->n_pending++;
}

void qcow2_pending_add(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                       const struct qcow2_delta *delta)
{
    qcow2_pending_insert(img, qcow2_pending_of(img, gen), idx, delta);
}

void qcow2_pending_add_run(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                           uint64_t n, const struct qcow2_delta *first)
{
    struct qcow2_pending *p = qcow2_pending_of(img, gen);
    struct qcow2_delta d = *first;
    bool counts = qcow2_desc_has_host(&img->shape,
                                      (struct qcow2_desc) { d.entry, 0 });

    for (uint64_t i = 0; i < n; i++) {
        qcow2_pending_insert(img, p, idx + i, &d);
        if (counts) {
            d.entry += qcow2_cluster_size(img);
        }
    }
}

bool qcow2_pending_apply(const struct qcow2_image *img, uint64_t idx,
                         struct qcow2_desc *d)
{
    bool any = false;

    for (unsigned i = 0; i < img->n_pending_gens; i++) {
        const struct qcow2_delta *delta =
            g_tree_lookup(img->pending[i].map, GSIZE_TO_POINTER(idx));

        if (delta) {
            *d = qcow2_delta_apply(*d, delta);
            any = true;
        }
    }
    return any;
}

static void qcow2_pending_remove_at(struct qcow2_image *img, unsigned i)
{
    img->n_pending -= (unsigned) g_tree_nnodes(img->pending[i].map);
    g_tree_destroy(img->pending[i].map);
    img->n_pending_gens--;
    for (; i < img->n_pending_gens; i++) {
        img->pending[i] = img->pending[i + 1];
    }
}

struct merge {
    struct qcow2_image *img;
    struct qcow2_pending *into;    /* the newer one */
};

static gboolean qcow2_merge_one(gpointer key, gpointer value, gpointer data)
{
    struct merge *m = data;
    struct qcow2_delta *newer = g_tree_lookup(m->into->map, key);

    if (newer) {
        struct qcow2_delta sum = *(struct qcow2_delta *) value;

        qcow2_delta_merge(&sum, newer);
        *newer = sum;
    } else {
        qcow2_pending_insert(m->img, m->into, GPOINTER_TO_SIZE(key), value);
    }
    return FALSE;
}

struct qcow2_pending *qcow2_pending_merge(struct qcow2_image *img,
                                          uint64_t gen)
{
    while (img->n_pending_gens > 1 && img->pending[1].gen <= gen) {
        struct merge m = { img, &img->pending[1] };

        g_tree_foreach(img->pending[0].map, qcow2_merge_one, &m);
        qcow2_pending_remove_at(img, 0);
    }
    return img->n_pending_gens && img->pending[0].gen <= gen
        ? &img->pending[0] : NULL;
}

void qcow2_pending_drop(struct qcow2_image *img, uint64_t gen)
{
    while (img->n_pending_gens && img->pending[0].gen <= gen) {
        qcow2_pending_remove_at(img, 0);
    }
}

void qcow2_pending_free(struct qcow2_image *img)
{
    while (img->n_pending_gens) {
        qcow2_pending_remove_at(img, 0);
    }
}
