/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Accounting of the requests of backends. */
#include <errno.h>
#include "graph/model/model.h"
#include "loop/loop.h"

void account_done(struct backend *u, enum acct_kind kind, uint64_t off,
                  uint64_t bytes, uint64_t start_ns, int ret)
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
