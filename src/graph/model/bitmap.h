/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty bitmaps in memory, for graph/bitmap/. */
#pragma once
#include "graph/bitmap.h"
#include "graph/graph-int.h"

struct bitmap {
    char *name; /* NULL: a record that only its maker knows */
    struct dirty_map *map;
    bool recording;
};

/* NULL with @err: too many bits. */
struct bitmap *node_bitmap_add(struct node *n, const char *name,
                               uint32_t granularity, bool recording,
                               GError **err);
void node_bitmap_remove(struct node *n, struct bitmap *b);
/* Those with names; as large as the node. NULL: there are not as many. */
struct bitmap *node_bitmap_at(const struct node *n, unsigned i);
struct bitmap *node_bitmap_find(const struct node *n, const char *name);
bool node_bitmap_is_busy(const struct node *n, const char *name);
/* The node ends. */
void node_bitmaps_free(struct node *n);
