/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The options of a new image (-o name=value,...): one object of strings that
 * commands fill and image_co_create() reads.  What a format takes stands in
 * its driver's table.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

struct node_driver;

/* Add the pairs of @text, one -o, to @options; later ones win. "help" sets
 * *@ret_help instead. 0, or a usage error of @command. */
int create_options_add(const char *command, json_t *options, const char *text,
                       bool *ret_help);
void create_options_set(json_t *options, const char *name, const char *value);
/* NULL: not set. Borrowed. */
const char *create_options_get(const json_t *options, const char *name);
/* -EINVAL "Invalid parameter 'X'" for what @drv does not take; what it has a
 * default for is filled in. */
int create_options_complete(json_t *options, const struct node_driver *drv,
                            GError **err);
/* -o help. Returns 0. */
int create_options_print(const struct node_driver *drv);
