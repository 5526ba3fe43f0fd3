/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying images at rest into another one: the copy engine (job/copy/copy.h)
 * between sources that stand one behind another and a target that nobody else
 * uses. What reads as zeroes by status alone is never read; what turns out to
 * be zeroes is not written where the target reads as zeroes anyway.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct graph;
struct node;

struct transfer_params {
    struct node *const *sources;
    unsigned n_sources;
    /* Copy what is above this node of the source's chain alone; NULL: all. */
    struct node *base;
    uint64_t skip;  /* bytes at the begin of the sources to leave out */
    uint64_t limit; /* use so many bytes of them; 0: all there are */
    uint64_t size;  /* bytes to write; past those: zeroes */
    struct node *target;
    bool target_is_zero; /* it reads as zeroes and has no backing file */
    bool has_backing;    /* what the sources lack, its backing file has */
    uint64_t backing_size;
    uint64_t sparse;   /* least zeroes that are worth a hole; 0: write all */
    bool out_of_order; /* writes need not start in order of offset */
    bool copy_offload; /* let the file system copy, where it can */
    bool compressed;   /* ask the target to compress */
    bool salvage;      /* what cannot be read becomes zeroes */
    uint64_t rate;     /* bytes/s, 0 = unlimited */
    unsigned parallel; /* chunks in flight; 0 = as many as pay */
    bool progress;     /* struct percent on stdout */
};

/* Copy and flush; says itself what failed and where. 0 or -errno. */
CO_FN int transfer_co_run(struct graph *g, const struct transfer_params *p);
