/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/names.h"
#include <pthread.h>

struct names {
    pthread_mutex_t lock;
    GHashTable *owners[NAME_KINDS]; /* name, owned -> owner */
};

struct names *names_new(void)
{
    struct names *n = g_new0(struct names, 1);

    pthread_mutex_init(&n->lock, NULL);
    for (unsigned i = 0; i < NAME_KINDS; i++) {
        n->owners[i] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             NULL);
    }
    return n;
}

void names_free(struct names *n)
{
    if (!n) {
        return;
    }
    for (unsigned i = 0; i < NAME_KINDS; i++) {
        g_hash_table_destroy(n->owners[i]);
    }
    pthread_mutex_destroy(&n->lock);
    g_free(n);
}

bool names_take(struct names *n, enum name_kind kind, const char *name,
                void *owner)
{
    bool is_free;

    if (!n) {
        return true;
    }
    pthread_mutex_lock(&n->lock);
    is_free = !g_hash_table_contains(n->owners[kind], name);
    if (is_free) {
        g_hash_table_insert(n->owners[kind], g_strdup(name), owner);
    }
    pthread_mutex_unlock(&n->lock);
    return is_free;
}

void names_drop(struct names *n, enum name_kind kind, const char *name,
                const void *owner)
{
    if (!n) {
        return;
    }
    pthread_mutex_lock(&n->lock);
    if (g_hash_table_lookup(n->owners[kind], name) == owner) {
        g_hash_table_remove(n->owners[kind], name);
    }
    pthread_mutex_unlock(&n->lock);
}

void *names_owner(struct names *n, enum name_kind kind, const char *name)
{
    void *owner;

    pthread_mutex_lock(&n->lock);
    owner = g_hash_table_lookup(n->owners[kind], name);
    pthread_mutex_unlock(&n->lock);
    return owner;
}
