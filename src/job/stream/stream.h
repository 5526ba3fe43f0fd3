/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* block-stream: populate a device from its backing chain, then let go of it. */
#pragma once
#include "job/job.h"

struct stream_params {
    struct job_params job;
    struct node *node;            /* top; may be a filter over it */
    const char *device;           /* as it was asked for, for texts, or NULL */
    struct node *base;            /* or NULL: whole chain */
    struct node *bottom;          /* instead of base: lowest node to copy */
    const char *backing_file;     /* string for the header, or NULL */
    const char *filter_node_name; /* or NULL */
    enum on_error on_error;
    bool resumed; /* begun by an earlier daemon */
};
/* Inserts the copy-on-read filter, takes blockers, starts. Errors and texts:
 * those of block-stream in QEMU 7.2. Context: coroutine on the graph's loop. */
CO_FN int stream_co_start(struct jobs *js, const struct stream_params *p,
                          struct job **ret_job, GError **err);

/* The one-increment form of 2011 (`block_stream` with all: false): populate
 * from *@cursor until something was copied; the end of the device drops the
 * backing file with the same event as the job. */
CO_FN int stream_co_step(struct jobs *js, struct node *top, const char *device,
                         uint64_t *cursor, uint64_t *ret_len,
                         uint64_t *ret_offset, GError **err);
