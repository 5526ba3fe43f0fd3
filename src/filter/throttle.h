/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Throttle groups (object throttle-group) and the filter that uses them. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

struct throttle_groups;
struct graph;
/* The registry of a graph; made on first use. */
int throttle_group_add(struct graph *g, const char *id, const json_t *props,
                       GError **err);
/* -EBUSY "object 'X' is in use, can not be deleted" */
int throttle_group_del(struct graph *g, const char *id, GError **err);
bool throttle_group_exists(struct graph *g, const char *id);
