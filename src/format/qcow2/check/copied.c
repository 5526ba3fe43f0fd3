/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The check of COPIED: it stands in the active tables where the refcount is 1,
 * and nowhere else.
 *
 * Repairing leaks makes refcounts of shared clusters 1, so it sets COPIED, too,
 * when all else is well: then the refcounts are known to be right.
 */
#include <inttypes.h>
#include "base/endian.h"
#include "format/qcow2/check/check.h"
#include "format/qcow2/meta/meta.h"

/* What COPIED says of @host, if it is wrong. */
static CO_FN int copied_co_is_wrong(struct qcow2_check *c, uint64_t host,
                                    bool copied, uint64_t *ret_count)
{
    int ret = 0;

    if (c->rebuild) { /* the blocks are not what they will be */
        *ret_count = qcow2_counts_get(c->counts, host >> c->img->cluster_bits);
    } else {
        ret = qcow2_co_refcount_get(c->img, host, ret_count);
    }
    return ret < 0 ? ret : copied != (*ret_count == 1);
}

static CO_FN int table_co_check_copied(struct qcow2_check *c, uint32_t l1_idx,
                                       uint64_t host)
{
    const struct qcow2_shape *s = &c->img->shape;
    struct qcow2_table_at t = { .l1_idx = l1_idx,
                                .host = host,
                                .active = true };
    int ret = qcow2_co_check_table_is_hole(c, host)
                  ? 1
                  : qcow2_co_check_table_read(c, host);

    if (ret != 0) {
        return ret == 1 ? 0 : ret;
    }
    c->hold = qcow2_check_is_other(c, host, 1);
    for (uint32_t i = 0; i >> c->img->l2_bits == 0 && ret == 0; i++) {
        struct qcow2_desc d = qcow2_desc_get(s, c->table, i);
        uint64_t count;

        if ((d.entry & QCOW2_COMPRESSED) || s->data_file ||
            !qcow2_desc_has_host(s, d) ||
            !qcow2_check_has_place(c->img, d, 0)) {
            continue;
        }
        ret = copied_co_is_wrong(c, d.entry & QCOW2_OFFSET_MASK,
                                 d.entry & QCOW2_COPIED, &count);
        if (ret == 1) {
            ret = 0;
            if (qcow2_check_bad(c,
                                "OFLAG_COPIED data cluster: l2_entry=%" PRIx64
                                " refcount=%" PRIu64,
                                d.entry, count)) {
                d.entry ^= QCOW2_COPIED;
                qcow2_check_desc_set(c, &t, i, d);
            }
        }
    }
    c->hold = false;
    return ret < 0 ? ret : qcow2_co_check_table_store(c, &t);
}

static CO_FN int l1_co_check_copied(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    bool hold = qcow2_check_is_other(c, img->hdr.l1_offset,
                                     (uint64_t)img->hdr.l1_size * 8);
    bool changed = false;
    int ret = 0;

    for (uint32_t i = 0; i < img->hdr.l1_size && ret == 0; i++) {
        uint64_t entry = get_be64(&img->l1[i]), count;
        uint64_t host = entry & QCOW2_OFFSET_MASK;

        if (host == 0 || host & (qcow2_cluster_size(img) - 1) ||
            host >> img->cluster_bits >= c->file_clusters) {
            continue;
        }
        ret = copied_co_is_wrong(c, host, entry & QCOW2_COPIED, &count);
        if (ret == 1) {
            ret = 0;
            c->hold = hold;
            if (qcow2_check_bad(c,
                                "OFLAG_COPIED L2 cluster: l1_index=%" PRIu32
                                " l1_entry=%" PRIx64 " refcount=%" PRIu64,
                                i, entry, count)) {
                put_be64(&img->l1[i], entry ^ QCOW2_COPIED);
                changed = true;
            }
        }
        c->hold = false;
        if (ret == 0) {
            ret = table_co_check_copied(c, i, host);
        }
    }
    return ret == 0 && changed
               ? qcow2_co_check_l1_store(c, QCOW2_META_L1, img->hdr.l1_offset,
                                         img->l1, img->hdr.l1_size)
               : ret;
}

int qcow2_co_check_copied(struct qcow2_check *c)
{
    const struct check_result *res = c->res;
    unsigned fix = c->fix;
    int ret;

    if (fix && !res->corruptions && !res->leaks && !res->check_errors) {
        c->fix |= CHECK_FIX_ERRORS;
    }
    ret = l1_co_check_copied(c);
    c->fix = fix;
    return ret;
}
