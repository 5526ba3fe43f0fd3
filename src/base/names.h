/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names that are unique in the whole process, and who has given each of them.
 *
 * Graphs, jobs and exports of several threads share one table, so that a name
 * leads to one thing wherever it is.  An owner is told apart by its address alone.
 * Any thread may call everything here; nothing waits for long.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

enum name_kind {
    NAME_BLOCK, /* of a node or a device */
    NAME_JOB,
    NAME_EXPORT,
    NAME_KINDS
};

struct names;

struct names *names_new(void);
/* NULL is fine. */
void names_free(struct names *n);

/* Take @name for @owner. False: it is taken, by whomever. @n NULL: nobody
 * else gives names, so it is free. */
bool names_take(struct names *n, enum name_kind kind, const char *name,
                void *owner);
/* The other way round; nothing where @owner does not have it. */
void names_drop(struct names *n, enum name_kind kind, const char *name,
                const void *owner);
/* Who has @name, or NULL. It may have dropped it by the time of the answer. */
void *names_owner(struct names *n, enum name_kind kind, const char *name);
