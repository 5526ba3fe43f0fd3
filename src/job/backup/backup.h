/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backup: a copy of what a disk is when the job begins, while guests go on
 * writing to it.
 *
 *   backup.c         the job: copying, the end
 *   backup-graph.c   hold, and the filter
 *   backup-bitmap.c  the bitmap that says what is copied, and what becomes of it
 *
 * The filter "copy-before-write" above the disk copies what guests are about to
 * change; the job copies the rest, by the same record of what is still to be
 * copied (graph/before.h).
 *
 * A bitmap records on while the job runs.  Its marks are taken away when the
 * target is durable, and those of clusters that were not copied stay (B3): so
 * the next incremental backup has all that this one lacks, whatever happens.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "job/job.h"

enum backup_sync {
    BACKUP_FULL,
    BACKUP_TOP,    /* what the top image holds */
    BACKUP_NONE,   /* what guests overwrite, until it is cancelled */
    BACKUP_BITMAP, /* what the bitmap marks */
};
/* What becomes of the marks of what was copied. */
enum backup_bitmap_mode {
    BACKUP_ON_SUCCESS, /* taken away if the job succeeds */
    BACKUP_NEVER,      /* they stay */
    BACKUP_ALWAYS,     /* taken away, also if it fails */
};

struct backup_params {
    struct job_params job;
    struct node *node;   /* the disk; filters above it stay */
    struct node *target; /* of the same size */
    enum backup_sync sync;
    const char *bitmap; /* or NULL */
    struct node *bitmap_node;
    enum backup_bitmap_mode bitmap_mode;
    bool compress;
    bool break_snapshot;          /* graph/before.h */
    uint64_t timeout_ns;          /* that a guest waits; 0: for ever */
    uint32_t min_cluster;         /* bytes; 0: default */
    uint32_t max_workers;         /* chunks in flight; 0: default */
    uint64_t max_chunk;           /* bytes; 0: default */
    const char *filter_node_name; /* or NULL */
    enum on_error on_source_error, on_target_error;
    struct job_group *group; /* or NULL */
};
/* Hold the disk's guests, insert the filter and take blockers: from here on the
 * copy is what the disk is now. The job is started with job_start(), or given up
 * with backup_co_drop(). Errors and texts: those of QEMU 7.2.
 * Context: coroutine on the graph's loop. */
CO_FN int backup_co_create(struct jobs *js, const struct backup_params *p,
                           struct job **ret_job, GError **err);
CO_FN void backup_co_drop(struct job *j);
