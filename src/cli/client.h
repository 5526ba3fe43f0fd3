/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Talking to a running daemon from a subcommand. */
#pragma once
#include <jansson.h>
#include <stdbool.h>

#include "sluice/sluice.h"

/* Connect to @path, else $SLUICE_SOCKET, else the packaged service's socket.
 * NULL after printing why. */
struct sluice_conn *client_connect(const char *path);

/* Run a command; takes @args (may be NULL). The value of "return", owned by
 * the caller, or NULL after printing the error. */
json_t *client_execute(struct sluice_conn *conn, const char *command,
                       json_t *args);

/* The job as query-jobs or query-block-jobs (@command) lists it; owned by the
 * caller. NULL when there is none of that name. */
json_t *client_find_job(struct sluice_conn *conn, const char *command,
                        const char *id);

/* Show progress until job @id is gone or concluded. Exit status: 0 completed,
 * 1 failed, 3 cancelled. @as_json prints events as JSON lines instead. */
int client_follow_job(struct sluice_conn *conn, const char *id, bool as_json);
