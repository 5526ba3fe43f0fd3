/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-ahead.h"

#include <glib.h>

#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-client.h"

#define BLOCKS_MAX 16u
#define MEMORY_MAX (32u * 1024 * 1024)
#define DEPTH_MAX 8u
#define ENDS 32u

struct block {
    struct http_ahead *ahead;
    uint64_t off, len; /* len 0: free */
    uint8_t *data;
    bool loading, background;
    int ret;        /* of fetching it */
    unsigned users; /* who wait for it or copy from it */
    unsigned depth; /* how many more to have behind it */
    bool is_read;   /* to its end */
    uint64_t turn;  /* when it was loaded, in turns of the clock */
    struct co_queue waiters;
};

struct http_ahead {
    struct http_client *client;
    uint64_t block;
    struct block blocks[BLOCKS_MAX];
    unsigned nblocks;
    uint64_t ends[ENDS]; /* where recent reads ended; 0: nowhere */
    unsigned next_end;
    uint64_t clock; /* counts attempts to load a block */
    struct co_latch loads;
};

struct http_ahead *http_ahead_new(struct http_client *client, uint64_t block)
{
    struct http_ahead *a = g_new0(struct http_ahead, 1);

    a->client = client;
    a->block = block;
    a->nblocks = block ? CLAMP(MEMORY_MAX / (unsigned)block, 2, BLOCKS_MAX) : 0;
    return a;
}

void http_ahead_co_free(struct http_ahead *a)
{
    if (!a) {
        return;
    }
    co_latch_co_wait(&a->loads);
    for (unsigned i = 0; i < a->nblocks; i++) {
        g_free(a->blocks[i].data);
    }
    g_free(a);
}

/* --- sequences --- */

/* Does a read at @off go on where another has ended? From now on one has ended
 * at @end. */
static bool ahead_is_sequence(struct http_ahead *a, uint64_t off, uint64_t end)
{
    for (unsigned i = 0; i < ENDS; i++) {
        if (a->ends[i] && a->ends[i] == off) {
            a->ends[i] = end;
            return true;
        }
    }
    a->ends[a->next_end] = end;
    a->next_end = (a->next_end + 1) % ENDS;
    return false;
}

/* --- blocks --- */

static struct block *ahead_find(struct http_ahead *a, uint64_t off)
{
    for (unsigned i = 0; i < a->nblocks; i++) {
        struct block *b = &a->blocks[i];

        if (off >= b->off && off - b->off < b->len) {
            return b;
        }
    }
    return NULL;
}

/* May another part of the file have it? What was read ahead waits to be read,
 * unless so much was loaded since that nobody seems to come. */
static bool block_is_free(const struct http_ahead *a, const struct block *b)
{
    return !b->loading && b->users == 0 &&
           (b->len == 0 || b->is_read || a->clock - b->turn > 2 * a->nblocks);
}

/* The one that was loaded first. */
static struct block *ahead_take(struct http_ahead *a)
{
    struct block *best = NULL;

    for (unsigned i = 0; i < a->nblocks; i++) {
        struct block *b = &a->blocks[i];

        if (block_is_free(a, b) && (!best || b->turn < best->turn)) {
            best = b;
        }
    }
    return best;
}

static CO_FN void block_load_entry(void *arg)
{
    struct block *b = arg;
    struct http_ahead *a = b->ahead;
    struct iovec v;

    b->ret = http_client_co_read(a->client, b->off,
                                 iov_one(&v, b->data, b->len), b->background);
    if (b->ret < 0) {
        b->len = 0; /* who comes from now on reads for himself */
        b->turn = 0;
    }
    b->loading = false;
    co_queue_wake_all(&b->waiters);
    co_latch_done(&a->loads);
}

/* Begin to fetch a block at @off. NULL: no room. */
static struct block *ahead_load(struct http_ahead *a, uint64_t off,
                                unsigned depth, bool background)
{
    struct block *b;

    a->clock++;
    b = ahead_take(a);
    if (b && !b->data) {
        b->data = g_try_malloc(a->block);
    }
    if (!b || !b->data) {
        return NULL;
    }
    b->ahead = a;
    b->off = off;
    b->len = MIN(a->block, http_client_pin(a->client)->size - off);
    b->depth = depth;
    b->background = background;
    b->turn = a->clock;
    b->is_read = false;
    b->loading = true;
    co_latch_add(&a->loads);
    co_start(loop_current(), block_load_entry, b);
    return b;
}

/* There shall be @depth blocks from @off on. */
static void ahead_extend(struct http_ahead *a, uint64_t off, unsigned depth,
                         bool background)
{
    uint64_t size = http_client_pin(a->client)->size;

    for (unsigned i = 0; i < depth && off < size; i++) {
        struct block *b = ahead_find(a, off);

        if (!b) {
            b = ahead_load(a, off, MIN(depth + 1, DEPTH_MAX), background);
        }
        if (!b) {
            return;
        }
        off = b->off + b->len;
    }
}

/* --- reading --- */

/* Copy from @b as much as it has of @dst. It stays what it is for its users. */
static CO_FN int block_co_copy(struct block *b, uint64_t off, struct iov dst,
                               size_t *ret_done)
{
    while (b->loading) {
        co_queue_co_wait(&b->waiters);
    }
    if (b->ret < 0) {
        return b->ret;
    }
    g_assert(off >= b->off && off - b->off < b->len);
    *ret_done = MIN(dst.len, b->len - (off - b->off));
    iov_from_buf(dst, 0, b->data + (off - b->off), *ret_done);
    b->is_read |= off + *ret_done == b->off + b->len;
    return 0;
}

/* From blocks, as far as there are some in a row. */
static CO_FN int ahead_co_copy(struct http_ahead *a, uint64_t off,
                               struct iov dst, bool background,
                               size_t *ret_done)
{
    size_t done = 0, part = 0;
    struct block *b;

    while (done < dst.len && (b = ahead_find(a, off + done))) {
        b->users++; /* it is not given to another part of the file */
        ahead_extend(a, b->off + b->len, b->depth, background);
        int ret = block_co_copy(b, off + done,
                                iov_slice(dst, done, dst.len - done), &part);
        b->users--;
        if (ret < 0) {
            return ret;
        }
        done += part;
    }
    *ret_done = done;
    return 0;
}

int http_ahead_co_read(struct http_ahead *a, uint64_t off, struct iov dst,
                       bool background)
{
    uint64_t end = off + dst.len;
    bool is_sequence = ahead_is_sequence(a, off, end);

    if (dst.len >= a->block) {
        return http_client_co_read(a->client, off, dst, background);
    }
    size_t done = 0;
    int ret = ahead_co_copy(a, off, dst, background, &done);

    if (ret < 0 || done == dst.len) {
        return ret;
    }
    if (is_sequence) {
        ahead_extend(a, end, 1, background);
    }
    return http_client_co_read(a->client, off + done,
                               iov_slice(dst, done, dst.len - done),
                               background);
}
