/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Things by id that nodes and exports of a graph refer to, and that the graph
 * itself knows nothing of: TLS credentials, rules of authorization.  Whoever
 * makes a kind of them describes it by a const struct, whose address is the
 * kind.  Everything on the graph's loop.
 */
#pragma once
#include <glib.h>

struct graph;

struct registry_kind {
    const char *what; /* "TLS credentials", for people */
    void (*free)(void *thing);
};

/* Takes @thing, also after a failure. -EEXIST: the id is in use. */
int registry_add(struct graph *g, const struct registry_kind *kind,
                 const char *id, void *thing, GError **err);
/* The thing of that id and kind, or NULL; borrowed. */
void *registry_find(struct graph *g, const struct registry_kind *kind,
                    const char *id);
/* Remove and free it. -ENOENT. */
int registry_remove(struct graph *g, const struct registry_kind *kind,
                    const char *id, GError **err);
