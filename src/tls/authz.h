/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is let in (objects authz-simple, authz-list, authz-list-file): rules that
 * are asked about an identity, which is the distinguished name of a verified
 * certificate or the user name of a key.
 *
 * Rules are found by id each time that they are asked, so they may be replaced
 * while a server runs.  Whatever is in doubt is refused: an id that names no
 * rules, a client without an identity, a file that cannot be read.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct graph;

/* @props: "identity". */
CO_FN int authz_co_add_simple(struct graph *g, const char *id,
                              const json_t *props, GError **err);
/* @props: "policy" ("deny", the default, or "allow") and "rules", a list of
 * objects of "match", "policy" and "format" ("exact" or "glob"); the first that
 * matches decides, else the list's own policy. */
CO_FN int authz_co_add_list(struct graph *g, const char *id,
                            const json_t *props, GError **err);
/* @props: "filename", of a file with such a list as JSON, and "refresh" (on):
 * whether it is read again when it has changed. */
CO_FN int authz_co_add_list_file(struct graph *g, const char *id,
                                 const json_t *props, GError **err);
/* -ENOENT. */
int authz_del(struct graph *g, const char *id, GError **err);

/* 0, or -ENOENT "No authorization object with id 'X'". */
int authz_check(struct graph *g, const char *id, GError **err);
/* Read files again that have changed.  To be called before somebody is judged
 * by what all rules of @g say. */
CO_FN void authz_co_refresh(struct graph *g, const char *id);
/* @identity may be NULL: then never. */
bool authz_allows(struct graph *g, const char *id, const char *identity);
