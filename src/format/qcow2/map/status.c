/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an image holds, told from memory: an L1 entry without a table answers
 * for all it spans, runs of one kind are joined over slices that are cached.
 */
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"

/* In a data file, which may be shorter than the disk: the rest is zeroes. */
static void cut_at_data_end(const struct qcow2_image *img, struct mapping *m)
{
    uint64_t end = qcow2_data(img)->size;

    if (m->host >= end) {
        m->kind = MAP_ZERO;
    } else {
        m->len = min_u64(m->len, end - m->host);
    }
}

static void map_of_run(struct qcow2_image *img, const struct qcow2_run *run,
                       unsigned flags, struct mapping *m)
{
    m->len = run->len;
    m->kind = run->kind == QCOW2_ABSENT ? MAP_ABSENT
              : run->kind == QCOW2_ZERO ? MAP_ZERO
                                        : MAP_DATA;
    if (run->kind == QCOW2_RUN_COMPRESSED) {
        m->info = run->entry;
        return;
    }
    m->host = run->host;
    /* Encrypted bytes are in the file, but not these. */
    if (m->kind == MAP_ABSENT || !(run->host || run->in_place) || img->crypt ||
        !qcow2_data(img)) {
        return;
    }
    m->child = qcow2_data(img);
    m->in_place = run->kind == QCOW2_DATA && run->in_place;
    if (img->shape.data_file && m->kind == MAP_DATA && !(flags & MAP_WRITE)) {
        cut_at_data_end(img, m);
    }
}

/* May this write go in place? What the checks of the tables forbid is refused,
 * and nothing is written past the end of a data file's disk. */
static CO_FN int qcow2_place_co_check(struct qcow2_image *img,
                                      struct mapping *m)
{
    if (!m->in_place) {
        return 0;
    }
    if (img->shape.data_file && m->host + m->len > img->data_end) {
        m->in_place = false; /* the write path knows what to leave out */
        return 0;
    }
    return qcow2_co_check_overlap(img, QCOW2_META_DATA, m->host, m->len);
}

int qcow2_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
                 struct mapping *ret_map)
{
    struct qcow2_image *img = qcow2_image(n);
    struct qcow2_run run;
    int ret = 0;

    if (flags & MAP_WRITE) {
        ret = img->corrupt ? -EIO : qcow2_co_bitmaps_mark(img, off, len);
    }
    if (ret < 0) {
        return ret;
    }
    /* The table that is read may be moved and its old cluster freed; the same
     * is true of the cluster that it points to. */
    ret_map->cookie = qcow2_access_begin(img);
    ret = qcow2_co_lookup(img, off, len, &run);
    if (ret == 0) {
        map_of_run(img, &run, flags, ret_map);
        ret = flags & MAP_WRITE ? qcow2_place_co_check(img, ret_map) : 0;
    }
    if (ret < 0) {
        qcow2_access_end(img, ret_map->cookie);
    }
    return ret;
}

void qcow2_map_end(struct node *n, const struct mapping *m)
{
    qcow2_access_end(qcow2_image(n), m->cookie);
}
