/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server said about the content of an export: sorted, disjoint runs.
 *
 * One block-status reply describes gigabytes; kept here, walking an export
 * costs a handful of round trips.  Our own writes turn runs into data (always
 * a safe answer).  A reply that was on its way during a write is not kept: the
 * generation counts writes.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct nbd_run {
    uint64_t start, end;
    bool zero; /* reads as zeroes; else: unknown or data */
};

struct nbd_extents {
    GArray *runs; /* struct nbd_run, sorted; NULL: none */
    uint64_t generation;
};

void nbd_extents_init(struct nbd_extents *x);
void nbd_extents_clear(struct nbd_extents *x);
/* The run that holds @off, or NULL. Valid until the next call. */
const struct nbd_run *nbd_extents_find(const struct nbd_extents *x,
                                       uint64_t off);
/* Replace what is known of [@start, @end). Memory is bounded: when there are
 * too many runs, all are forgotten first. */
void nbd_extents_set(struct nbd_extents *x, uint64_t start, uint64_t end,
                     bool zero);
void nbd_extents_forget(struct nbd_extents *x);
/* [@off, @off+@len) is being written. Call before and after. */
void nbd_extents_wrote(struct nbd_extents *x, uint64_t off, uint64_t len);
