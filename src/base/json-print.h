/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON as QEMU prints it, so that what compares texts finds no difference.
 *
 * Members of an object stand in the order in which QEMU's dictionaries give
 * them, which is that of a hash of their names and means nothing.  Strings are
 * ASCII: all else is escaped, bytes that are not UTF-8 become U+FFFD.
 */
#pragma once
#include <stdbool.h>

#include <glib.h>
#include <jansson.h>

/* The text of any value: on one line, or, @pretty, with a line for each member
 * and element, indented by four spaces a level. Owned by the caller. */
char *json_print(const json_t *value, bool pretty);

/* The keys of an object, in QEMU's order. The array is the caller's, the keys
 * are borrowed from @object. */
GPtrArray *json_print_order(const json_t *object);
