/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata tables of an image in memory, bounded in bytes: tables (or slices of
 * tables) of one size, each under a key that its driver chooses.
 *
 * Unused tables are evicted, the least recently used one first.  When all are
 * in use whoever wants another waits for one to be put; no caller waits while
 * it holds one, so the wait ends.  A table that is being loaded is never
 * evicted, so there is one copy at a time, and callers who want one table share
 * its load.
 *
 * Of the daemon's memory budget a cache that has tables has a share, which
 * bounds it too, and gives back what was not asked for in a while.
 *
 * Eviction never writes: whoever changes a table holds it until it is written.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/memory-budget.h"
#include "loop/co.h"

struct table {
    uint64_t key;
    void *data; /* tables.table_bytes, as in the file */
    /* format/alloc/metadata-cache.c's */
    unsigned refs;
    bool loading;
    int error;
    struct co_queue waiters;
    GList lru;      /* in tables.lru while refs == 0 */
    bool asked_for; /* since the cache was cleaned last */
};

/* In the driver's state; members are private. */
struct metadata_cache {
    GHashTable *by_key; /* NULL before metadata_cache_init() */
    GQueue lru;         /* unused ones, oldest first */
    size_t table_bytes;
    uint64_t bytes, max_bytes;
    struct memory_member memory; /* joined while there are tables */
    struct memory_budget *budget;
    struct co_queue room;
    CO_FN_PTR int (*co_load)(void *arg, struct table *t);
    void *arg;
};

/* @co_load fills t->data of t->key; its failure is that of all who wait, and is
 * not kept. At least one table fits whatever @max_bytes and its share of the
 * budget say. */
void metadata_cache_init(struct metadata_cache *c, size_t table_bytes,
                         uint64_t max_bytes,
                         int (*co_load)(void *arg, struct table *t), void *arg);
/* The budget that it shares with others, and after how many seconds what was
 * not asked for is given back; 0: never. Before the first table. */
void metadata_cache_set_budget(struct metadata_cache *c,
                               struct memory_budget *budget, unsigned idle_s);
/* What a cache of tables is cleaned after by default: as QEMU's
 * cache-clean-interval. */
#define METADATA_CACHE_IDLE_S 600
/* The most that it may hold from now on. */
void metadata_cache_set_max(struct metadata_cache *c, uint64_t max_bytes);
/* Free everything; nobody holds a table. Fine without metadata_cache_init(). */
void metadata_cache_done(struct metadata_cache *c);
/* Forget all tables; nobody holds one. */
void metadata_cache_clear(struct metadata_cache *c);
/* Forget @key, which nobody holds, if it is there. */
void metadata_cache_forget(struct metadata_cache *c, uint64_t key);
/* Does anybody hold @key, or wait for it? */
bool metadata_cache_is_held(const struct metadata_cache *c, uint64_t key);

/* The table of @key from memory, or loaded. Put it. */
CO_FN int metadata_cache_co_get(struct metadata_cache *c, uint64_t key,
                                struct table **ret_t);
/* If it is in memory: borrowed until the next yield. */
struct table *metadata_cache_peek(struct metadata_cache *c, uint64_t key);
/* A new table of zeroes under @key, which is not in the cache and which nobody
 * else asks for. Put it. */
CO_FN int metadata_cache_co_new(struct metadata_cache *c, uint64_t key,
                                struct table **ret_t);
/* Hold @t, which was borrowed or is held, once more. */
void metadata_cache_ref(struct metadata_cache *c, struct table *t);
void metadata_cache_put(struct metadata_cache *c, struct table *t);
