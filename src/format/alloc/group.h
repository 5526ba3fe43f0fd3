/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit groups: when the pointers of new clusters reach the disk.
 *
 * Data of an allocation is written first, at once, in parallel.  Its pointer
 * waits in memory (the driver's pending map, which serves reads) for the group
 * it joined.  Publishing a group:
 *
 *   1 close it; later allocations join the next
 *   2 wait for its data writes
 *   3 fdatasync          the data (and whole new tables) are durable  (M2)
 *   4 driver.co_publish  the pointers of that group, and no others, are written
 *   5 fdatasync          the mapping is durable
 *
 * A guest flush or FUA publishes now; otherwise 64 MiB or 1 s does (M9).  When
 * nothing is pending a flush is one fdatasync.  Concurrent flushes share one
 * pass that began after they were asked for.  A failed flush of the file is
 * sticky (G6); after a failed write of pointers the next pass writes them
 * again.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

/* What extents that are shared weigh against bytes that are written, when it is
 * asked how much work a crash would make somebody do again. */
#define GROUP_SHARED_WEIGHT 64

struct group;
struct loop;
struct node;

struct group_ops {
    /* Before step 3: anything that must be durable before the pointers, besides
     * data (NEED_CHECK, new tables). Every generation up to @gen is published
     * that is not yet: more than one after a failure for want of space. */
    CO_FN_PTR int (*co_before)(void *arg, uint64_t gen);
    /* Step 4. Must bear being called again for the same pointers. */
    CO_FN_PTR int (*co_publish)(void *arg, uint64_t gen);
    /* After step 5 succeeded (same for a flush with nothing pending). No
     * yield. */
    void (*published)(void *arg, uint64_t gen);
};
/* @file: what is flushed, for @node, which keeps the error; NULL: the "file" of
 * @node, also when that becomes another. @max_bytes,
 * @max_age_ns: 0 = defaults. */
struct group *group_new(struct loop *l, struct node *node, struct node *file,
                        const struct group_ops *ops, void *arg,
                        uint64_t max_bytes, uint64_t max_age_ns);
/* Nothing may be in flight; what is pending is lost unless it was published
 * before. NULL is fine. Context: coroutine; waits for a pass under way. */
CO_FN void group_co_free(struct group *g);

/* An allocating write begins: the generation its pointer belongs to. Every
 * join is followed by exactly one group_data_done(). */
uint64_t group_join(struct group *g, uint64_t bytes);
/* Its data is written (or failed: then the driver never made a pointer). */
void group_data_done(struct group *g, uint64_t gen);

/* Make everything written before the call durable, mapping included. */
CO_FN int group_co_flush(struct group *g);
/* Flush the file inside an operation of the driver; a failure is sticky. */
CO_FN int group_co_sync(struct group *g);
/* Start publishing now in the background if anything is pending. */
void group_kick(struct group *g);
/* Is anything waiting to be published? */
bool group_pending(const struct group *g);
/* 0, or -EIO after a flush has failed (node_failure()). A failure of an
 * operation of the driver is not kept: the pass fails, its pointers wait for
 * the next. */
int group_error(const struct group *g);
/* Wait for a pass under way and let none begin (header changes) / let them. Do
 * not flush in between. */
CO_FN void group_co_lock(struct group *g);
void group_unlock(struct group *g);
/* Stop / restart the age timer and wait for a publish under way (drain). */
CO_FN void group_co_quiesce(struct group *g);
void group_resume(struct group *g);
