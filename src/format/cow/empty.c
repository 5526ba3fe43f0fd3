/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Emptying an overlay, as commit does after it has merged the overlay down: the
 * bits are cleared durably, and only then is the data removed.  Bits are
 * cleared at no other time.  If a crash leaves some of them set, the base
 * already holds the same bytes.
 */
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "format/cow/overlay.h"

static CO_FN int maps_co_clear(struct overlay *o)
{
    struct node *file = cow_file(o);
    int ret = node_co_zero(file, COW_SUMMARY_AT, o->summary_bytes,
                           IO_MAY_UNMAP);

    if (ret == 0) {
        ret = node_co_zero(file, COW_MAP_AT, o->n_groups * COW_BLOCK_BYTES,
                           IO_MAY_UNMAP);
    }
    if (ret == 0) {
        ret = BARRIER(OVERLAY_EMPTY, node_co_sync(o->node, file));
    }
    if (ret < 0) { /* the bits may be gone from the file, those here are not */
        node_fail(o->node);
    }
    if (ret == 0) {
        memset(o->summary, 0, o->summary_bytes);
        metadata_cache_clear(&o->blocks);
    }
    return ret;
}

int cow_co_make_empty(struct node *n, GError **err)
{
    struct overlay *o = cow_of(n);
    int ret;

    if (!o->group || o->complete) {
        return err_set(err, EPERM,
                       o->complete ? "The overlay is complete and "
                                     "cannot be emptied"
                                   : "Block node is read-only");
    }
    ret = cow_co_forget_base(n, err);
    if (ret < 0) {
        return ret;
    }
    ret = cow_co_flush(n);
    if (ret == 0) {
        group_co_lock(o->group);
        ret = maps_co_clear(o);
        group_unlock(o->group);
    }
    if (ret == 0 && n->size > 0) {
        ret = node_co_zero(cow_data(o), 0, n->size, IO_MAY_UNMAP);
    }
    return ret == 0 ? 0
                    : err_set_errno(err, -ret, "Could not empty the overlay");
}
