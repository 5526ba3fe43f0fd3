/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image holds, told from memory: an L1 entry without a table answers
 * for all it spans, runs of one kind are joined over tables that are cached.
 */
#include "format/qed/qed.h"

int qed_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
               struct mapping *ret_map)
{
    struct qed_image *img = qed_image(n);
    struct qed_run run;
    int ret = qed_co_lookup(img, off, len, &run);

    if (ret < 0) {
        return ret;
    }
    *ret_map = (struct mapping) {
        .kind = run.kind == QED_ABSENT ? MAP_ABSENT
                : run.kind == QED_ZERO ? MAP_ZERO
                                       : MAP_DATA,
        .len = run.len,
    };
    if (run.kind == QED_DATA) { /* clusters never move */
        ret_map->child = qed_file(img);
        ret_map->host = run.host;
        /* What makes the file longer is noted by our own write. */
        ret_map->in_place = run.host + run.len <= img->file_end;
    }
    return 0;
}

int qed_co_info(struct node *n, json_t *info, GError **err)
{
    const struct qed_image *img = qed_image(n);

    json_object_set_new(info, "cluster-size",
                        json_integer((json_int_t)qed_cluster_size(img)));
    json_object_set_new(info, "dirty-flag",
                        json_boolean(img->hdr.features & QED_F_NEED_CHECK));
    return 0;
}
