/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mirror: a copy of a disk that follows what guests write to it, until it
 * takes the disk's place or is let go as a consistent copy.  block-commit of the
 * active layer is a mirror into an image of the disk's own chain.
 *
 *   mirror.c        the job: rounds, ready, complete, soft cancel
 *   mirror-copy.c   chunks, changes by guests, the dirty map
 *   mirror-graph.c  hold, filter, and the switch at the end
 *
 * They stand on job/copy/ (the engine, one chunk, dirty map, ranges), on
 * job/hold.h and on the filter "mirror_top", through which each change of a
 * guest passes (graph/watch.h).
 *
 * A change marks its granules as dirty when it has been made, before the guest
 * is answered; a chunk takes the marks away before it reads.  So what is not
 * marked is the same on both sides, but for changes under way (L1).
 *
 * With copy-mode write-blocking a change is made on both sides before it is
 * answered, and chunks and changes of the same place wait for each other (L2).
 * A job that was told to complete goes over to that, so that it ends however
 * fast guests write.
 *
 * The end: drain, copy what is still marked, flush the target, switch (C5).
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "job/job.h"

struct mirror_params {
    struct job_params job;
    bool is_commit;      /* into @target, which is an image below @node */
    struct node *node;   /* what is copied; filters above it stay */
    struct node *target; /* no filter */
    struct node *bottom; /* lowest image that is copied; NULL: all */
    bool only_new;       /* nothing but what guests write from now on */
    bool write_blocking;
    bool unmap;                   /* zeroes may be holes of the target */
    bool target_is_zero;          /* the target reads as zeroes now */
    uint32_t granularity;         /* bytes, a power of two; 0: default */
    uint64_t buf_size;            /* bytes in flight; 0: default */
    struct node *replaces;        /* whose place is taken, or NULL: @node's */
    bool source_below;            /* the target is to stand on the source */
    const char *filter_node_name; /* or NULL */
    enum on_error on_source_error, on_target_error;
};
/* Insert the filter, take blockers, start. Errors and texts: those of QEMU 7.2.
 * Context: coroutine on the graph's loop. */
CO_FN int mirror_co_start(struct jobs *js, const struct mirror_params *p,
                          struct job **ret_job, GError **err);
