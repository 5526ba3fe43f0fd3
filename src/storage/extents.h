/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server said about the content of its disk: sorted, disjoint runs.
 *
 * One reply describes gigabytes; kept here, walking a disk costs a handful of
 * round trips.  Our own writes turn runs into data (always
 * a safe answer).  A reply that was on its way during a write is not kept: the
 * generation counts writes.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct extents_run {
    uint64_t start, end;
    bool zero; /* reads as zeroes; else: unknown or data */
};

struct extents {
    GArray *runs; /* struct extents_run, sorted; NULL: none */
    uint64_t generation;
};

void extents_init(struct extents *x);
void extents_clear(struct extents *x);
/* The run that holds @off, or NULL. Valid until the next call. */
const struct extents_run *extents_find(const struct extents *x, uint64_t off);
/* Replace what is known of [@start, @end). Memory is bounded: when there are
 * too many runs, all are forgotten first. */
void extents_set(struct extents *x, uint64_t start, uint64_t end, bool zero);
void extents_forget(struct extents *x);
/* [@off, @off+@len) is being written. Call before and after. */
void extents_wrote(struct extents *x, uint64_t off, uint64_t len);
