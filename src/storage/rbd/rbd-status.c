/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of an image is a hole: its differences from nothing, asked for a window
 * at a time and kept (storage/extents.h).
 *
 * Where the image has an object map, the answer for all of it comes from there
 * and is told in whole objects; else the cluster looks at each object, which is
 * still far less than reading it.  The first is not used for images with a
 * parent or with stripes: librbd before Ceph 17 mistakes offsets there.
 */
#include <errno.h>
#include <rbd/features.h>

#include "storage/rbd/rbd-node.h"
#include "storage/trace.h"

/* Objects of 4 MiB: 256 GiB by the map, 4 GiB by looking. */
#define WINDOW_BY_MAP (UINT64_C(1) << 16)
#define WINDOW_BY_LOOKING (UINT64_C(1) << 10)
/* Runs of one answer; the rest of the window is asked for later. */
#define RUNS_MAX 65536u

struct question {
    struct rbd_image *image; /* referenced */
    uint64_t off, len;
    bool by_map;
    GArray *runs;  /* struct extents_run: data, in order */
    uint64_t told; /* up to here the answer holds */
};

static struct question *question_new(const struct rbd_state *s, uint64_t size,
                                     uint64_t off)
{
    struct rbd_image *im = s->image;
    struct question *q = g_new0(struct question, 1);
    uint64_t window, flags = 0;

    q->image = rbd_image_ref(im);
    q->by_map = (im->features & RBD_FEATURE_FAST_DIFF) && !im->has_parent &&
                !im->is_striped &&
                im->lib->rbd_get_flags(im->image, &flags) == 0 &&
                !(flags &
                  (RBD_FLAG_OBJECT_MAP_INVALID | RBD_FLAG_FAST_DIFF_INVALID));
    window = im->object_size * (q->by_map ? WINDOW_BY_MAP : WINDOW_BY_LOOKING);
    q->off = off / im->object_size * im->object_size;
    q->len = MIN(window, size - q->off);
    q->told = q->off;
    q->runs = g_array_new(FALSE, FALSE, sizeof(struct extents_run));
    return q;
}

static void question_free(void *arg)
{
    struct question *q = arg;

    g_array_unref(q->runs);
    rbd_image_unref(q->image);
    g_free(q);
}

static int question_add(uint64_t off, size_t len, int exists, void *arg)
{
    struct question *q = arg;
    struct extents_run run = { off, off + len, false };

    if (!exists || off < q->told || off + len > q->off + q->len) {
        return 0; /* holes are what is left over */
    }
    if (q->runs->len == RUNS_MAX) {
        return -E2BIG;
    }
    g_array_append_val(q->runs, run);
    q->told = run.end;
    return 0;
}

static int64_t question_ask(void *arg)
{
    struct question *q = arg;
    int r = q->image->lib->rbd_diff_iterate2(
        q->image->image, NULL, q->off, q->len, 1, q->by_map, question_add, q);

    if (r == -E2BIG) {
        return 0;
    }
    q->told = q->off + q->len;
    return r;
}

static void question_keep(const struct question *q, struct extents *x)
{
    uint64_t at = q->off;

    for (guint i = 0; i < q->runs->len; i++) {
        const struct extents_run *r = &g_array_index(q->runs,
                                                     struct extents_run, i);

        extents_set(x, at, r->start, true);
        extents_set(x, r->start, r->end, false);
        at = r->end;
    }
    extents_set(x, at, q->told, true);
}

/* 0 with what is known, or not, of what lies at @off. */
static CO_FN int status_co_ask(struct node *n, uint64_t off)
{
    struct rbd_state *s = n->state;
    struct question *q = question_new(s, n->size, off);
    uint64_t generation = s->extents.generation;
    bool abandoned;
    int64_t r = rbd_co_call(&s->waits, RBD_OP_READ, 0, question_ask,
                            question_free, q, &abandoned);

    if (abandoned) {
        return (int)r;
    }
    if (r < 0) {
        trace_rbd_io_error(n->filename, "status", off, 0, (int)r);
        s->no_status = true;
    } else if (generation == s->extents.generation) {
        question_keep(q, &s->extents);
    } /* else it may be older than what was written */
    question_free(q);
    return 0;
}

int rbd_status_co_map(struct node *n, uint64_t off, uint64_t len,
                      unsigned flags, struct mapping *ret_map)
{
    struct rbd_state *s = n->state;
    const struct extents_run *run = extents_find(&s->extents, off);
    int r = 0;

    if (!run && !s->no_status) {
        co_mutex_co_lock(&s->status_lock);
        if (!extents_find(&s->extents, off)) {
            r = status_co_ask(n, off);
        }
        co_mutex_unlock(&s->status_lock);
        run = extents_find(&s->extents, off);
    }
    if (r < 0) {
        return r;
    }
    if (run) {
        ret_map->kind = run->zero ? MAP_ZERO : MAP_DATA;
        ret_map->len = MIN(run->end - off, len);
    }
    return 0;
}
