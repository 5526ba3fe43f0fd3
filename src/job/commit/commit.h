/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * block-commit: merge images of a chain down into one below them, while guests
 * use the disk.
 *
 *   commit.c        the job on images that no guest writes to
 *   commit-chain.c  the part of the chain that it works on: hold, copy, pivot
 *
 * Both stand on job/copy/ (the engine, and one chunk), job/hold.h (blockers,
 * backends) and job/pivot.h (header and backing edge).
 *
 * At every point the disk reads as before: what is written to the base is what
 * the images above it show at that place, and they hide it (C1).  The base
 * grows first (C4), is flushed when all is there, and only then the image above
 * the ones that go is led past them.
 */
#pragma once
#include <glib.h>
#include "base/annot.h"
#include "job/job.h"

struct commit_params {
    struct job_params job;
    struct node *node;            /* the active layer; may be a filter */
    struct node *top;             /* the highest image that goes */
    struct node *base;            /* what it is merged into */
    const char *backing_file;     /* string for the header, or NULL */
    const char *filter_node_name; /* or NULL */
    enum on_error on_error;
};
/* Start the job: @top is below the active layer. Errors and texts: those of
 * block-commit in QEMU 7.2. Context: coroutine on the graph's loop. */
CO_FN int commit_co_start(struct jobs *js, const struct commit_params *p,
                          struct job **ret_job, GError **err);
