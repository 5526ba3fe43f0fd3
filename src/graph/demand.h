/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What admission control sees of guests' requests; private to graph/.
 *
 * A request that a guest waits for has a number, in the high bits of its flags,
 * which all requests have that are made for it.  So it is known which storages
 * it went to, and from when to when.  A storage answers for all of the time that
 * the guest waited, but for what other storages took: a request that reads, waits
 * for a lock and then writes counts with all three, and what a far server took
 * is not counted at the local disk.
 */
#pragma once
#include "graph/graph-int.h"
#include "graph/io.h"

/* A node with storage was opened, or closes. */
void storage_control_adopt(struct node *n);
void storage_control_release(struct node *n);

void demands_free(struct demands *d);
/* The flags of a guest's request that begins: IO_DEMAND, or none if there are
 * too many. */
unsigned demand_begin(struct graph *g, uint64_t now_ns);
/* It is over. */
void demand_end(struct graph *g, unsigned flags);
/* A request that is made for it begins at storage @n, or is done there. */
void demand_reaches_storage(struct node *n, unsigned flags);
void demand_leaves_storage(struct node *n, unsigned flags);

static inline bool demand_counts(const struct node *n, unsigned flags)
{
    return (flags & IO_DEMAND) && n->priv->control;
}
