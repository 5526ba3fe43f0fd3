/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cache of metadata tables: see format/alloc/metadata-cache.h.
 *
 * Invariants
 *   - A table is in by_key until it is evicted or its load failed; then it
 *     lives on for those who waited for it.
 *   - It is in the LRU queue exactly while refs == 0.
 */
#include "format/alloc/metadata-cache.h"
#include <errno.h>
#include <string.h>
#include "loop/io.h"

static void table_free(struct metadata_cache *c, struct table *t)
{
    c->bytes -= c->table_bytes;
    if (c->bytes == 0) {
        memory_leave(&c->memory);
    }
    if (t->data) {
        io_buf_put(t->data, c->table_bytes);
    }
    g_free(t);
}

void metadata_cache_init(struct metadata_cache *c, size_t table_bytes,
                         uint64_t max_bytes,
                         int (*co_load)(void *arg, struct table *t), void *arg)
{
    *c = (struct metadata_cache) {
        .by_key = g_hash_table_new(g_direct_hash, g_direct_equal),
        .table_bytes = table_bytes,
        .max_bytes = max_bytes,
        .co_load = co_load,
        .arg = arg,
    };
    g_queue_init(&c->lru);
}

static void evict(struct metadata_cache *c, struct table *t)
{
    g_queue_unlink(&c->lru, &t->lru);
    g_hash_table_remove(c->by_key, GSIZE_TO_POINTER(t->key));
    table_free(c, t);
}

static bool evict_oldest(struct metadata_cache *c)
{
    GList *link = g_queue_peek_head_link(&c->lru);

    if (link) {
        evict(c, link->data);
    }
    return link != NULL;
}

static uint64_t cache_limit(const struct metadata_cache *c)
{
    return MIN(c->max_bytes, memory_share(&c->memory));
}

static void cache_shrink(void *arg, uint64_t share)
{
    struct metadata_cache *c = arg;

    while (c->bytes > share && evict_oldest(c)) {
    }
}

/* The clock algorithm with one round: what was not asked for since the last
 * one goes. */
static void cache_clean(void *arg)
{
    struct metadata_cache *c = arg;

    for (GList *l = c->lru.head, *next; l; l = next) {
        struct table *t = l->data;

        next = l->next;
        if (!t->asked_for) {
            evict(c, t);
        } else {
            t->asked_for = false;
        }
    }
}

void metadata_cache_set_max(struct metadata_cache *c, uint64_t max_bytes)
{
    c->max_bytes = max_bytes;
}

void metadata_cache_set_budget(struct metadata_cache *c,
                               struct memory_budget *budget, unsigned idle_s)
{
    c->budget = budget;
    c->memory = (struct memory_member) {
        .kind = MEMORY_CACHE,
        .shrink = cache_shrink,
        .clean = cache_clean,
        .arg = c,
        .idle_s = idle_s,
    };
}

void metadata_cache_clear(struct metadata_cache *c)
{
    while (evict_oldest(c)) {
    }
    g_assert(c->bytes == 0);
}

void metadata_cache_done(struct metadata_cache *c)
{
    if (c->by_key) {
        metadata_cache_clear(c);
        g_clear_pointer(&c->by_key, g_hash_table_destroy);
    }
}

static struct table *tables_find(const struct metadata_cache *c, uint64_t key)
{
    return g_hash_table_lookup(c->by_key, GSIZE_TO_POINTER(key));
}

void metadata_cache_forget(struct metadata_cache *c, uint64_t key)
{
    struct table *t = tables_find(c, key);

    if (t) {
        g_assert(t->refs == 0);
        evict(c, t);
        co_queue_wake_all(&c->room);
    }
}

bool metadata_cache_is_held(const struct metadata_cache *c, uint64_t key)
{
    const struct table *t = tables_find(c, key);

    return t && t->refs > 0;
}

void metadata_cache_ref(struct metadata_cache *c, struct table *t)
{
    t->asked_for = true;
    if (t->refs++ == 0) {
        g_queue_unlink(&c->lru, &t->lru);
    }
}

void metadata_cache_put(struct metadata_cache *c, struct table *t)
{
    g_assert(t->refs > 0);
    if (--t->refs > 0) {
        return;
    }
    if (t->error) {
        table_free(c, t); /* it has left the hash already */
    } else {
        g_queue_push_tail_link(&c->lru, &t->lru);
    }
    co_queue_wake_all(&c->room);
}

struct table *metadata_cache_peek(struct metadata_cache *c, uint64_t key)
{
    struct table *t = tables_find(c, key);

    if (!t || t->loading) {
        return NULL;
    }
    t->asked_for = true;
    if (t->refs == 0) { /* it was used just now: last to be evicted */
        g_queue_unlink(&c->lru, &t->lru);
        g_queue_push_tail_link(&c->lru, &t->lru);
    }
    return t;
}

/* A slot for a table that the cache lacks. 1: the table was loaded
 * meanwhile. */
static CO_FN int slot_co_get(struct metadata_cache *c, uint64_t key,
                             struct table **ret_t)
{
    struct table *t;

    while (c->bytes > 0 && c->bytes + c->table_bytes > cache_limit(c)) {
        if (!evict_oldest(c)) {
            co_queue_co_wait(&c->room);
            if (tables_find(c, key)) {
                return 1;
            }
        }
    }
    t = g_new0(struct table, 1);
    t->key = key;
    t->lru.data = t;
    t->refs = 1;
    t->asked_for = true;
    c->bytes += c->table_bytes;
    memory_join(c->budget, &c->memory);
    t->data = io_buf_get(c->table_bytes);
    if (!t->data) {
        table_free(c, t);
        return -ENOMEM;
    }
    g_hash_table_insert(c->by_key, GSIZE_TO_POINTER(key), t);
    *ret_t = t;
    return 0;
}

static CO_FN int tables_table_co_load(struct metadata_cache *c, struct table *t)
{
    int ret;

    t->loading = true;
    ret = c->co_load(c->arg, t);
    t->loading = false;
    if (ret < 0) {
        t->error = ret;
        g_hash_table_remove(c->by_key, GSIZE_TO_POINTER(t->key));
    }
    co_queue_wake_all(&t->waiters);
    return ret;
}

int metadata_cache_co_get(struct metadata_cache *c, uint64_t key,
                          struct table **ret_t)
{
    struct table *t;
    int ret;

    do {
        t = tables_find(c, key);
        ret = t ? 1 : slot_co_get(c, key, &t);
        if (ret < 0) {
            return ret;
        }
    } while (ret == 1 && !(t = tables_find(c, key)));
    if (ret == 0) {
        ret = tables_table_co_load(c, t);
    } else {
        metadata_cache_ref(c, t);
        while (t->loading) {
            co_queue_co_wait(&t->waiters);
        }
        ret = t->error;
    }
    if (ret < 0) {
        metadata_cache_put(c, t);
        return ret;
    }
    *ret_t = t;
    return 0;
}

int metadata_cache_co_new(struct metadata_cache *c, uint64_t key,
                          struct table **ret_t)
{
    int ret = slot_co_get(c, key, ret_t);

    g_assert(ret != 1); /* the caller is alone with @key */
    if (ret == 0) {
        memset((*ret_t)->data, 0, c->table_bytes);
    }
    return ret;
}
