/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A histogram of latencies, to tell a high quantile of many requests: fixed
 * size, a shift and an addition for a request.  Sixteen buckets for each
 * doubling, so an answer is at most a sixteenth too high.  Pure.
 */
#pragma once
#include <stdint.h>

/* From 1 microsecond up to 8 seconds; longer ones count as that. */
#define LATENCY_BUCKETS 336

struct latency {
    uint32_t total;
    uint32_t count[LATENCY_BUCKETS];
};

void latency_clear(struct latency *h);
void latency_add(struct latency *h, uint64_t ns);
void latency_merge(struct latency *h, const struct latency *from);
/* The latency that @percent of the requests did not exceed, ns; 0: there were
 * none. */
uint64_t latency_quantile(const struct latency *h, unsigned percent);
/* How many took longer than @ns, without those in the bucket of @ns. */
uint32_t latency_over(const struct latency *h, uint64_t ns);
