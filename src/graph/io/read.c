/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading.  A chain is read without recursion: for each run the walk goes down
 * to the node that answers for it, asking each for its map once, and reads the
 * bytes from where that map says they are.
 */
#include "graph/io/early.h"
#include "graph/model/chain-map.h"
#include "graph/trace.h"
#include "loop/io.h"
#include "loop/parallel.h"

/* One aligned piece through a buffer of our own. */
static CO_FN int read_co_bounced(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    uint32_t align = n->priv->limits.request_alignment;
    uint64_t start = round_down(off, align);
    size_t len = round_up(off + iov.len, align) - start;
    void *buf = io_buf_get(len);
    struct iovec store;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    ret = n->drv->co_preadv(n, start, iov_one(&store, buf, len), flags);
    if (ret == 0) {
        iov_from_buf(iov, 0, (uint8_t *)buf + (off - start), iov.len);
    }
    io_buf_put(buf, len);
    return ret;
}

int read_co_driver(struct node *n, uint64_t off, struct iov iov, unsigned flags)
{
    const struct pieces p = pieces_of(n, off, iov);
    size_t pos = 0;
    int ret = 0;

    if (!n->drv->co_preadv) {
        return node_is_filter(n) ? node_co_preadv(node_file(n), off, iov, flags)
                                 : -EIO;
    }
    if (pieces_is_one(&p, iov.len)) {
        return n->drv->co_preadv(n, off, iov, flags);
    }
    while (pos < iov.len && ret == 0) {
        uint64_t at = off + pos;
        size_t len = pieces_next(&p, at, iov.len - pos);
        struct iov part = iov_slice(iov, pos, len);

        ret = p.bounce ? read_co_bounced(n, at, part, flags)
                       : n->drv->co_preadv(n, at, part, flags);
        pos += len;
    }
    return ret;
}

/* --- chains --- */

/* Runs of one request that are read at once. */
#define RUNS_AT_ONCE 16

/* A part of a request that one node answers in one way. */
struct run {
    struct node *n; /* NULL: zeroes */
    uint64_t off, len;
    bool mapped; /* @map is to be ended; else @n is read as a whole */
    bool
        known; /* from the chain map: nobody was asked, nothing is to be ended */
    struct mapping map;
};

static void read_run_end(struct run *r)
{
    if (r->mapped && !r->known) {
        node_map_end(r->n, &r->map);
        r->mapped = false;
    }
}

/* Does the map of @n say who answers? Filters read in their own way, and so
 * does storage. */
CO_FN_LOOKS static bool reads_by_map(const struct node *n)
{
    return n->drv->kind == NODE_FORMAT && n->drv->co_map;
}

/* Where the whole piece is, which @m tells of, if it stays there. */
static uint64_t host_of_piece(const struct node *n, const struct mapping *m,
                              uint64_t len)
{
    return m->kind == MAP_DATA && m->in_place && m->child == node_file(n) &&
                   m->len >= len && !node_is_writable(n)
               ? m->host
               : CHAIN_MAP_NO_HOST;
}

/* How many images of @m, from the first on, have nothing in the whole piece at
 * @off? */
static CO_FN int piece_co_learn(struct chain_map *m, uint64_t off)
{
    const uint64_t len = UINT64_C(1) << m->piece_bits;
    const uint64_t start = round_down(off, len), version = m->version;
    uint64_t host = CHAIN_MAP_NO_HOST;
    unsigned skip;

    for (skip = 0; skip < m->count && !m->dead; skip++) {
        struct node *n = m->nodes[skip];
        struct mapping map;
        int ret;

        if (!n->drv->supports_backing || n->size < start + len) {
            break;
        }
        ret = node_co_map(n, start, len, &map);
        if (ret < 0) {
            return ret;
        }
        if (map.kind != MAP_ABSENT || map.len < len) {
            host = host_of_piece(n, &map, len);
            break;
        }
    }
    chain_map_learn(m, off, skip, host, version);
    return 0;
}

/* Go on from *@n, below the image that is read, where something may be; r->len
 * becomes as long as that holds. r->known: all of the run is. */
static CO_FN int run_co_skip(struct node **n, struct run *r)
{
    struct chain_map *m = chain_map_get(*n);
    uint64_t len, host;
    int ret = 0, skip;

    if (!m) {
        return 0;
    }
    skip = chain_map_find(m, r->off, r->len, &len);
    if (skip < 0) {
        ret = piece_co_learn(m, r->off);
        skip = chain_map_find(m, r->off, r->len, &len);
    }
    if (ret == 0 && skip >= 0) {
        *n = (unsigned)skip < m->count ? m->nodes[skip] : NULL;
        r->known = chain_map_find_host(m, r->off, &len, &host);
        r->len = len;
    }
    if (r->known) {
        r->n = *n;
        r->mapped = true;
        r->map = (struct mapping) {
            .kind = MAP_DATA,
            .in_place = true,
            .child = m->files[skip],
            .host = host,
            .len = len,
        };
    }
    chain_map_unref(m);
    return ret;
}

/* The run at @off: who answers for it, down from @n. Each node is asked
 * once. */
static CO_FN int run_co_find(struct node *n, uint64_t off, uint64_t len,
                             struct run *r)
{
    const struct node *top = n;
    struct node *second = n->priv->backing ? n->priv->backing->child : NULL;

    *r = (struct run) { .off = off, .len = len };
    while (n && off < n->size) {
        int ret;

        r->len = MIN(r->len, n->size - off);
        if (n == second || (n == top && n->priv->chain_map)) {
            ret = n->drv->supports_backing ? run_co_skip(&n, r) : 0;
            if (ret < 0 || r->known) {
                return ret;
            }
            if (!n || off >= n->size) {
                break;
            }
            r->len = MIN(r->len, n->size - off);
        }
        if (n != top && !n->drv->supports_backing) {
            r->n = n;
            return 0;
        }
        ret = node_co_map_begin(n, off, r->len, 0, &r->map);
        if (ret < 0) {
            return ret;
        }
        r->len = r->map.len;
        if (r->map.kind != MAP_ABSENT) {
            r->n = n;
            r->mapped = true;
            return 0;
        }
        node_map_end(n, &r->map);
        if (n->priv->backing) {
            node_co_debug_event(node_file(n), DEBUG_READ_BACKING_AIO);
        }
        n = n->priv->backing ? n->priv->backing->child : NULL;
    }
    /* Nobody has it: past the end of a short backing file, or no backing. */
    return 0;
}

static bool run_is_zero(const struct run *r)
{
    return !r->n || (r->mapped && r->map.kind == MAP_ZERO);
}

/* @iov is as long as the run. Ends it. */
static CO_FN int run_co_read(struct run *r, struct iov iov, unsigned flags)
{
    struct node *n = r->n;
    int ret = 0;

    if (run_is_zero(r)) {
        iov_memset(iov, 0, 0, iov.len);
    } else if (!r->mapped) {
        return node_co_preadv(n, r->off, iov, flags);
    } else if (r->map.early) {
        ret = early_co_read(r->map.early, r->off, iov, flags);
    } else if (r->map.child) {
        node_co_debug_event(node_file(n), DEBUG_READ_AIO);
        ret = node_co_preadv(r->map.child, r->map.host, iov, flags);
    } else if (n->drv->co_decode) {
        ret = n->drv->co_decode(n, r->off, iov, &r->map, flags);
    } else {
        ret = read_co_driver(n, r->off, iov, flags);
    }
    read_run_end(r);
    return ret;
}

int read_co_mapped(struct node *n, uint64_t off, struct iov iov,
                   const struct mapping *m, unsigned flags)
{
    struct run r = {
        .n = n,
        .off = off,
        .len = iov.len,
        .mapped = true,
        .map = *m,
    };

    return run_co_read(&r, iov, flags);
}

/* Several runs: fragments of clusters, compressed clusters on several
 * processors. */
struct batch {
    uint64_t off; /* of the request */
    struct iov iov;
    unsigned flags, n;
    struct run runs[RUNS_AT_ONCE];
};

static CO_FN int batch_co_read(void *arg, unsigned i)
{
    struct batch *b = arg;
    struct run *r = &b->runs[i];

    return run_co_read(r, iov_slice(b->iov, r->off - b->off, r->len), b->flags);
}

/* Find the runs from @pos on, up to as many as are read at once. */
static CO_FN int batch_co_find(struct batch *b, struct node *n, size_t *pos)
{
    int ret = 0;

    while (b->n < RUNS_AT_ONCE && *pos < b->iov.len && ret == 0) {
        struct run *r = &b->runs[b->n];

        ret = run_co_find(n, b->off + *pos, b->iov.len - *pos, r);
        b->n += ret == 0;
        *pos += ret == 0 ? r->len : 0;
    }
    return ret;
}

/* @iov in several runs, of which @first is found. */
static CO_FN int read_co_runs(struct node *n, uint64_t off, struct iov iov,
                              unsigned flags, const struct run *first)
{
    struct batch b = { .off = off, .iov = iov, .flags = flags, .n = 1 };
    size_t pos = first->len;
    int ret;

    b.runs[0] = *first;
    do {
        ret = batch_co_find(&b, n, &pos);
        if (ret == 0) {
            ret = parallel_co_for(graph_loop(n->graph), b.n, b.n, batch_co_read,
                                  &b);
        }
        while (b.n > 0) { /* after a failure, those that were not read */
            read_run_end(&b.runs[--b.n]);
        }
    } while (ret == 0 && pos < iov.len);
    return ret;
}

int read_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                     unsigned flags)
{
    struct run first;
    int ret;

    if (!reads_by_map(n)) {
        return read_co_driver(n, off, iov, flags);
    }
    ret = run_co_find(n, off, iov.len, &first);
    if (ret < 0) {
        return ret;
    }
    return first.len == iov.len ? run_co_read(&first, iov, flags)
                                : read_co_runs(n, off, iov, flags, &first);
}
