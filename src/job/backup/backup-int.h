/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the backup share; see backup.h. */
#pragma once
#include "graph/before.h"
#include "job/backup/backup.h"
#include "job/hold.h"
#include "loop/co.h"

struct bitmap;

struct backup {
    struct job job; /* first */
    struct graph *graph;

    /* backup-graph.c */
    struct node *source; /* no filter; "file" of @filter */
    struct node *target;
    struct node *filter;
    struct before *before; /* of @filter */
    struct job_hold hold;
    struct backend *source_backend; /* of @hold */

    /* backup-bitmap.c */
    struct node *bitmap_node; /* or NULL: there is no bitmap */
    char *bitmap;
    enum backup_bitmap_mode bitmap_mode;
    struct bitmap *record; /* of what changes meanwhile; NULL: it records not */

    /* backup.c */
    enum backup_sync sync;
    enum on_error on_source_error, on_target_error;
    uint32_t max_workers;
    uint64_t max_chunk;
    uint64_t todo; /* bytes, at the beginning */
    bool skipped;  /* an error was ignored in this round */
    bool ending;   /* requests that were let go are not repeated */
    bool durable;  /* what was copied is, on the target */
    struct co_queue wake;
};

/* --- backup-graph.c --- */

/* Of a drained disk. On failure backup_co_release() follows. */
CO_FN int backup_co_hold(struct backup *b, const struct backup_params *p,
                         GError **err);
/* @succeeded: the bitmap follows from that. */
CO_FN void backup_co_release(struct backup *b, bool succeeded);

/* --- backup-bitmap.c --- */

/* Copy what the bitmap marks alone, if that was asked for; take it. */
CO_FN int backup_bitmap_co_begin(struct backup *b,
                                 const struct backup_params *p, GError **err);
/* The disk is drained. */
CO_FN void backup_bitmap_co_end(struct backup *b, bool succeeded);
