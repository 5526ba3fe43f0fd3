/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads that wait for an HTTP server: all of them, for whatever reason they
 * wait, in order of arrival.
 *
 * So one timer on the first tells that the server hangs, and reads can be ended
 * before it answers: they get a verdict.  Nothing is lost by that, for they
 * change nothing.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"
#include "loop/loop.h"

struct http_transfer;

/* One read; on the stack of who made it. */
struct http_waiter {
    GList link;
    uint64_t since_ns;
    struct http_transfer *transfer; /* under way, or NULL */
    int verdict;                    /* how it is to end, -errno; 0: open */
};

struct http_wait {
    GQueue waiters; /* struct http_waiter, oldest first */
    struct loop_timer timer;
    struct co_queue sleepers;
    uint64_t hang_timeout_ns; /* 0: never hangs */
    bool fail_on_hang, hanging, over;
    /* It begins and ends to hang, with so many requests. No yield. */
    void (*hang_event)(bool hanging, unsigned requests, void *arg);
    void *hang_arg;
};

/* Of the loop that runs. */
static inline uint64_t http_now_ns(void)
{
    return loop_clock_ns(loop_current());
}

/* On the loop that runs. */
void http_wait_init(struct http_wait *w);
/* Nobody waits. */
void http_wait_done(struct http_wait *w);
void http_wait_begin(struct http_wait *w, struct http_waiter *r);
void http_wait_end(struct http_wait *w, struct http_waiter *r);
/* Sleep until @deadline_ns, or less when @r gets a verdict. */
CO_FN void http_wait_co_sleep(struct http_wait *w, const struct http_waiter *r,
                              uint64_t deadline_ns);
/* All end with @verdict; @for_good: later ones, too. */
void http_wait_end_all(struct http_wait *w, int verdict, bool for_good);
void http_wait_set_hang(struct http_wait *w, uint64_t timeout_ns, bool fail);
