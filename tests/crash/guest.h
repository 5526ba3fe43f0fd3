/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest, and whoever manages its disk: what each operation does. */
#pragma once
#include <stdbool.h>
#include "crash.h"
#include "graph/image.h"
#include "loop/co.h"

/* A guest does not resize; whoever does, does so for it. */
#define GUEST_PERMS (PERM_CONSISTENT_READ | PERM_WRITE)

/* Backups have this id: nobody waits for their events. */
#define BACKUP_JOB "b"

struct guest {
    struct oracle *o;
    struct node *n;
    struct backend *u;
    uint64_t cursor; /* of stream steps */
    GRand *rnd;
    unsigned n_snapshots;
    bool prepared;            /* the next snapshot may be */
    struct co_mutex managing; /* no command repairs while another resizes */
    struct co_latch running;
    struct co_latch behind; /* nobody waits for them before the end */
    struct co_latch jobs;
};

/* --- guest.c --- */

/* Do @op; 0, a number of bytes, or -errno. */
CO_FN int guest_co_do(struct guest *g, struct op *op);

/* --- guest-jobs.c: what runs as a job, or takes the place of the disk --- */

/* -EBUSY when one runs, -EINVAL when there is nothing to stream: fine. */
CO_FN int guest_co_stream(struct guest *g, bool wait, struct node *base);
/* Down to what is below the middle of the chain. */
CO_FN int guest_co_stream_to(struct guest *g);
CO_FN int guest_co_cancel(struct guest *g, struct op *op);
/* Merge the middle of the chain down: the base alone holds it all. */
CO_FN int guest_co_commit(struct guest *g);
/* Merge the disk down into its base: go on there (alone), or @stay. */
CO_FN int guest_co_merge(struct guest *g, bool stay);
/* An overlay takes the place of the disk; once. */
CO_FN int guest_co_overlay(struct guest *g);
/* What "/copy" lacks, by the bitmap. */
CO_FN int guest_co_backup(struct guest *g);
