/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the dispatcher tells admission control of guests' requests to storage;
 * private to graph/. */
#pragma once
#include "graph/graph-int.h"
#include "graph/io.h"

struct storage_control;

/* A node with storage was opened, or closes. */
void storage_control_adopt(struct node *n);
void storage_control_release(struct node *n);

uint64_t storage_control_demand_begin(struct storage_control *c);
void storage_control_demand_done(struct storage_control *c, uint64_t begun_ns);

static inline bool demand_counts(const struct node *n, unsigned flags)
{
    return (flags & IO_DEMAND) && n->priv->control;
}
