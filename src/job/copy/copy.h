/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copy engine: scan -> plan -> copy, under stream now and under mirror,
 * commit and backup later (they differ in the sink).
 *
 * A scanner walks extents by status far ahead of the copying.  Runs that need
 * copying are cut into chunks; a window of chunks is in flight, reads and
 * writes overlapping.  The window finds the bandwidth: it grows while throughput
 * grows with it.  A bucket smooths `speed`.  Guests are the business of
 * admission control (graph/background.h), which is asked before each chunk and
 * says how long chunks may be: the plan that is made here is the only one.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/copy-result.h"
#include "job/bottleneck.h"

struct background;
struct copy;
struct loop;
struct memory_budget;

/* Who reads and writes. All on the loop, all may yield. */
struct copy_ops {
    /* Next run at @off: does it need copying (*ret_need), and is it cheap, i.e.
     * zeroes that cost no read (*ret_zero)? 0 < *ret_len <= @max. */
    CO_FN_PTR int (*co_scan)(void *arg, uint64_t off, uint64_t max,
                             bool *ret_need, bool *ret_zero, uint64_t *ret_len);
    /* Copy one chunk; *@res is zeroed. It may be asked for again. */
    CO_FN_PTR int (*co_copy)(void *arg, uint64_t off, uint64_t len, bool zero,
                             struct copy_result *res);
    /* Offset up to which everything is done, no gaps. No yield. */
    void (*progress)(void *arg, uint64_t offset);
    /* What begins at @off failed, lowest first and with nothing in flight:
     * 0 = go on behind it, -EAGAIN = retry, other = give up with that. */
    CO_FN_PTR int (*co_error)(void *arg, uint64_t off, bool is_read,
                              int errnum);
    /* Between chunks: pause (sleep), cancel (-ECANCELED). */
    CO_FN_PTR int (*co_pause_point)(void *arg);
};
struct copy_params {
    uint64_t start, end;           /* bytes */
    uint32_t chunk;                /* bytes; 0 = 1 MiB; cluster multiple */
    uint32_t cluster;              /* bytes, 0 = 64 KiB: least request */
    uint64_t speed;                /* bytes/s, 0 = unlimited */
    uint64_t window_max;           /* bytes in flight; 0 = 64 MiB */
    bool is_far;                   /* what is copied, or where to, is behind a
                                    * network */
    struct memory_budget *memory;  /* NULL: window_max alone counts */
    struct background *background; /* NULL: guests are not looked at */
};
struct copy *copy_new(struct loop *l, const struct copy_ops *ops, void *arg,
                      const struct copy_params *p);
void copy_free(struct copy *c);
/* 0, or what co_error() or co_pause_point() gave. Nothing is in flight and the
 * progress is exact when it returns; it may be run again, from the start. */
CO_FN int copy_co_run(struct copy *c);
/* While it runs. */
void copy_set_speed(struct copy *c, uint64_t speed);
/* Reach the pause point soon, even when sleeping for the speed limit. */
void copy_kick(struct copy *c);
/* Bytes that may be in flight now, for queries. */
uint64_t copy_window(const struct copy *c);
/* Bytes moved so far. */
uint64_t copy_copied(const struct copy *c);
/* What has kept it from being faster lately. */
enum job_bottleneck copy_held_by(const struct copy *c);
