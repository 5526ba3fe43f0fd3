/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scanner of a copy: one coroutine that asks for status far ahead of the
 * copying and leaves what it learns as runs in a ring.  Asking takes a round
 * trip where the base is remote; ahead of the copy it costs no time.
 *
 * Neighbours of one kind become one run, so the ring holds SCAN_RUNS changes
 * of kind, however long the runs are.  What it says is old when it is used:
 * only a hint of where to copy, never the proof that nothing is left.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "job/copy/copy.h"
#include "loop/co.h"

enum scan_kind { SCAN_SKIP, SCAN_ZERO, SCAN_DATA, SCAN_ERROR };
#define SCAN_RUNS 512

struct scan_run {
    uint64_t off, len; /* len is 0 for SCAN_ERROR */
    enum scan_kind kind;
    int error; /* SCAN_ERROR: -errno */
};
struct scan {
    const struct copy_ops *ops;
    void *arg;
    uint64_t pos, end;
    struct scan_run ring[SCAN_RUNS];
    unsigned head, count;
    bool running, stop, failed;
    struct co_queue room;  /* the scanner waits here */
    struct co_queue *news; /* and wakes this */
};

/* Start the coroutine; @news is woken when a consumer may find more. */
void scan_start(struct scan *s, struct loop *l, const struct copy_ops *ops,
                void *arg, uint64_t start, uint64_t end, struct co_queue *news);
/* The next run, or NULL: not known yet, or scan_finished(). */
const struct scan_run *scan_peek(const struct scan *s);
/* Take @len bytes off the front of the next run. */
void scan_take(struct scan *s, uint64_t len);
bool scan_finished(const struct scan *s);
/* Leave the error at the front behind and go on at @pos. */
void scan_resume_at(struct scan *s, uint64_t pos);
CO_FN void scan_co_stop(struct scan *s);
