/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A smooth rate limit; see bucket.h.
 *
 * The only burst is what the jitter of timers needs, unless a longer one was
 * asked for: a sender that comes burst_ns late may still catch up, one that was
 * idle for longer may not.  So in any interval t the bytes that go are at most rate * (t + burst_ns) plus one
 * request, and a sender that always asks is exact in the long run.
 */
#include "base/bucket.h"
#include <glib.h>

#define SECOND_NS UINT64_C(1000000000)
#define DEFAULT_BURST_NS (20 * UINT64_C(1000000))
/* Requests per second that look like an even flow. */
#define EVEN_HZ 20

static uint64_t muldiv(uint64_t a, uint64_t b, uint64_t c, uint64_t *ret_rem)
{
    __extension__ unsigned __int128 p = a;

    p = p * b + *ret_rem;
    *ret_rem = (uint64_t)(p % c);
    p /= c;
    return p > UINT64_MAX / 4 ? UINT64_MAX / 4 : (uint64_t)p;
}

void bucket_set_rate(struct bucket *b, uint64_t rate, uint64_t now_ns)
{
    uint64_t owed_ns = b->next_ns > now_ns ? b->next_ns - now_ns : 0;
    uint64_t rem = 0;

    b->next_ns = now_ns;
    if (b->rate && rate) {
        b->next_ns += muldiv(owed_ns, b->rate, rate, &rem);
    }
    b->rate = rate;
    b->rem = 0;
}

uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns)
{
    if (!b->rate || b->next_ns <= now_ns) {
        return 0;
    }
    return b->next_ns - now_ns;
}

void bucket_take(struct bucket *b, uint64_t bytes, uint64_t now_ns)
{
    uint64_t burst = b->burst_ns ? b->burst_ns : DEFAULT_BURST_NS;

    if (!b->rate) {
        return;
    }
    if (b->next_ns + burst < now_ns) {
        b->next_ns = now_ns - burst;
        b->rem = 0;
    }
    b->next_ns += muldiv(bytes, SECOND_NS, b->rate, &b->rem);
}

void bucket_give_back(struct bucket *b, uint64_t bytes)
{
    uint64_t rem = 0, ns;

    if (!b->rate) {
        return;
    }
    ns = muldiv(bytes, SECOND_NS, b->rate, &rem);
    b->next_ns = b->next_ns > ns ? b->next_ns - ns : 0;
}

uint64_t bucket_request_size(uint64_t rate, uint64_t unit, uint64_t chunk)
{
    uint64_t even;

    if (!rate) {
        return chunk;
    }
    even = rate / EVEN_HZ / unit * unit;
    return CLAMP(even, unit, chunk);
}
