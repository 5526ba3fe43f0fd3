/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image will take: the tables of one whose every cluster is allocated.
 * Users compare these figures with those of qemu-img byte for byte, so they are
 * those of a plain image laid out without gaps: header, L1 and L2 tables in
 * whole clusters, refcount blocks and table that count themselves too.
 */
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/create/create.h"

/* Clusters of refcount blocks and table for @others clusters. */
static uint64_t refcount_clusters(const struct qcow2_create *c, uint64_t others)
{
    uint64_t per_block = c->cluster_size * 8 / c->refcount_bits;
    uint64_t per_table = c->cluster_size / 8;
    uint64_t blocks = 0, table = 0, before;

    do {
        before = blocks + table;
        blocks = (others + before + per_block - 1) / per_block;
        table = (blocks + per_table - 1) / per_table;
    } while (blocks + table != before);
    return before;
}

int qcow2_measure(struct opts *o, struct image_measure *ret, GError **err)
{
    struct qcow2_create c;
    int r = qcow2_create_take(o, &c, err);

    if (r == 0) {
        uint64_t cluster = c.cluster_size;
        uint64_t per_l2 = cluster / (c.extended ? 16 : 8);
        uint64_t data = (c.size + cluster - 1) / cluster;
        uint64_t l2 = (data + per_l2 - 1) / per_l2;
        uint64_t l1 = (l2 * 8 + cluster - 1) / cluster;
        uint64_t crypt = (qcow2_crypt_header_bytes(c.crypt) + cluster - 1) /
                         cluster;

        if (c.size > INT64_MAX - cluster || l2 > QCOW2_L1_BYTES_MAX / 8) {
            r = err_set(err, EFBIG,
                        "The image size is too large (try using a "
                        "larger cluster size)");
        }
        uint64_t counted = 1 + l1 + l2 + data + crypt;
        uint64_t counts = refcount_clusters(&c, counted);
        uint64_t others = (ret->others + cluster - 1) / cluster;
        uint64_t more = refcount_clusters(&c, counted + others) - counts;

        *ret = (struct image_measure) {
            .size = data * cluster,
            .metadata = (1 + l1 + l2 + crypt + counts) * cluster,
            .others = (others + more) * cluster,
            .cluster_size = cluster,
            .no_bitmaps = c.version < 3,
            /* How much of a backing chain is shared is not known here; and
             * what is preallocated makes the file as long as all of it. */
            .all = c.backing_file || c.preallocation != QCOW2_PREALLOC_OFF,
        };
    }
    qcow2_create_clear(&c);
    return r;
}
