/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/registry.h"
#include <pthread.h>
#include "base/err.h"
#include "graph/graph-int.h"

struct registry {
    gatomicrefcount refs;
    pthread_mutex_t lock;
    GHashTable *entries; /* id, owned -> struct entry, owned */
};

struct entry {
    const struct registry_kind *kind;
    void *thing;
};

static void entry_free(void *p)
{
    struct entry *e = p;

    e->kind->unref(e->thing);
    g_free(e);
}

struct registry *registry_new(void)
{
    struct registry *r = g_new0(struct registry, 1);

    g_atomic_ref_count_init(&r->refs);
    pthread_mutex_init(&r->lock, NULL);
    r->entries = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                       entry_free);
    return r;
}

struct registry *registry_ref(struct registry *r)
{
    g_atomic_ref_count_inc(&r->refs);
    return r;
}

void registry_unref(struct registry *r)
{
    if (g_atomic_ref_count_dec(&r->refs)) {
        g_hash_table_destroy(r->entries);
        pthread_mutex_destroy(&r->lock);
        g_free(r);
    }
}

/* The lock is held. */
static struct entry *
entry_find(struct registry *r, const struct registry_kind *kind, const char *id)
{
    struct entry *e = g_hash_table_lookup(r->entries, id);

    return e && e->kind == kind ? e : NULL;
}

int registry_add(struct graph *g, const struct registry_kind *kind,
                 const char *id, void *thing, GError **err)
{
    struct registry *r = g->registry;
    bool is_free;

    pthread_mutex_lock(&r->lock);
    is_free = !g_hash_table_contains(r->entries, id);
    if (is_free) {
        struct entry *e = g_new0(struct entry, 1);

        e->kind = kind;
        e->thing = thing;
        g_hash_table_insert(r->entries, g_strdup(id), e);
    }
    pthread_mutex_unlock(&r->lock);
    if (!is_free) {
        kind->unref(thing);
        return err_set(err, EEXIST, "There is already an object '%s'", id);
    }
    return 0;
}

void *registry_get(struct graph *g, const struct registry_kind *kind,
                   const char *id)
{
    struct registry *r = g->registry;
    struct entry *e;
    void *thing;

    pthread_mutex_lock(&r->lock);
    e = entry_find(r, kind, id);
    thing = e ? kind->ref(e->thing) : NULL;
    pthread_mutex_unlock(&r->lock);
    return thing;
}

bool registry_has(struct graph *g, const struct registry_kind *kind,
                  const char *id)
{
    struct registry *r = g->registry;
    bool has;

    pthread_mutex_lock(&r->lock);
    has = entry_find(r, kind, id) != NULL;
    pthread_mutex_unlock(&r->lock);
    return has;
}

int registry_remove(struct graph *g, const struct registry_kind *kind,
                    const char *id, GError **err)
{
    struct registry *r = g->registry;
    struct entry *e;

    pthread_mutex_lock(&r->lock);
    e = entry_find(r, kind, id);
    if (e) {
        g_hash_table_remove(r->entries, id);
    }
    pthread_mutex_unlock(&r->lock);
    return e ? 0 : err_set(err, ENOENT, "No %s with id '%s'", kind->what, id);
}
