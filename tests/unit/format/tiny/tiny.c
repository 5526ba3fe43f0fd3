/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest format that allocates: what a new one has to write, once the
 * graph does the plain I/O and format/alloc/ keeps the order of pointers.
 *
 * A file is a header of one cluster (the size of the disk), one table with
 * an entry for each cluster of the disk, held in memory, and clusters in the
 * order in which they were allocated.  An entry is 0 (absent), 1 (zeroes) or the
 * offset of the cluster.  The backing file is named by options alone.
 */
#include "tiny.h"
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/alloc/group.h"
#include "format/alloc/pending.h"
#include "graph/driver.h"
#include "loop/io.h"

#define CLUSTER UINT64_C(4096)
#define ZERO UINT64_C(1) /* an entry */

struct tiny {
    struct node *node;
    struct group *group; /* NULL: read-only */
    struct pending pending;
    GTree *publishing;
    uint8_t *table; /* of little-endian entries, as in the file */
    size_t table_bytes;
    uint64_t end; /* where the next cluster goes */
};

static size_t table_bytes(uint64_t size)
{
    return round_up(round_up(size, CLUSTER) / CLUSTER * 8, CLUSTER);
}

/* --- the map --- */

static uint64_t tiny_entry(const struct tiny *t, uint64_t idx)
{
    for (unsigned i = t->pending.n; i-- > 0;) { /* the newest first */
        gpointer v = g_tree_lookup(t->pending.gens[i].map,
                                   GSIZE_TO_POINTER(idx));
        if (v) {
            return GPOINTER_TO_SIZE(v);
        }
    }
    return get_le64(t->table + idx * 8);
}

static CO_FN int tiny_co_map(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags, struct mapping *ret_map)
{
    const struct tiny *t = n->state;
    uint64_t first = tiny_entry(t, off / CLUSTER), next = first;
    uint64_t end = round_down(off, CLUSTER);

    do {
        end += CLUSTER;
        next += first > ZERO ? CLUSTER : 0;
    } while (end < off + len && tiny_entry(t, end / CLUSTER) == next);
    *ret_map = (struct mapping) {
        .kind = first == 0      ? MAP_ABSENT
                : first == ZERO ? MAP_ZERO
                                : MAP_DATA,
        .len = min_u64(len, end - off),
        .in_place = first > ZERO,
        .child = first > ZERO ? node_file(n) : NULL,
        .host = first > ZERO ? first + off % CLUSTER : 0,
    };
    return 0;
}

/* --- allocating --- */

static void tiny_pend(struct tiny *t, uint64_t gen, uint64_t idx, uint64_t n,
                      uint64_t entry)
{
    GTree *map = pending_of(&t->pending, gen, NULL)->map;

    for (uint64_t i = 0; i < n; i++) {
        g_tree_replace(map, GSIZE_TO_POINTER(idx + i), GSIZE_TO_POINTER(entry));
        entry += entry > ZERO ? CLUSTER : 0;
    }
}

/* Only what is not data comes here: the graph writes in place by itself. The
 * rest of a new cluster was never written and reads as zeroes. */
static CO_FN int tiny_co_alloc(struct tiny *t, uint64_t off, struct iov iov)
{
    uint64_t idx = off / CLUSTER, host = t->end;
    uint64_t n = (off + iov.len - 1) / CLUSTER - idx + 1;
    uint64_t gen = group_join(t->group, iov.len);
    int ret;

    t->end += n * CLUSTER;
    ret = node_co_pwritev(node_file(t->node), host + off % CLUSTER, iov, 0);
    if (ret == 0) {
        tiny_pend(t, gen, idx, n, host);
    }
    group_data_done(t->group, gen);
    return ret;
}

static CO_FN int tiny_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    uint64_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        struct iov part;
        struct mapping m;

        ret = tiny_co_map(n, off + done, iov.len - done, 0, &m);
        part = iov_slice(iov, done, m.len);
        ret = m.kind == MAP_DATA ? node_co_pwritev(m.child, m.host, part, 0)
                                 : tiny_co_alloc(n->state, off + done, part);
        done += m.len;
    }
    return ret;
}

static CO_FN int tiny_co_zero(struct node *n, uint64_t off, uint64_t len,
                              unsigned flags)
{
    struct tiny *t = n->state;
    uint64_t gen = group_join(t->group, 0);

    tiny_pend(t, gen, off / CLUSTER, round_up(len, CLUSTER) / CLUSTER, ZERO);
    group_data_done(t->group, gen);
    return 0;
}

/* --- publishing --- */

static gboolean tiny_older(gpointer key, gpointer value, gpointer map)
{
    if (!g_tree_lookup(map, key)) {
        g_tree_insert(map, key, value);
    }
    return FALSE;
}

static CO_FN int tiny_co_before(void *arg, uint64_t gen)
{
    struct tiny *t = arg;
    struct pending_gen *p = pending_merge(&t->pending, gen, tiny_older);

    t->publishing = p ? p->map : NULL;
    return 0;
}

static CO_FN int tiny_co_publish(void *arg, uint64_t gen)
{
    struct tiny *t = arg;
    GTreeNode *at = t->publishing ? g_tree_node_first(t->publishing) : NULL;
    struct iovec v;

    for (; at; at = g_tree_node_next(at)) {
        put_le64(t->table + pending_idx(at) * 8,
                 GPOINTER_TO_SIZE(g_tree_node_value(at)));
    }
    return node_co_pwritev(node_file(t->node), CLUSTER,
                           iov_one(&v, t->table, t->table_bytes), 0);
}

static void tiny_published(void *arg, uint64_t gen)
{
    struct tiny *t = arg;

    pending_drop(&t->pending, gen);
}

static const struct group_ops tiny_group_ops = {
    .co_before = tiny_co_before,
    .co_publish = tiny_co_publish,
    .published = tiny_published,
};

static CO_FN int tiny_co_flush(struct node *n)
{
    struct tiny *t = n->state;

    return t->group ? group_co_flush(t->group) : 0;
}

static CO_FN void tiny_co_quiesce(struct node *n)
{
    struct tiny *t = n->state;

    if (t->group) {
        group_co_quiesce(t->group);
    }
}

static void tiny_resume(struct node *n)
{
    struct tiny *t = n->state;

    if (t->group) {
        group_resume(t->group);
    }
}

/* --- images --- */

static CO_FN int tiny_co_read(struct tiny *t, GError **err)
{
    struct node *file = node_file(t->node);
    uint8_t header[8];
    struct iovec v;
    int ret = node_co_preadv(file, 0, iov_one(&v, header, sizeof(header)), 0);

    t->node->size = get_le64(header);
    t->table_bytes = table_bytes(t->node->size);
    t->table = io_buf_get(t->table_bytes);
    if (ret == 0) {
        ret = node_co_preadv(file, CLUSTER,
                             iov_one(&v, t->table, t->table_bytes), 0);
    }
    t->end = round_up(max_u64(file->size, CLUSTER + t->table_bytes), CLUSTER);
    return ret < 0 ? err_set_errno(err, -ret, "Could not read the image") : 0;
}

static CO_FN int tiny_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    struct tiny *t = n->state;
    int ret = node_co_open_file(n, o, err);

    t->node = n;
    if (ret == 0) {
        ret = tiny_co_read(t, err);
    }
    if (ret == 0 && (n->flags & NODE_RDWR)) {
        t->group = group_new(graph_loop(n->graph), n, node_file(n),
                             &tiny_group_ops, t, 0, 0);
    }
    return ret < 0 ? ret : node_co_open_backing(n, o, NULL, NULL, err);
}

static CO_FN void tiny_co_close(struct node *n)
{
    struct tiny *t = n->state;

    tiny_co_flush(n);
    group_co_free(t->group);
    pending_drop(&t->pending, UINT64_MAX);
    if (t->table) {
        io_buf_put(t->table, t->table_bytes);
    }
}

static void tiny_limits(struct node *n, struct node_limits *l)
{
    l->cluster_size = CLUSTER;
    l->fast_zero = true;
}

static CO_FN int tiny_co_create(struct node *file, struct opts *o, GError **err)
{
    uint8_t header[8];
    uint64_t size = 0;
    struct iovec v;
    int ret = opts_take_size(o, "size", &size, err);

    if (ret <= 0) {
        return ret < 0 ? ret : opts_missing("size", err);
    }
    put_le64(header, size);
    ret = node_co_truncate(file, CLUSTER + table_bytes(size), err);
    if (ret == 0) {
        ret = node_co_pwritev(file, 0, iov_one(&v, header, sizeof(header)), 0);
    }
    return ret;
}

static const char *const tiny_option_names[] = { "file", "backing", NULL };

const struct node_driver tiny_driver = {
    .name = "tiny",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct tiny),
    .supports_backing = true,
    .option_names = tiny_option_names,
    .co_open = tiny_co_open,
    .co_close = tiny_co_close,
    .limits = tiny_limits,
    .co_map = tiny_co_map,
    .co_pwritev = tiny_co_pwritev,
    .co_zero = tiny_co_zero,
    .co_flush = tiny_co_flush,
    .co_create = tiny_co_create,
    .co_quiesce = tiny_co_quiesce,
    .resume = tiny_resume,
};
