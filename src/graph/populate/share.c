/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters that the overlay's file can share with the base's are not read at
 * all.  Nothing slow happens under the range: status comes from memory or from
 * local files.
 */
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/io/read-below.h"
#include "graph/populate/copy-offload.h"
#include "graph/populate/populate-int.h"
#include "graph/trace.h"
#include "graph/track.h"

/* Take over what can be had of [@pos, @end), which the overlay lacks; the range
 * is held. *@ret_len: how far this went, shared or not. */
static CO_FN int share_co_run(struct populate_work *w, uint64_t pos,
                              uint64_t end, uint64_t *ret_len)
{
    struct host_range at;
    uint64_t len;
    int r = node_co_locate(node_backing(w->n), w->base, pos, end - pos, &at);

    if (r < 0) {
        return r;
    }
    len = copy_offload_whole(w->n, pos, &at);
    *ret_len = len;
    if (len == 0 || !node_can_copy_in(w->n, at.node)) {
        *ret_len = MIN(cluster_up(w, pos + at.len), end) - pos;
        return 0;
    }
    r = node_co_copy_in(w->n, pos, at.node, at.off, len,
                        w->io_flags | IO_POPULATE);
    if (r == 0) {
        w->res.copied += len;
        /* The first attempt may have shown that nothing can be shared here:
         * then the bytes were copied. */
        w->res.shared += node_can_copy_in(w->n, at.node) ? len : 0;
    }
    return r;
}

void populate_co_share(struct populate_work *w)
{
    uint64_t pos = w->off, left = 0;
    struct tracked t;
    int r = 0;

    track_co_begin(&t, w->n, w->off, w->end - w->off, TRACK_ALLOC);
    while (pos < w->end && r == 0) {
        struct mapping m;

        r = node_co_map(w->n, pos, w->end - pos, &m);
        if (r == 0 && m.kind == MAP_ABSENT) {
            uint64_t copied = w->res.copied;

            r = share_co_run(w, pos, pos + m.len, &m.len);
            left += copied == w->res.copied;
        }
        pos += m.len;
    }
    track_end(&t);
    trace_populate_share(w->n->name, w->off, w->end - w->off, w->res.shared, r);
    if (r == 0 && left == 0) {
        w->next = w->end;
    }
}

bool populate_co_may_share(struct populate_work *w)
{
    struct node *below = node_backing(w->n);
    struct host_range at;

    return below && w->n->drv->can_copy_in &&
           node_co_locate(below, w->base, w->off, w->cluster, &at) == 0 &&
           at.node && node_can_copy_in(w->n, at.node);
}
