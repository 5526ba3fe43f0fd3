/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growing the disk: the data file first, then one header slot.
 *
 * The new part reads as zeroes although a backing file may be longer than the
 * disk was: its clusters get their bits, durably, before the header grows.
 * Bits behind the end of the disk are those of a growth that was cut short; the
 * data file has nothing there.  A last cluster that a longer backing file would
 * show was allocated by the dispatcher.
 */
#include <inttypes.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/cow/overlay.h"

static int cow_size_validate(struct node *n, uint64_t size, GError **err)
{
    struct overlay *o = cow_of(n);

    if (!o->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    if (!o->complete && size < n->size) {
        return err_set(err, ENOTSUP, "Shrinking an overlay is not supported");
    }
    return o->complete ? 0 : cow_geometry_validate(cow_cluster(o), size, err);
}

/* Bits for what the backing file has from the old end on. */
static CO_FN int new_part_co_cover(struct overlay *o, uint64_t size)
{
    struct edge *e = node_child(o->node, "backing");
    uint64_t base = e ? e->child->size : 0;
    uint64_t from = round_up(o->node->size, cow_cluster(o));
    uint64_t to = min_u64(base, size), gen;

    if (from >= to) {
        return 0;
    }
    gen = group_join(o->group, cow_cluster(o));
    cow_pending_add(o, gen, from >> o->cluster_bits,
                    (round_up(to, cow_cluster(o)) - from) >> o->cluster_bits);
    group_data_done(o->group, gen);
    return 0;
}

static CO_FN int maps_co_grow(struct overlay *o, const struct cow_header *h,
                              GError **err)
{
    int ret;

    group_co_lock(o->group);
    ret = node_co_truncate(cow_file(o), cow_file_bytes(h), err);
    if (ret == 0) {
        ret = cow_co_summary_load(o, cow_groups(h), err);
    }
    group_unlock(o->group);
    return ret;
}

static CO_FN int header_co_grow(struct overlay *o, uint64_t size)
{
    struct cow_header h;
    int ret;

    group_co_lock(o->group);
    h = o->hdr;
    h.size = size;
    ret = cow_co_header_write(o, &h);
    group_unlock(o->group);
    return ret;
}

int cow_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct overlay *o = cow_of(n);
    struct cow_header h = o->hdr;
    int ret = cow_size_validate(n, size, err);

    if (ret < 0 || size == n->size) {
        return ret;
    }
    /* As long as there is a header it says how large the disk is. */
    if (o->complete && !o->finished) {
        ret = cow_co_finish(o, err);
        if (ret < 0) {
            return ret;
        }
    }
    ret = node_co_truncate(cow_data(o), size, err);
    if (ret < 0 || o->complete) {
        n->size = ret < 0 ? n->size : size;
        return ret;
    }
    h.size = size;
    ret = maps_co_grow(o, &h, err);
    if (ret < 0) {
        return ret;
    }
    ret = new_part_co_cover(o, size);
    if (ret == 0) {
        ret = BARRIER(OVERLAY_CLEAR, cow_co_flush(n));
    }
    if (ret == 0) {
        ret = header_co_grow(o, size);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not resize the overlay");
    }
    n->size = size;
    return 0;
}
