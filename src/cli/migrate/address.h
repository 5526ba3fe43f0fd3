/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How one host's daemon reaches what the other's serves. */
#pragma once
#include <jansson.h>

struct migration;

/* The address of export @uri, as the server tells it, for the other host: with
 * the host and port of @m->address instead, if that was said. Owned; NULL after
 * a message. */
char *address_of_link(const struct migration *m, const char *uri);
/* Options of an nbd node @name for what address_of_link() gave; owned. */
json_t *address_node(const struct migration *m, const char *name,
                     const char *link);
