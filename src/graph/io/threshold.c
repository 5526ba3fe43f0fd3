/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The write threshold of a node: an event, once, when a change reaches beyond
 * it.  Whoever hears of it makes the storage larger and sets the next one.
 */
#include "graph/graph-int.h"
#include "graph/io.h"
#include "graph/io/dispatch.h"

void node_set_write_threshold(struct node *n, uint64_t offset)
{
    n->priv->write_threshold = offset;
}

uint64_t node_write_threshold(const struct node *n)
{
    return n->priv->write_threshold;
}

void threshold_pass(struct node *n, uint64_t end)
{
    const struct graph *g = n->graph;
    uint64_t threshold = n->priv->write_threshold;
    json_t *data = json_pack("{s:s,s:I,s:I}", "node-name", n->name,
                             "amount-exceeded", (json_int_t)(end - threshold),
                             "write-threshold", (json_int_t)threshold);

    n->priv->write_threshold = 0;
    if (g->event_fn) {
        g->event_fn("BLOCK_WRITE_THRESHOLD", data, g->event_arg);
    }
    json_decref(data);
}
