/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dividing a rate among those who share a storage.  Whoever is slow for reasons
 * of its own (a far source, a speed limit) leaves the rest of its part to the
 * others, and has room to become faster.
 */
#include "graph/background/control.h"

#define ROOM 1.5
#define ROOM_MIN (1024.0 * 1024) /* bytes/s, for who begins */

/* What @m makes use of, bytes/s. */
static double share_need(const struct member *m, double rate, uint64_t ns)
{
    double used = (double)m->bytes * 1e9 / (double)MAX(ns, 1);

    return m->wanting ? rate : MIN(used * ROOM + ROOM_MIN, rate);
}

/* The level at which all needs below it are met and the others get the same. */
static double share_level(struct member **members, unsigned n, double rate,
                          uint64_t ns)
{
    double level = rate / n;

    /* Each round someone else is found who needs less, or all is divided. */
    for (unsigned round = 0; round < n; round++) {
        double left = rate;
        unsigned more = 0;

        for (unsigned i = 0; i < n; i++) {
            double need = share_need(members[i], rate, ns);

            left -= MIN(need, level);
            more += need > level;
        }
        if (more == 0 || left < rate / 1000) {
            break;
        }
        level += left / more;
    }
    return level;
}

void share_divide(struct member **members, unsigned n, double rate, uint64_t ns)
{
    double level = n && rate > 0 && rate < RATE_NONE
                       ? share_level(members, n, rate, ns)
                       : rate;

    for (unsigned i = 0; i < n; i++) {
        members[i]->rate = level;
        members[i]->bytes = 0;
        members[i]->wanting = false;
    }
}
