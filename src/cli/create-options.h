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

struct create_option;
struct graph;
struct node_driver;

/* Add the pairs of @text, one -o, to @options; later ones win. A comma in a
 * value is written twice; "name" alone is on, "noname" off. "help" among them
 * sets *@ret_help. 0 or 1, with the error printed. */
int create_options_add(json_t *options, const char *text, bool *ret_help);
void create_options_set(json_t *options, const char *name, const char *value);
/* What options of their own said of the backing file (NULL: nothing): it counts
 * whatever -o says, before or after. */
void create_options_set_backing(json_t *options, const char *file,
                                const char *format);
/* NULL: not set. Borrowed. */
const char *create_options_get(const json_t *options, const char *name);
/* -EINVAL "Invalid parameter 'X'" for what @drv does not take, and for values
 * that are none of the option's type; sizes become plain numbers, what there
 * is a default for is filled in. */
int create_options_complete(json_t *options, const struct node_driver *drv,
                            GError **err);
/* -EINVAL unless the backing file, if there is one, may be that of a new image
 * at @filename. */
int create_options_check_backing(const json_t *options, const char *filename,
                                 GError **err);
/* The driver that makes new images of @format. Files and devices, named as
 * formats, hold raw ones. */
const struct node_driver *
create_options_driver(struct graph *g, const char *format, GError **err);
/* -EINVAL for what node_co_amend() does not take of @drv; sizes become plain
 * numbers. */
int create_options_check_amend(json_t *options, const struct node_driver *drv,
                               GError **err);
/* All of both lists (@more may be NULL), by name, a line each. */
void create_options_print_list(const struct create_option *list,
                               const struct create_option *more);
/* -o help; @target is what was to be made, or NULL. Returns 0. */
int create_options_print(const struct node_driver *drv, const char *target);
