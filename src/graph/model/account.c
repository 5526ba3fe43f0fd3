/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Accounting of the requests of backends, and the latency that guests see. */
#include <errno.h>
#include "graph/model/model.h"
#include "loop/loop.h"

/* New samples weigh 1/16. */
#define LATENCY_SHIFT 4
#define LATENCY_FRESH_NS 1000000000ull

void account_done(struct backend *u, enum acct_kind kind, uint64_t off,
                  uint64_t bytes, unsigned flags, uint64_t start_ns, int ret)
{
    struct backend_stats *s = &u->stats;
    uint64_t now = loop_clock_ns(u->graph->loop);
    uint64_t took = now - start_ns;

    if (ret == -ERESTART) {
        return; /* it is not over */
    }
    s->last_access_ns = now;
    s->time_ns[kind] += took;
    if (ret < 0) {
        s->failed[kind]++;
        return;
    }
    s->ops[kind]++;
    s->bytes[kind] += bytes;
    if (kind == ACCT_WRITE) {
        s->highest_write = MAX(s->highest_write, off + bytes);
    }
    if (kind > ACCT_WRITE || (flags & IO_BACKGROUND)) {
        return;
    }
    if (now - u->latency_at_ns > LATENCY_FRESH_NS) {
        u->latency_ns = took;
    } else {
        u->latency_ns += (took >> LATENCY_SHIFT) -
                         (u->latency_ns >> LATENCY_SHIFT);
    }
    u->latency_at_ns = now;
}

const struct backend_stats *backend_get_stats(const struct backend *u)
{
    return &u->stats;
}

void backend_stats_add(struct backend *u, const struct backend *from)
{
    struct backend_stats *s = &u->stats;
    const struct backend_stats *more = &from->stats;

    for (unsigned i = 0; i < ACCT_KINDS; i++) {
        s->ops[i] += more->ops[i];
        s->bytes[i] += more->bytes[i];
        s->time_ns[i] += more->time_ns[i];
        s->failed[i] += more->failed[i];
        s->invalid[i] += more->invalid[i];
    }
    s->last_access_ns = MAX(s->last_access_ns, more->last_access_ns);
    s->highest_write = MAX(s->highest_write, more->highest_write);
}

uint64_t node_write_highest(const struct node *n)
{
    return n->priv->write_highest;
}

uint64_t node_demand_latency_ns(struct node *n)
{
    uint64_t now = loop_clock_ns(n->graph->loop);
    uint64_t sum = 0;
    unsigned count = 0;

    for (struct backend *u = n->graph->backends; u; u = u->next) {
        if (u->latency_at_ns && now - u->latency_at_ns < LATENCY_FRESH_NS &&
            node_reaches(u->edge->child, n)) {
            sum += u->latency_ns;
            count++;
        }
    }
    return count ? MAX(sum / count, 1) : 0;
}
