/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy before write: what a disk was at one point in time, while guests go on
 * writing to it.
 *
 * The disk is cut into clusters.  Before a guest changes one that is still to be
 * copied, its old bytes go to the target, and the guest waits for that: for a
 * given time at most.  A backup copies the rest meanwhile; fleecing reads each
 * cluster from wherever its old bytes are (B1, B2).
 *
 * Under the filters "copy-before-write" and "snapshot-access" and under the job
 * "backup".  Reference counted: what waits for a target that does not answer
 * goes on by itself, and holds the nodes until it is over.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/dirty-map.h"
#include "base/iov.h"

struct before;
struct copy_result;
struct extent;
struct node;

/* All of @disk is to be copied. It is not written to but through
 * before_co_change(). NULL with @err: more clusters than can be counted. */
struct before *before_new(struct node *disk, struct node *target,
                          uint32_t min_cluster, GError **err);
struct before *before_ref(struct before *b);
CO_FN void before_co_unref(struct before *b);

/* --- set before the first request --- */

/* Only what is marked in @map, of the same size, is copied, and can be read. */
void before_set_only(struct before *b, const struct dirty_map *map);
/* Only what the top image of the disk holds is copied. */
void before_set_top_only(struct before *b);
/* What is wrong with the copy is wrong with it alone: guests go on, and who
 * reads it gets errors. Else the guest's write fails, and the copy is good. */
void before_set_break_snapshot(struct before *b, bool on);
/* How long a guest waits for a copy; 0: for ever. */
void before_set_timeout(struct before *b, uint64_t ns);
/* Flags of writes to the target: enum io_flags. */
void before_set_write_flags(struct before *b, unsigned flags);

/* --- requests --- */

/* A guest is about to change [@off, @off+@len). 0: it may. */
CO_FN int before_co_change(struct before *b, uint64_t off, uint64_t len);
/* Copy what of it is still to be copied; whole clusters. The caller has entered
 * a backend of the disk. *@res is zeroed. */
CO_FN int before_co_copy(struct before *b, uint64_t off, uint64_t len,
                         struct copy_result *res);
/* What the disk was. -EACCES: not of what can be read, or the copy is no good
 * any more. */
CO_FN int before_co_read(struct before *b, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int before_co_status(struct before *b, uint64_t off, uint64_t len,
                           struct extent *ret_ext);
/* Whoever reads the copy does not need this any more. */
CO_FN int before_co_discard(struct before *b, uint64_t off, uint64_t len);

/* --- looking; no yield --- */

uint32_t before_cluster(const struct before *b);
/* What is still to be copied. Borrowed. */
const struct dirty_map *before_todo(const struct before *b);
/* 0, or why the copy is no good any more. */
int before_error(const struct before *b);
/* The copying that filter @n, a "copy-before-write", does; borrowed. NULL:
 * another kind of node. */
struct before *node_before(const struct node *n);
