/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See loop/spin.h. */
#include "loop/spin.h"
#include <glib.h>

#define FIRST_NS 4000
#define MISSES_MAX 10 /* the longest rest is 1024 waits */
/* As many misses count an interruption. */
#define INTERRUPTED 4

uint64_t spin_begin(struct spin *s)
{
    if (s->rest) {
        s->rest--;
        return 0;
    }
    return MIN(s->ns, s->limits.max_ns);
}

static void spin_miss(struct spin *s, unsigned weight)
{
    s->misses = MIN(s->misses + weight, MISSES_MAX);
    s->rest = 1u << s->misses;
}

static void spin_grow(struct spin *s)
{
    uint64_t by = s->limits.grow ? s->limits.grow : 2;

    if (!s->ns) {
        s->ns = FIRST_NS;
    } else if (s->ns > s->limits.max_ns / by) {
        s->ns = s->limits.max_ns;
    } else {
        s->ns *= by;
    }
    s->ns = MIN(s->ns, s->limits.max_ns);
}

static void spin_adapt(struct spin *s, uint64_t waited_ns)
{
    if (waited_ns <= s->ns) {
        return;
    }
    if (waited_ns > s->limits.max_ns) {
        s->ns = s->limits.shrink ? s->ns / s->limits.shrink : 0;
    } else if (s->ns < s->limits.max_ns) {
        spin_grow(s);
    }
}

void spin_hit(struct spin *s, uint64_t waited_ns)
{
    s->misses = 0;
    spin_adapt(s, waited_ns);
}

/* A miss within the time that could be polled is what makes the time grow, and
 * is none when it may grow still. */
void spin_slept(struct spin *s, bool spun, uint64_t waited_ns)
{
    bool grows = s->ns < s->limits.max_ns && waited_ns <= s->limits.max_ns;

    if (spun && !grows) {
        spin_miss(s, 1);
    }
    if (!grows || !s->rest) {
        spin_adapt(s, waited_ns);
    }
}

void spin_interrupted(struct spin *s)
{
    spin_miss(s, INTERRUPTED);
}
