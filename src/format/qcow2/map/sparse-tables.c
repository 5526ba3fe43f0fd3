/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sparse metadata and duplicate L1 entries: L2 tables that lie in holes of a
 * sparse file, and L1 entries that all point to one table.  Such an image has
 * far more metadata than bytes, and reading its status must not take time in
 * proportion to that metadata.
 *
 * This is done only where nobody writes: then the answer stays true, and an
 * image that is written to has no cost from it.  It is done only over files,
 * because the question where a file has holes takes no round trip there.
 */
#include <stdlib.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/map/map.h"

static uint64_t table_of(const uint64_t *l1, uint64_t l1_idx)
{
    return get_be64(&l1[l1_idx]) & QCOW2_OFFSET_MASK;
}

static uint64_t table_at(const struct qcow2_image *img, uint64_t l1_idx)
{
    return table_of(img->l1, l1_idx);
}

static bool is_over_file(const struct qcow2_image *img)
{
    const struct node *storage = node_storage(img->node);

    return storage && !strcmp(storage->drv->name, "file");
}

uint64_t qcow2_co_sparse_tables(struct qcow2_image *img, uint64_t off,
                                uint64_t end)
{
    uint64_t cluster = qcow2_cluster_size(img);
    unsigned span = img->l2_bits + img->cluster_bits;
    uint64_t first = off >> span, i = first, host = table_at(img, first);
    struct node *file = qcow2_file(img);
    struct extent ext;

    if (img->group || !is_over_file(img) || host & (cluster - 1) ||
        !range_inside(host, cluster, file->size) ||
        node_co_status(file, host, file->size - host, &ext) < 0 ||
        !(ext.flags & STATUS_ZERO)) {
        return 0;
    }
    /* As many that follow as lie in the same hole. */
    while (i < img->hdr.l1_size && i << span < end &&
           table_at(img, i) >= host && !(table_at(img, i) & (cluster - 1)) &&
           range_inside(table_at(img, i) - host, cluster, ext.len)) {
        i++;
    }
    return i > first ? min_u64(i << span, end) - off : 0;
}

static int qcow2_compare_offsets(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

bool qcow2_l1_has_duplicates(const uint64_t *l1, uint32_t n)
{
    uint64_t *all;
    bool shared;

    /* Neighbours show themselves without a copy to be sorted. */
    for (uint32_t i = 1; i < n; i++) {
        if (table_of(l1, i) && table_of(l1, i) == table_of(l1, i - 1)) {
            return true;
        }
    }
    all = g_try_new(uint64_t, MAX(n, 1));
    shared = !all; /* then look the slow way */
    for (uint32_t i = 0; i < n && all; i++) {
        all[i] = table_of(l1, i);
    }
    if (all) {
        qsort(all, n, sizeof(*all), qcow2_compare_offsets);
    }
    for (uint32_t i = 1; i < n && !shared; i++) {
        shared = all[i] && all[i] == all[i - 1];
    }
    g_free(all);
    return shared;
}

uint32_t qcow2_l1_duplicate(struct qcow2_image *img, uint32_t l1_idx)
{
    uint64_t host = table_at(img, l1_idx);

    if (img->group) {
        return UINT32_MAX;
    }
    if (img->l1_tables == L1_UNKNOWN) {
        img->l1_tables = qcow2_l1_has_duplicates(img->l1, img->hdr.l1_size)
                             ? L1_SHARED
                             : L1_DISTINCT;
    }
    for (uint32_t i = 0; i < img->hdr.l1_size && img->l1_tables == L1_SHARED;
         i++) {
        if (i != l1_idx && table_at(img, i) == host) {
            return i;
        }
    }
    return UINT32_MAX;
}
