/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ram.h"
#include <glib.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"

#define BASE_UNIT 512

struct ram_node {
    struct ram_disk *disk;
};

static GHashTable *disks;

struct ram_disk *ram_disk_new(const char *name, uint64_t size, uint32_t cluster)
{
    struct ram_disk *d = g_new0(struct ram_disk, 1);
    uint64_t units;

    d->name = g_strdup(name);
    d->size = size;
    d->cluster = cluster;
    d->unit = cluster ? cluster : BASE_UNIT;
    units = (size + d->unit - 1) / d->unit;
    d->data = g_malloc0(units * d->unit);
    d->state = g_malloc0(units);
    d->allocating = g_malloc0(units);
    if (!cluster) {
        memset(d->state, RAM_DATA, units);
    }
    if (!disks) {
        disks = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_assert(!g_hash_table_contains(disks, name));
    g_hash_table_insert(disks, d->name, d);
    return d;
}

void ram_disk_free(struct ram_disk *d)
{
    g_hash_table_remove(disks, d->name);
    if (g_hash_table_size(disks) == 0) {
        g_hash_table_unref(disks);
        disks = NULL;
    }
    g_free(d->name);
    g_free(d->data);
    g_free(d->state);
    g_free(d->allocating);
    g_free(d);
}

void ram_fill_buf(uint8_t *buf, uint64_t off, uint64_t len, unsigned seed)
{
    for (uint64_t i = 0; i < len; i++) {
        uint64_t at = off + i;

        /* Never 0, so that filled clusters are never all zeroes. */
        buf[i] = 1 + (at * 2654435761u + (at >> 9) * 40503 + seed * 97) % 255;
    }
}

void ram_disk_set(struct ram_disk *d, uint64_t off, uint64_t len,
                  enum ram_state state)
{
    uint64_t end = off + len;

    g_assert(off % d->unit == 0 && (end % d->unit == 0 || end == d->size));
    memset(d->state + off / d->unit, state,
           (end + d->unit - 1) / d->unit - off / d->unit);
    if (state != RAM_DATA) {
        memset(d->data + off, 0, len);
    }
}

void ram_disk_fill(struct ram_disk *d, uint64_t off, uint64_t len,
                   unsigned seed)
{
    ram_disk_set(d, off, len, RAM_DATA);
    ram_fill_buf(d->data + off, off, len, seed);
}

enum ram_state ram_disk_state(const struct ram_disk *d, uint64_t off)
{
    g_assert(off < d->size);
    return d->state[off / d->unit];
}

/* --- the driver --- */

static struct ram_disk *disk_of(const struct node *n)
{
    struct ram_node *s = n->state;

    return s->disk;
}

static CO_FN int ram_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                             uint64_t len, bool after)
{
    if (!after) {
        d->count[op]++;
        d->bytes[op] += len;
    }
    return d->co_hook ? d->co_hook(d, op, off, len, after) : 0;
}

static CO_FN int ram_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct ram_node *s = n->state;
    g_autofree char *name = NULL;
    int r = opts_take_str(o, "disk", &name, err);

    g_assert(r == 1);
    s->disk = g_hash_table_lookup(disks, name);
    g_assert(s->disk);
    n->size = s->disk->size;
    return node_co_open_backing(n, o, NULL, NULL, err);
}

static CO_FN void ram_co_close(struct node *n)
{
}

static void ram_limits(struct node *n, struct node_limits *l)
{
    const struct ram_disk *d = disk_of(n);

    l->request_alignment = 1;
    l->cluster_size = d->cluster;
    l->mem_alignment = 1;
    l->fast_zero = d->cluster && !d->no_zero_clusters;
}

static void check_request(const struct ram_disk *d, uint64_t off, uint64_t len)
{
    g_assert(len > 0 && off < d->size && len <= d->size - off);
}

static CO_FN int ram_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    struct ram_disk *d = disk_of(n);
    int r;

    check_request(d, off, iov.len);
    r = ram_co_hook(d, RAM_READ, off, iov.len, false);
    if (r < 0) {
        return r;
    }
    iov_from_buf(iov, 0, d->data + off, iov.len);
    return ram_co_hook(d, RAM_READ, off, iov.len, true);
}

/* Nobody else may be allocating a cluster that this write allocates. */
static void lock_clusters(struct ram_disk *d, uint64_t off, uint64_t len,
                          uint8_t *mine)
{
    for (uint64_t u = off / d->unit; u <= (off + len - 1) / d->unit; u++) {
        uint64_t i = u - off / d->unit;

        mine[i] = d->state[u] == RAM_ABSENT;
        g_assert(!mine[i] || !d->allocating[u]);
        d->allocating[u] |= mine[i];
    }
}

static void unlock_clusters(struct ram_disk *d, uint64_t off, uint64_t len,
                            const uint8_t *mine)
{
    for (uint64_t u = off / d->unit; u <= (off + len - 1) / d->unit; u++) {
        if (mine[u - off / d->unit]) {
            d->allocating[u] = 0;
        }
    }
}

static CO_FN int ram_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    struct ram_disk *d = disk_of(n);
    g_autofree uint8_t *mine = g_malloc0(iov.len / d->unit + 2);
    g_autofree uint8_t *buf = g_malloc(iov.len);
    int r;

    check_request(d, off, iov.len);
    lock_clusters(d, off, iov.len, mine);
    iov_to_buf(iov, 0, buf, iov.len);
    r = ram_co_hook(d, RAM_WRITE, off, iov.len, false);
    if (r == 0) {
        uint64_t last = (off + iov.len - 1) / d->unit;

        for (uint64_t u = off / d->unit; u <= last; u++) {
            if (d->state[u] != RAM_DATA) {
                memset(d->data + u * d->unit, 0, d->unit);
            }
            d->state[u] = RAM_DATA;
        }
        memcpy(d->data + off, buf, iov.len);
    }
    unlock_clusters(d, off, iov.len, mine);
    return r < 0 ? r : ram_co_hook(d, RAM_WRITE, off, iov.len, true);
}

static CO_FN int ram_co_zero(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags)
{
    struct ram_disk *d = disk_of(n);
    g_autofree uint8_t *mine = NULL;
    int r;

    if (!d->cluster || d->no_zero_clusters) {
        return -ENOTSUP;
    }
    len = MIN(len, d->size - off);
    g_assert(off % d->cluster == 0);
    g_assert((off + len) % d->cluster == 0 || off + len == d->size);
    mine = g_malloc0(len / d->unit + 2);
    lock_clusters(d, off, len, mine);
    r = ram_co_hook(d, RAM_ZERO, off, len, false);
    if (r == 0) {
        ram_disk_set(d, off, len, RAM_ZEROES);
    }
    unlock_clusters(d, off, len, mine);
    return r < 0 ? r : ram_co_hook(d, RAM_ZERO, off, len, true);
}

/* What is allocated becomes zeroes; the rest stays as it was. */
static CO_FN int ram_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct ram_disk *d = disk_of(n);
    int r = ram_co_hook(d, RAM_DISCARD, off, len, false);

    for (uint64_t at = off; r == 0 && at < off + len; at += d->unit) {
        uint64_t step = MIN(d->unit, MIN(off + len, d->size) - at);

        if (ram_disk_state(d, at) != RAM_ABSENT) {
            ram_disk_set(d, at, step, RAM_ZEROES);
        }
    }
    return r < 0 ? r : ram_co_hook(d, RAM_DISCARD, off, len, true);
}

static CO_FN int ram_co_map(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map)
{
    static const enum map_kind kind_of[] = {
        [RAM_ABSENT] = MAP_ABSENT,
        [RAM_DATA] = MAP_DATA,
        [RAM_ZEROES] = MAP_ZERO,
    };
    struct ram_disk *d = disk_of(n);
    enum ram_state state;
    uint64_t at;
    int r = ram_co_hook(d, RAM_STATUS, off, len, false);

    if (r < 0) {
        return r;
    }
    state = ram_disk_state(d, off);
    at = off - off % d->unit;
    do {
        at += d->unit;
    } while (at < off + len && ram_disk_state(d, at) == state);
    ret_map->kind = kind_of[state];
    ret_map->len = MIN(at, off + len) - off;
    return 0;
}

static const char *const ram_option_names[] = { "disk", "backing", NULL };

const struct node_driver ram_driver = {
    .name = "ram",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct ram_node),
    .supports_backing = true,
    .option_names = ram_option_names,
    .co_open = ram_co_open,
    .co_close = ram_co_close,
    .limits = ram_limits,
    .co_preadv = ram_co_preadv,
    .co_pwritev = ram_co_pwritev,
    .co_zero = ram_co_zero,
    .co_discard = ram_co_discard,
    .co_map = ram_co_map,
};
