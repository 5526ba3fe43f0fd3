/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See latency.h.  Bucket numbers: the first sixteen are one unit wide each, the
 * next sixteen as well, then each sixteen are twice as wide as those before. */
#include "graph/background/latency.h"
#include <glib.h>
#include <string.h>

#define UNIT_SHIFT 10 /* 1,024 ns */
#define SUB_BITS 4
#define SUB (1u << SUB_BITS)

static unsigned latency_bucket(uint64_t ns)
{
    uint64_t units = ns >> UNIT_SHIFT;
    unsigned shift;

    if (units < SUB) {
        return (unsigned)units;
    }
    shift = 63 - SUB_BITS - (unsigned)__builtin_clzll(units);
    return MIN((shift + 1) * SUB + (unsigned)(units >> shift & (SUB - 1)),
               LATENCY_BUCKETS - 1);
}

/* What is above all of bucket @i. */
static uint64_t latency_bucket_end(unsigned i)
{
    unsigned shift = i < SUB ? 0 : i / SUB - 1;
    uint64_t units = i < SUB ? i : SUB + i % SUB;

    return (units + 1) << (shift + UNIT_SHIFT);
}

void latency_clear(struct latency *h)
{
    memset(h, 0, sizeof(*h));
}

void latency_add(struct latency *h, uint64_t ns)
{
    h->count[latency_bucket(ns)]++;
    h->total++;
}

void latency_merge(struct latency *h, const struct latency *from)
{
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        h->count[i] += from->count[i];
    }
    h->total += from->total;
}

uint64_t latency_quantile(const struct latency *h, unsigned percent)
{
    uint64_t want = ((uint64_t)h->total * percent + 99) / 100, seen = 0;

    for (unsigned i = 0; i < LATENCY_BUCKETS && want; i++) {
        seen += h->count[i];
        if (seen >= want) {
            return latency_bucket_end(i);
        }
    }
    return 0;
}

uint32_t latency_over(const struct latency *h, uint64_t ns)
{
    uint32_t over = 0;

    for (unsigned i = latency_bucket(ns) + 1; i < LATENCY_BUCKETS; i++) {
        over += h->count[i];
    }
    return over;
}
