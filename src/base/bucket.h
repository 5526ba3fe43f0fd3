/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A smooth rate limit.  Not a bucket that fills to a second's worth and is then
 * emptied at once: it holds the time from which the next request may go, and
 * each byte taken moves that time.  Pure; the caller brings the clock.
 */
#pragma once
#include <stdint.h>

struct bucket {
    uint64_t rate;    /* bytes/s, 0 = unlimited */
    uint64_t next_ns; /* the next request may go from here on */
    uint64_t rem;     /* byte-nanoseconds lost by rounding, < rate */
    /* How late a sender may come and still catch up; 0: 20 ms, which is what
     * the jitter of timers needs. */
    uint64_t burst_ns;
};

/* Takes effect at once: what is owed is owed at the new rate. */
void bucket_set_rate(struct bucket *b, uint64_t rate, uint64_t now_ns);
/* Nanoseconds until a request may go; 0 = now. */
uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns);
void bucket_take(struct bucket *b, uint64_t bytes, uint64_t now_ns);
/* @bytes of an earlier bucket_take() were not copied after all. */
void bucket_give_back(struct bucket *b, uint64_t bytes);

/* How long a request should be at @rate: at least @unit and at most @chunk, a
 * multiple of @unit, and otherwise so short that the flow is even. */
uint64_t bucket_request_size(uint64_t rate, uint64_t unit, uint64_t chunk);
