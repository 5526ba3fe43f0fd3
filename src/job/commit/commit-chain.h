/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of a chain that a commit works on:
 *
 *   overlay -> [filter] -> top -> ... -> bottom -> base
 *
 * Everything from the overlay down to the base is blocked and its links are
 * frozen.  The base is written to although images stand on it: their links to
 * it let that happen while it is held, and so do the links in between, whose
 * images nobody else may read meanwhile.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"
#include "graph/transfer.h"
#include "job/hold.h"

struct commit_chain {
    struct node *overlay;             /* its backing link leads to @top */
    struct node *top, *bottom, *base; /* no filters */
    struct node *filter;              /* "commit_top"; owned */
    struct job_hold hold;
    struct backend *top_backend, *base_backend; /* of @hold */
    struct transfer transfer;                   /* from @top to @base */
    bool ending; /* requests that were let go are not repeated */
    bool frozen;
    bool overlay_made_writable, base_made_writable;
};

/* Take hold of it. On failure nothing is held. @by: "commit job 'j'". */
CO_FN int commit_chain_co_hold(struct commit_chain *c, struct node *overlay,
                               struct node *top, struct node *base,
                               const char *filter_node_name, const char *by,
                               GError **err);
/* Let go of everything; fine on one that holds nothing. */
CO_FN void commit_chain_co_release(struct commit_chain *c);
/* C4: the base is at least as large as @top, durably. */
CO_FN int commit_chain_co_grow(struct commit_chain *c, GError **err);
/* C6: how much of the base changes. Where the overlay is larger than @top it
 * shows zeroes behind @top's end, whatever a larger base holds there; once its
 * backing link leads to the base, that is what the base must hold. */
uint64_t commit_chain_len(const struct commit_chain *c);
/* For copy_ops.co_scan, up to commit_chain_len(): is it in an image that goes,
 * or behind its end? */
CO_FN int commit_chain_co_scan(struct commit_chain *c, uint64_t off,
                               uint64_t max, bool *ret_need, bool *ret_zero,
                               uint64_t *ret_len);
/* For copy_ops.co_copy. */
CO_FN int commit_chain_co_copy(struct commit_chain *c, uint64_t off,
                               uint64_t len, bool zero,
                               struct copy_result *res);
/* Whatever waits for storage that does not answer fails. No yield. */
void commit_chain_let_go(struct commit_chain *c);
/* C1: flush the base, then lead the overlay past the images that go. On failure
 * the old chain stands. */
CO_FN int commit_chain_co_pivot(struct commit_chain *c,
                                const char *backing_file, GError **err);
