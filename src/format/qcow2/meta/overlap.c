/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * No write hits another structure.
 *
 * Every cluster that holds metadata of a writable image is known by its kind. A
 * write of something else to it is a defect of the image (a refcount that is
 * too low, two pointers to one cluster) or of ours: it is refused, and the
 * image is marked, before it destroys anything.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/snapshot/snapshot.h"

/* L2 tables that are remembered, and clusters of the L1 tables of snapshots: no
 * valid image has more than that, and the rest is not looked at. */
#define TABLES_MAX (1u << 20)

static const char *const meta_names[] = {
    [QCOW2_META_HEADER] = "qcow2_header",
    [QCOW2_META_L1] = "active L1 table",
    [QCOW2_META_L2] = "active L2 table",
    [QCOW2_META_REFTABLE] = "refcount table",
    [QCOW2_META_REFBLOCK] = "refcount block",
    [QCOW2_META_SNAPSHOTS] = "snapshot table",
    [QCOW2_META_SNAPSHOT_L1] = "inactive L1 table",
    [QCOW2_META_BITMAPS] = "bitmap directory",
    [QCOW2_META_CRYPT] = "encryption header",
    [QCOW2_META_DATA] = "data",
};

static uint64_t cluster_end(const struct qcow2_image *img, uint64_t host,
                            uint64_t len)
{
    return len ? ((host + len - 1) >> img->cluster_bits) + 1
               : host >> img->cluster_bits;
}

void qcow2_meta_add(struct qcow2_image *img, enum qcow2_meta what,
                    uint64_t host, uint64_t len)
{
    uint64_t end = cluster_end(img, host, len);

    if (!img->meta) {
        return;
    }
    for (uint64_t i = host >> img->cluster_bits; i < end; i++) {
        g_hash_table_insert(img->meta, GSIZE_TO_POINTER(i),
                            GUINT_TO_POINTER((guint)what + 1));
    }
}

void qcow2_meta_remove(struct qcow2_image *img, uint64_t host, uint64_t len)
{
    uint64_t end = cluster_end(img, host, len);

    if (!img->meta) {
        return;
    }
    for (uint64_t i = host >> img->cluster_bits; i < end; i++) {
        g_hash_table_remove(img->meta, GSIZE_TO_POINTER(i));
    }
}

bool qcow2_meta_is_at(const struct qcow2_image *img, uint64_t host)
{
    return img->meta &&
           g_hash_table_contains(img->meta,
                                 GSIZE_TO_POINTER(host >> img->cluster_bits));
}

static void add_snapshots(struct qcow2_image *img)
{
    uint64_t clusters = 0;

    if (img->snapshots->damage) {
        return; /* what a check may find there is something else */
    }
    if (img->hdr.n_snapshots) {
        qcow2_meta_add(img, QCOW2_META_SNAPSHOTS, img->hdr.snapshots_offset,
                       qcow2_snapshots_bytes(img));
    }
    for (unsigned i = 0; i < qcow2_n_snapshots(img); i++) {
        const struct qcow2_snapshot *s = qcow2_snapshot_at(img, i);
        uint64_t len = (uint64_t)s->l1_size * 8;

        clusters += cluster_end(img, 0, len);
        if (clusters > TABLES_MAX) {
            break;
        }
        qcow2_meta_add(img, QCOW2_META_SNAPSHOT_L1, s->l1_offset, len);
    }
}

void qcow2_overlap_open(struct qcow2_image *img, const uint64_t *reftable,
                        uint32_t n)
{
    uint64_t cluster = qcow2_cluster_size(img), host, len;

    img->meta = g_hash_table_new(g_direct_hash, g_direct_equal);
    for (uint32_t i = 0; i < img->hdr.l1_size && i < TABLES_MAX; i++) {
        host = get_be64(&img->l1[i]) & QCOW2_OFFSET_MASK;
        if (host) {
            qcow2_meta_add(img, QCOW2_META_L2, host, cluster);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        if (reftable[i]) {
            qcow2_meta_add(img, QCOW2_META_REFBLOCK, reftable[i], cluster);
        }
    }
    add_snapshots(img);
    qcow2_crypt_range(img, &host, &len);
    qcow2_meta_add(img, QCOW2_META_CRYPT, host, len);
    qcow2_bitmaps_range(img, &host, &len);
    qcow2_meta_add(img, QCOW2_META_BITMAPS, host, len);
    qcow2_meta_add(img, QCOW2_META_REFTABLE, img->hdr.reftable_offset,
                   (uint64_t)img->hdr.reftable_clusters * cluster);
    qcow2_meta_add(img, QCOW2_META_L1, img->hdr.l1_offset,
                   (uint64_t)img->hdr.l1_size * 8);
    qcow2_meta_add(img, QCOW2_META_HEADER, 0, cluster);
}

void qcow2_overlap_close(struct qcow2_image *img)
{
    g_clear_pointer(&img->meta, g_hash_table_destroy);
}

int qcow2_co_check_overlap(struct qcow2_image *img, enum qcow2_meta what,
                           uint64_t host, uint64_t len)
{
    uint64_t end = cluster_end(img, host, len);

    if (!img->meta || (what == QCOW2_META_DATA && img->shape.data_file)) {
        return 0;
    }
    for (uint64_t i = host >> img->cluster_bits; i < end; i++) {
        guint kind = GPOINTER_TO_UINT(
            g_hash_table_lookup(img->meta, GSIZE_TO_POINTER(i)));

        if (kind != 0 && kind != (guint)what + 1) {
            return qcow2_co_corrupt(img, host,
                                    "Preventing invalid write on "
                                    "metadata (%s at %" PRIu64 "+%" PRIu64
                                    " overlaps with %s); image marked as "
                                    "corrupt",
                                    meta_names[what], host, len,
                                    meta_names[kind - 1]);
        }
    }
    return 0;
}

int qcow2_co_check_free(struct qcow2_image *img, uint64_t host, uint64_t len)
{
    uint64_t end = cluster_end(img, host, len);

    for (uint64_t i = host >> img->cluster_bits; i < end && img->meta; i++) {
        guint kind = GPOINTER_TO_UINT(
            g_hash_table_lookup(img->meta, GSIZE_TO_POINTER(i)));

        if (kind != 0) {
            return qcow2_co_corrupt(img, i << img->cluster_bits,
                                    "Preventing "
                                    "invalid allocation of a cluster that "
                                    "holds metadata (%s); image marked as "
                                    "corrupt",
                                    meta_names[kind - 1]);
        }
    }
    return 0;
}

int qcow2_co_write_meta(struct qcow2_image *img, enum qcow2_meta what,
                        uint64_t host, const void *buf, uint64_t len)
{
    struct iovec v;
    int ret = qcow2_co_check_overlap(img, what, host, len);

    return ret < 0
               ? ret
               : node_co_pwritev(qcow2_file(img), host,
                                 iov_one(&v, (void *)(uintptr_t)buf, len), 0);
}
