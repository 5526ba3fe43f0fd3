/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image holds, told from memory: an L1 entry without a table answers
 * for all it spans, runs of one kind are joined over slices that are cached.
 */
#include "format/qcow2/qcow2.h"

int qcow2_co_status(struct node *n, uint64_t off, uint64_t len,
                    struct extent *ext)
{
    struct qcow2_image *img = qcow2_image(n);
    /* The table that is read may be moved, and its place set free. */
    uint64_t epoch = qcow2_access_begin(img);
    struct qcow2_run run;
    int ret = qcow2_co_lookup(img, off, len, &run);

    qcow2_access_end(img, epoch);
    if (ret < 0) {
        return ret;
    }
    *ext = (struct extent) { .len = run.len };
    if (run.kind == QCOW2_ABSENT) {
        return 0;
    }
    ext->flags = STATUS_ALLOCATED |
                 (run.kind == QCOW2_ZERO ? STATUS_ZERO : STATUS_DATA);
    /* Encrypted bytes are in the file, but not these. */
    if (run.kind != QCOW2_PACKED && (run.host || run.in_place) && !img->crypt &&
        qcow2_data(img)) {
        ext->flags |= STATUS_OFFSET_VALID;
        ext->map_offset = run.host;
        ext->map_node = qcow2_data(img);
    }
    return 0;
}
