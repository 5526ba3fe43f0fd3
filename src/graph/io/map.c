/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See graph/map.h. */
#include "graph/io/dispatch.h"
#include "graph/model/early.h"

int map_co_driver(struct node *n, uint64_t off, uint64_t len, unsigned flags,
                  struct mapping *ret_map)
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

/* What is kept in memory at @off, if anything is. */
static bool map_early(struct node *n, uint64_t off, uint64_t len,
                      struct mapping *ret_map)
{
    struct early *e = early_find(n, off);

    if (!e) {
        return false;
    }
    *ret_map = (struct mapping) {
        .kind = MAP_DATA,
        .len = MIN(len, e->end - off),
        .early = early_ref(e),
    };
    return true;
}

/* The driver's answer is formed while the table of what is kept may change: only
 * both of one moment belong together (E1). */
static CO_FN int map_co_both(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags, struct mapping *ret_map)
{
    uint64_t version;
    int ret;

    do {
        version = early_version(n);
        ret = map_co_driver(n, off, len, flags, ret_map);
        if (ret < 0) {
            return ret;
        }
        if (early_find(n, off)) {
            node_map_end(n, ret_map);
            (void)map_early(n, off, len, ret_map);
            return 0;
        }
        if (version != early_version(n)) {
            node_map_end(n, ret_map);
        }
    } while (version != early_version(n));
    ret_map->len = MIN(ret_map->len, early_next(n, off) - off);
    return 0;
}

int node_co_map_begin(struct node *n, uint64_t off, uint64_t len,
                      unsigned flags, struct mapping *ret_map)
{
    g_assert(len > 0 && off < n->size);
    if (!n->drv->supports_backing) {
        return map_co_driver(n, off, len, flags, ret_map);
    }
    return map_co_both(n, off, len, flags, ret_map);
}

void node_map_end(struct node *n, const struct mapping *m)
{
    if (m->early) {
        early_unref(m->early);
    } else if (n->drv->map_end) {
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
