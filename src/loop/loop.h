/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A loop: one thread with an I/O engine, timers and a run queue of coroutines.
 *
 * Everything that belongs to a loop (nodes, jobs, connections) is touched on
 * its thread only, so the I/O path has no locks.  Other threads reach it by
 * loop_post() alone.  One turn runs all ready coroutines, then submits what
 * they queued in one system call, then waits.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct loop;

enum io_engine_kind {
    /* What SLUICE_IO_ENGINE in the environment names, else io_uring where the
     * kernel permits it, else threads. */
    IO_ENGINE_AUTO,
    IO_ENGINE_IO_URING,
    IO_ENGINE_THREADS,
    IO_ENGINE_COUNT
};

struct io_engine;

/* Busy polling before the loop sleeps, with QEMU's names and meanings
 * (loop/spin.h). */
struct loop_polling {
    uint64_t max_ns; /* for so long at most; 0: never */
    uint64_t grow;   /* factor when events come soon after it; 0: 2 */
    uint64_t shrink; /* divisor when they come late; 0: none at all then */
};
/* What QEMU gives its iothreads. */
#define LOOP_POLL_MAX_NS 32768

struct loop_options {
    enum io_engine_kind engine;
    unsigned workers; /* threads of the pool at most; 0 = default */
    struct loop_polling polling;
    /* An engine that is not one of those above, instead of @engine; borrowed
     * for the life of the loop.  Such a loop has no pool. */
    const struct io_engine *custom;
    uint64_t custom_seed; /* for @custom alone; the loop does not look */
};

/* Parse "auto", "io_uring" or "threads". Returns 0 or -EINVAL. */
int io_engine_parse(const char *name, enum io_engine_kind *ret_kind,
                    GError **err);

/* Make a loop owned by the calling thread, on which it must also run.
 * Returns 0, or -errno with @err (engine refused by the kernel). */
int loop_new(const struct loop_options *opts, struct loop **ret_loop,
             GError **err);
/* All coroutines must have ended. NULL is fine. */
void loop_free(struct loop *l);

/* From the next wait on. Never polls where this process has one processor, or
 * with an engine of tests. Loop thread. */
void loop_set_polling(struct loop *l, const struct loop_polling *p);
/* Run turns until loop_stop(); returns at once if it was already called. */
void loop_run(struct loop *l);
/* Any thread. */
void loop_stop(struct loop *l);
/* One turn; blocks for an event only if @may_block. True if anything ran. */
bool loop_turn(struct loop *l, bool may_block);

/* The loop that runs on this thread, or NULL. */
struct loop *loop_current(void);

/* Monotonic nanoseconds, read once a turn (virtual where a custom engine's
 * clock is). */
uint64_t loop_now_ns(struct loop *l);
/* Monotonic nanoseconds, read now. */
uint64_t loop_clock_ns(struct loop *l);
/* Nanoseconds since 1970; a custom engine may give its own. */
uint64_t loop_date_ns(struct loop *l);

/* Call @fn(@arg) on @l's thread, in order of posting. Any thread. */
void loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* Timers. The struct belongs to the caller; loop thread only. */
struct loop_timer {
    struct loop *loop;
    void (*fn)(void *arg);
    void *arg;
    uint64_t deadline_ns;
    unsigned heap_idx; /* 0 = not armed */
};
void loop_timer_init(struct loop_timer *t, struct loop *l,
                     void (*fn)(void *arg), void *arg);
/* (Re)arm for @deadline_ns of loop_clock_ns(). */
void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns);
/* Harmless when not armed. After it returns @fn will not run. */
void loop_timer_cancel(struct loop_timer *t);
