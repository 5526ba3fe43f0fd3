/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Points of interest in the way of a request, for filters that inject faults
 * ("blkdebug").  Whoever is about to do the thing that an event names says so
 * to the node it is about to do it on; the first filter at or below that node,
 * with nothing but filters and raw between, hears it and may let the caller
 * wait.  (The "pwritev" events are of the node that is written to and nobody
 * below.)  An event is a yield point, but costs one branch while no such filter
 * is in the graph.
 *
 * The table of events is that of QEMU, so that configurations written for it
 * are understood; events of formats that this program does not have are
 * accepted and never happen.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"

#define DEBUG_EVENTS(X) \
    X(L1_UPDATE, "l1_update") \
    X(L1_GROW_ALLOC_TABLE, "l1_grow_alloc_table") \
    X(L1_GROW_WRITE_TABLE, "l1_grow_write_table") \
    X(L1_GROW_ACTIVATE_TABLE, "l1_grow_activate_table") \
    X(L2_LOAD, "l2_load") \
    X(L2_UPDATE, "l2_update") \
    X(L2_UPDATE_COMPRESSED, "l2_update_compressed") \
    X(L2_ALLOC_COW_READ, "l2_alloc_cow_read") \
    X(L2_ALLOC_WRITE, "l2_alloc_write") \
    X(READ_AIO, "read_aio") \
    X(READ_BACKING_AIO, "read_backing_aio") \
    X(READ_COMPRESSED, "read_compressed") \
    X(WRITE_AIO, "write_aio") \
    X(WRITE_COMPRESSED, "write_compressed") \
    X(VMSTATE_LOAD, "vmstate_load") \
    X(VMSTATE_SAVE, "vmstate_save") \
    X(COW_READ, "cow_read") \
    X(COW_WRITE, "cow_write") \
    X(REFTABLE_LOAD, "reftable_load") \
    X(REFTABLE_GROW, "reftable_grow") \
    X(REFTABLE_UPDATE, "reftable_update") \
    X(REFBLOCK_LOAD, "refblock_load") \
    X(REFBLOCK_UPDATE, "refblock_update") \
    X(REFBLOCK_UPDATE_PART, "refblock_update_part") \
    X(REFBLOCK_ALLOC, "refblock_alloc") \
    X(REFBLOCK_ALLOC_HOOKUP, "refblock_alloc_hookup") \
    X(REFBLOCK_ALLOC_WRITE, "refblock_alloc_write") \
    X(REFBLOCK_ALLOC_WRITE_BLOCKS, "refblock_alloc_write_blocks") \
    X(REFBLOCK_ALLOC_WRITE_TABLE, "refblock_alloc_write_table") \
    X(REFBLOCK_ALLOC_SWITCH_TABLE, "refblock_alloc_switch_table") \
    X(CLUSTER_ALLOC, "cluster_alloc") \
    X(CLUSTER_ALLOC_BYTES, "cluster_alloc_bytes") \
    X(CLUSTER_ALLOC_SPACE, "cluster_alloc_space") \
    X(CLUSTER_FREE, "cluster_free") \
    X(FLUSH_TO_OS, "flush_to_os") \
    X(FLUSH_TO_DISK, "flush_to_disk") \
    X(PWRITEV_RMW_HEAD, "pwritev_rmw_head") \
    X(PWRITEV_RMW_AFTER_HEAD, "pwritev_rmw_after_head") \
    X(PWRITEV_RMW_TAIL, "pwritev_rmw_tail") \
    X(PWRITEV_RMW_AFTER_TAIL, "pwritev_rmw_after_tail") \
    X(PWRITEV, "pwritev") \
    X(PWRITEV_ZERO, "pwritev_zero") \
    X(PWRITEV_DONE, "pwritev_done") \
    X(EMPTY_IMAGE_PREPARE, "empty_image_prepare") \
    X(L1_SHRINK_WRITE_TABLE, "l1_shrink_write_table") \
    X(L1_SHRINK_FREE_L2_CLUSTERS, "l1_shrink_free_l2_clusters") \
    X(COR_WRITE, "cor_write") \
    X(NONE, "none") /* never happens: rules that hold from the start */

enum debug_event {
#define DEBUG_EVENT_ENUM(id, name) DEBUG_##id,
    DEBUG_EVENTS(DEBUG_EVENT_ENUM)
#undef DEBUG_EVENT_ENUM
        DEBUG_EVENT_COUNT
};

/* By enum debug_event, NULL-terminated. */
extern const char *const debug_event_names[];

CO_FN void node_co_debug_event_slow(struct node *n, enum debug_event ev);

/* --- breakpoints, at the first filter from @n down that has them --- */

/* All: -ENOTSUP when there is no such filter. */
/* Hold one request at @event under the name @tag. -ENOENT: no such event. */
int node_debug_break(struct node *n, const char *event, const char *tag);
/* Let one request go on. -ENOENT: none is held under @tag. */
int node_debug_resume(struct node *n, const char *tag);
/* Remove the breakpoints called @tag and let their requests go on. -ENOENT:
 * there were neither. */
int node_debug_remove_break(struct node *n, const char *tag);
/* Is a request held under @tag? False without a filter. */
bool node_debug_is_suspended(struct node *n, const char *tag);
/* Remove all breakpoints of all filters, let everything go on: the end. */
void graph_debug_release(struct graph *g);
