/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See graph/map.h. */
#include "graph/graph-int.h"
#include "graph/map.h"

int node_co_map_begin(struct node *n, uint64_t off, uint64_t len,
                      unsigned flags, struct mapping *ret_map)
{
    int ret = 0;

    g_assert(len > 0 && off < n->size);
    len = MIN(len, n->size - off);
    *ret_map = (struct mapping) { .kind = MAP_DATA, .len = len };
    if (node_is_filter(n)) {
        ret_map->child = node_file(n);
        ret_map->host = off;
        ret_map->like_child = true;
    }
    if (n->drv->co_map) {
        ret = n->drv->co_map(n, off, len, flags, ret_map);
    }
    g_assert(ret < 0 || ret_map->len > 0);
    ret_map->len = MIN(ret_map->len, len);
    return ret;
}

void node_map_end(struct node *n, const struct mapping *m)
{
    if (n->drv->map_end) {
        n->drv->map_end(n, m);
    }
}

int node_co_map(struct node *n, uint64_t off, uint64_t len,
                struct mapping *ret_map)
{
    int ret = node_co_map_begin(n, off, len, 0, ret_map);

    if (ret == 0) {
        node_map_end(n, ret_map);
    }
    return ret;
}
