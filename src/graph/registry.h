/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Things by id that nodes and exports of a graph refer to, and that the graph
 * itself knows nothing of: secrets, TLS credentials, rules of authorization,
 * throttle groups.  Whoever makes a kind of them describes it by a const struct,
 * whose address is the kind.
 *
 * Graphs of several loops may share one registry.  So things are counted, what
 * is asked for is a reference of the caller's own, and any thread may ask.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

struct graph;
struct registry;

struct registry_kind {
    const char *what; /* "TLS credentials", for people */
    /* Of any thread. */
    void *(*ref)(void *thing);
    void (*unref)(void *thing);
};

struct registry *registry_new(void);
struct registry *registry_ref(struct registry *r);
void registry_unref(struct registry *r);

/* Takes @thing, also after a failure. -EEXIST: the id is in use. */
int registry_add(struct graph *g, const struct registry_kind *kind,
                 const char *id, void *thing, GError **err);
/* A reference to the thing of that id and kind, or NULL. */
void *registry_get(struct graph *g, const struct registry_kind *kind,
                   const char *id);
bool registry_has(struct graph *g, const struct registry_kind *kind,
                  const char *id);
/* Remove it. -ENOENT. */
int registry_remove(struct graph *g, const struct registry_kind *kind,
                    const char *id, GError **err);
