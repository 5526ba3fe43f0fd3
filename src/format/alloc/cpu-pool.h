/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long computations (compression, encryption) on threads of the loop's pool, a
 * few at a time: as many as there are processors, so that the pool, which may
 * also do the file I/O, never fills up with them.  First come, first served.
 */
#pragma once
#include "base/annot.h"
#include "loop/co.h"

/* Zero-initialised; belongs to one loop. */
struct cpu_pool {
    unsigned running;
    struct co_queue waiters;
};

/* Run @fn(@arg) off the loop and wait. @fn must not touch loop state. */
CO_FN void cpu_pool_co_run(struct cpu_pool *o, void (*fn)(void *arg),
                           void *arg);
