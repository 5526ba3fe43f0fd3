/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects that command lines and control sockets make by type and id, as far
 * as they do something: one table of what each type means to a graph.  The
 * image tool and the daemon both come here.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct graph;
struct schema_member;

/* Make object @props ("qom-type", "id" and the type's own) known to @g. Types
 * that only have to be accepted do nothing. -EINVAL with a text for people. */
CO_FN int object_co_add(struct graph *g, const json_t *props, GError **err);
/* Errors about a definition @text that may hold a passphrase (data=) do not
 * repeat it: *@err, where it quotes a part, gets another text. */
void object_hide_text(const char *text, GError **err);
/* @text without what follows "data"; owned. */
char *object_show_text(const char *text);
/* Forget it. -EBUSY while something uses it. */
int object_del(struct graph *g, const char *type, const char *id, GError **err);

/* --- what is known of them: @objects is a JSON object, by id --- */

/* As object-add has it, without a passphrase. */
void object_remember(json_t *objects, const json_t *props);
/* One of this id is being made. */
void object_reserve(json_t *objects, const char *id);
/* Borrowed; NULL: there is no such object (yet). */
const char *object_type(const json_t *objects, const char *id);
/* The properties of a type that object_types_list() has. */
const struct schema_member *object_members(const char *type);
/* NULL-terminated. */
const char *const *object_types_list(void);
/* Property @name, one that its type has; owned. NULL: nobody is told. */
json_t *object_get(struct graph *g, const json_t *objects, const char *id,
                   const char *name);
/* -EINVAL, -EACCES: not this one, or not so. */
int object_set(struct graph *g, json_t *objects, const char *id,
               const char *name, const json_t *value, GError **err);

/* "help" and "TYPE,help", on standard output; false: @text is something
 * else. */
bool object_print_help(const char *text);
