/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Throttle groups (object throttle-group) and the filter that uses them.
 *
 * A group limits the requests of all its members together; what it lets pass
 * is shared between them in turn.  Groups are in the registry of a graph
 * (graph/registry.h); those who use one at a time are on one loop.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

struct graph;
/* Make a group. @props: "limits", an object with the names of ThrottleLimits
 * ("bps-total", "iops-read-max", "iops-write-max-length", "iops-size" ...), or
 * the same names flat with "x-" before them; bytes/s, requests/s, seconds.
 * 0 or -errno with a text for people. */
int throttle_group_add(struct graph *g, const char *id, const json_t *props,
                       GError **err);
/* -EBUSY "object 'X' is in use, can not be deleted" */
int throttle_group_del(struct graph *g, const char *id, GError **err);
bool throttle_group_exists(struct graph *g, const char *id);
/* All limits as a ThrottleLimits object; the caller owns it. NULL: no such
 * group. */
json_t *throttle_group_get(struct graph *g, const char *id);
/* Replace the limits that @limits (ThrottleLimits) names; requests that wait
 * are judged anew. On failure the old ones stand. */
int throttle_group_set(struct graph *g, const char *id, const json_t *limits,
                       GError **err);
