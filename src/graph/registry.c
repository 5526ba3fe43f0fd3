/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/registry.h"
#include "base/err.h"
#include "graph/graph-int.h"

struct entry {
    const struct registry_kind *kind;
    void *thing;
};

static void entry_free(void *p)
{
    struct entry *e = p;

    e->kind->free(e->thing);
    g_free(e);
}

static struct entry *
entry_find(struct graph *g, const struct registry_kind *kind, const char *id)
{
    struct entry *e = g->registry ? g_hash_table_lookup(g->registry, id) : NULL;

    return e && e->kind == kind ? e : NULL;
}

int registry_add(struct graph *g, const struct registry_kind *kind,
                 const char *id, void *thing, GError **err)
{
    struct entry *e;

    if (g->registry && g_hash_table_contains(g->registry, id)) {
        kind->free(thing);
        return err_set(err, EEXIST, "There is already an object '%s'", id);
    }
    if (!g->registry) {
        g->registry = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                            entry_free);
    }
    e = g_new0(struct entry, 1);
    e->kind = kind;
    e->thing = thing;
    g_hash_table_insert(g->registry, g_strdup(id), e);
    return 0;
}

void *registry_find(struct graph *g, const struct registry_kind *kind,
                    const char *id)
{
    struct entry *e = entry_find(g, kind, id);

    return e ? e->thing : NULL;
}

int registry_remove(struct graph *g, const struct registry_kind *kind,
                    const char *id, GError **err)
{
    if (!entry_find(g, kind, id)) {
        return err_set(err, ENOENT, "No %s with id '%s'", kind->what, id);
    }
    g_hash_table_remove(g->registry, id);
    return 0;
}
