/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Coroutines in GLib tests: run one to its end, hold others at latches, and let
 * everything that can run do so.
 */
#pragma once
#include <stdbool.h>
#include "base/annot.h"
#include "loop/co.h"

struct loop;
struct loop_options;

/* Make a loop, run @fn(@arg) on it as a coroutine until it returns, check that
 * no coroutine is left, free the loop. */
void coro_run(void (*fn)(void *arg), void *arg);
/* The same on a loop with @opts, as those of a simulated machine. */
void coro_run_on(const struct loop_options *opts, void (*fn)(void *arg),
                 void *arg);

/* A place that coroutines cannot pass while it is shut. Zero-initialised it is
 * open. */
struct latch {
    bool shut;
    unsigned waiting;
    struct co_queue queue;
};
CO_FN void latch_co_wait(struct latch *l);
void latch_open(struct latch *l);

/* Let every other coroutine run until all wait for something. Only what never
 * leaves the loop (memory, latches) settles. */
CO_FN void coro_co_settle(void);
