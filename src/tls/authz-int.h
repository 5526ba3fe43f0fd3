/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of rules; private to authorization. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

struct opts;

struct authz_rule {
    char *match;
    bool allow, glob;
};

struct authz_list {
    GArray *rules; /* struct authz_rule */
    bool allow;    /* what no rule matches */
};

/* Denies everything. */
void authz_list_init(struct authz_list *l);
/* Take "policy" and "rules" out of @o. *@ret is set on success only and then
 * the caller's to clear. */
int authz_list_take(struct opts *o, struct authz_list *ret, GError **err);
/* All zero is fine. */
void authz_list_clear(struct authz_list *l);
bool authz_list_allows(const struct authz_list *l, const char *identity);
