/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command add-fd, whose argument comes beside the bytes of a connection. */
#pragma once
#include <glib.h>
#include <jansson.h>

struct channel;

/* Put a descriptor that came over @ch into the set that @args (or NULL) name. */
int session_add_fd(struct channel *ch, const json_t *args, json_t **ret,
                   GError **err);
