/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects that command lines and control sockets make by type and id, as far
 * as they do something: one table of what each type means to a graph.  The
 * image tool and the daemon both come here.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"

struct graph;

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
