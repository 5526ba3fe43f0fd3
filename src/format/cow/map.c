/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which clusters the data file holds.
 *
 * A lookup may yield to load one block; its answer is then formed without
 * yielding, so it is a snapshot.  It stays true for whoever holds the range: a
 * cluster only ever gains its bit.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "graph/memory.h"
#include "loop/io.h"

/* Groups that one answer spans: a look at terabytes must end, too. */
#define GROUPS_AT_ONCE 65536

static CO_FN int cow_block_co_load(void *arg, struct table *t)
{
    struct overlay *o = arg;
    struct iovec v;

    return node_co_preadv(cow_file(o), COW_MAP_AT + t->key * COW_BLOCK_BYTES,
                          iov_one(&v, t->data, COW_BLOCK_BYTES), 0);
}

void cow_map_init(struct overlay *o)
{
    metadata_cache_init(&o->blocks, COW_BLOCK_BYTES, OVERLAY_CACHE_BYTES,
                        cow_block_co_load, o);
    metadata_cache_set_budget(&o->blocks, graph_memory(o->node->graph),
                              METADATA_CACHE_IDLE_S);
}

/* --- the summary --- */

enum cow_group cow_summary_get(const struct overlay *o, uint64_t group)
{
    unsigned bits = o->summary[group / 4] >> group % 4 * 2 & 3;

    return bits & COW_GROUP_ALL ? COW_GROUP_ALL : (enum cow_group)bits;
}

void cow_summary_set(struct overlay *o, uint64_t group, enum cow_group what)
{
    uint8_t *p = &o->summary[group / 4];
    uint8_t bits = (uint8_t)(what << group % 4 * 2);

    if ((*p & bits) != bits) {
        *p |= bits;
        o->summary_dirty[group / 4 / COW_BLOCK_BYTES] = 1;
    }
}

int cow_co_summary_load(struct overlay *o, uint64_t groups, GError **err)
{
    size_t bytes = round_up(groups / 4 + 1, COW_BLOCK_BYTES);
    uint8_t *buf, *dirty;
    struct iovec v;
    int ret;

    bytes = MIN(bytes, COW_GROUPS_MAX / 4);
    buf = io_buf_get(bytes);
    if (!buf) {
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the "
                       "overlay's summary",
                       bytes);
    }
    ret = node_co_preadv(cow_file(o), COW_SUMMARY_AT, iov_one(&v, buf, bytes),
                         0);
    if (ret < 0) {
        io_buf_put(buf, bytes);
        return err_set_errno(err, -ret,
                             "Could not read the overlay's "
                             "summary");
    }
    dirty = g_malloc0(bytes / COW_BLOCK_BYTES);
    if (o->summary) {
        io_buf_put(o->summary, o->summary_bytes);
        g_free(o->summary_dirty);
    }
    o->summary = buf;
    o->summary_dirty = dirty;
    o->summary_bytes = bytes;
    o->n_groups = groups;
    return 0;
}

/* --- a block --- */

/* Where the run of equal bits from bit @at of @block ends, at most @end. */
static unsigned bits_same(const uint8_t *block, unsigned at, unsigned end)
{
    uint64_t want = block[at / 8] >> at % 8 & 1 ? UINT64_MAX : 0;

    while (at < end) {
        uint64_t word = get_le64(block + at / 64 * 8) ^ want;

        word >>= at % 64;
        if (word) {
            return MIN(at + (unsigned)__builtin_ctzll(word), end);
        }
        at += 64 - at % 64;
    }
    return end;
}

/* Is cluster @idx here, by the sidecar? *@end comes down to where the answer
 * ends. False: a block that is not in memory says it. No yield. */
static bool map_find(struct overlay *o, uint64_t idx, uint64_t *end,
                     bool *ret_here)
{
    uint64_t group = idx >> COW_GROUP_BITS, next;
    enum cow_group what = cow_summary_get(o, group);
    struct table *t;

    if (what != COW_GROUP_SOME) {
        uint64_t last = min_u64(o->n_groups, group + GROUPS_AT_ONCE);

        for (next = group + 1; next < last && next << COW_GROUP_BITS < *end &&
                               cow_summary_get(o, next) == what;
             next++) {
        }
        *end = min_u64(*end, next << COW_GROUP_BITS);
        *ret_here = what == COW_GROUP_ALL;
        return true;
    }
    t = metadata_cache_peek(&o->blocks, group);
    if (!t) {
        return false;
    }
    next = group << COW_GROUP_BITS;
    *ret_here = ((uint8_t *)t->data)[(idx - next) / 8] >> (idx - next) % 8 & 1;
    *end = next + bits_same(t->data, (unsigned)(idx - next),
                            (unsigned)min_u64(*end - next, OVERLAY_GROUP));
    return true;
}

/* Clusters from @first, at most to @end, that are all here or all not. 0: the
 * first one's block is not in memory. */
static uint64_t run_find(struct overlay *o, uint64_t first, uint64_t end,
                         bool *ret_here)
{
    uint64_t at = first;

    while (at < end) {
        uint64_t next = end;
        bool here = cow_pending_find(o, at, &next);

        if (!here && !map_find(o, at, &next, &here)) {
            break;
        }
        if (at == first) {
            *ret_here = here;
        } else if (here != *ret_here || at - first >= (uint64_t)GROUPS_AT_ONCE
                                                          << COW_GROUP_BITS) {
            break;
        }
        at = next;
    }
    return at - first;
}

int cow_co_lookup(struct overlay *o, uint64_t off, uint64_t len, bool *ret_here,
                  uint64_t *ret_len)
{
    uint64_t first = off >> o->cluster_bits;
    uint64_t end = ((off + len - 1) >> o->cluster_bits) + 1, n;
    int ret;

    if (o->complete) {
        *ret_here = true;
        *ret_len = len;
        return 0;
    }
    while ((n = run_find(o, first, end, ret_here)) == 0) {
        struct table *t;

        ret = metadata_cache_co_get(&o->blocks, first >> COW_GROUP_BITS, &t);
        if (ret < 0) {
            return ret;
        }
        n = run_find(o, first, end, ret_here);
        metadata_cache_put(&o->blocks, t);
        if (n > 0) {
            break;
        }
    }
    *ret_len = min_u64(((first + n) << o->cluster_bits) - off, len);
    return 0;
}

int cow_co_find_clear(struct overlay *o, uint64_t idx, uint64_t *ret_idx)
{
    uint64_t all = cow_clusters(&o->hdr);

    while (idx < all) {
        uint64_t end = all;
        struct table *t = NULL;
        bool here = false;

        if (cow_summary_get(o, idx >> COW_GROUP_BITS) == COW_GROUP_SOME) {
            int ret = metadata_cache_co_get(&o->blocks, idx >> COW_GROUP_BITS,
                                            &t);

            if (ret < 0) {
                return ret;
            }
        }
        map_find(o, idx, &end, &here);
        if (t) {
            metadata_cache_put(&o->blocks, t);
        }
        if (!here) {
            break;
        }
        idx = end;
    }
    *ret_idx = idx;
    return 0;
}
