/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Zeroes and discards, whole clusters.
 *
 * The zero marker of this format is a bit over zeroes, or a hole, in the data
 * file: a cluster that is zeroed or trimmed keeps its bit or gets one, and the
 * backing file never shows again (G8).
 */
#include "format/cow/overlay.h"
#include "graph/track.h"

/* A run's share of a group: a million of them close it. */
#define RUN_COST 64

/* Clusters that are not here: zeroes in the data file, which may hold bytes
 * that never got their bits, and then the bits. */
static CO_FN int run_co_zero(struct overlay *o, uint64_t off, uint64_t len,
                             unsigned flags)
{
    uint64_t first = off >> o->cluster_bits;
    uint64_t n = ((off + len - 1) >> o->cluster_bits) - first + 1;
    uint64_t gen;
    int ret;

    if (pending_count(&o->pending) >= OVERLAY_PENDING_MAX) {
        ret = group_co_flush(o->group);
        if (ret < 0) {
            return ret;
        }
    }
    gen = group_join(o->group, RUN_COST);
    ret = node_co_zero(cow_data(o), off, len, flags | IO_MAY_UNMAP);
    if (ret == 0) {
        cow_pending_add(o, gen, first, n);
    }
    group_data_done(o->group, gen);
    return ret;
}

static CO_FN int cow_clusters_co_zero(struct overlay *o, uint64_t off,
                                      uint64_t len, unsigned flags,
                                      bool discard)
{
    bool covered = node_child(o->node, "backing") || o->hdr.backing[0];
    uint64_t end = off + len, part = 0;
    int ret = 0;

    while (off < end && ret == 0) {
        bool here = false;

        ret = cow_co_lookup(o, off, end - off, &here, &part);
        if (ret < 0) {
            break;
        }
        if (here && discard) {
            ret = node_co_discard(cow_data(o), off, part);
        } else if (here) {
            ret = node_co_zero(cow_data(o), off, part, flags);
        } else if (!discard || covered) {
            ret = run_co_zero(o, off, part, flags);
        }
        off += part;
    }
    return ret;
}

int cow_co_zero_missing(struct overlay *o, uint64_t off, uint64_t len)
{
    uint64_t end = off + len, part = 0;
    struct tracked t;
    int ret = 0;

    track_co_begin(&t, o->node, off, len, TRACK_ALLOC);
    while (off < end && ret == 0) {
        bool here = false;

        ret = cow_co_lookup(o, off, end - off, &here, &part);
        if (ret == 0 && !here) {
            ret = run_co_zero(o, off, part, 0);
        }
        off += part;
    }
    track_end(&t);
    return ret;
}

static bool cow_is_whole(const struct node *n, uint64_t off, uint64_t len)
{
    uint64_t mask = cow_cluster(cow_of(n)) - 1;

    return !(off & mask) && (!((off + len) & mask) || off + len == n->size);
}

int cow_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return cow_is_whole(n, off, len)
               ? cow_clusters_co_zero(cow_of(n), off, len,
                                      flags & (IO_MAY_UNMAP | IO_FAST), false)
               : -ENOTSUP;
}

int cow_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    return cow_is_whole(n, off, len)
               ? cow_clusters_co_zero(cow_of(n), off, len, 0, true)
               : -ENOTSUP;
}
