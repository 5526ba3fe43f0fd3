/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which data loop a command is about: that of the nodes, devices, jobs and
 * exports that its arguments name, as the schema says which those are. */
#pragma once
#include <glib.h>
#include <jansson.h>

struct control;
struct schema_command;

/* On the control loop. @args fit the schema. *@ret: the data loop, there until the
 * caller yields; that of the daemon where nothing is named, or only what does not
 * exist. -EBUSY: what is named is on two of them; -ENOENT: an iothread that does
 * not exist. */
int route_find(struct control *c, const struct schema_command *cmd,
               const json_t *args, struct control **ret, GError **err);
