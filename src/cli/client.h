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

/* Of an answer, or of what goes into a command: the text of member @key, or
 * NULL. */
static inline const char *client_text(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}
/* Member @name of @args becomes @value, unless that is NULL. */
static inline void client_set_string(json_t *args, const char *name,
                                     const char *value)
{
    if (value) {
        json_object_set_new(args, name, json_string(value));
    }
}

/* The same as client_execute() where the answer is of no interest. */
bool client_run(struct sluice_conn *conn, const char *command, json_t *args);

/* The entry of the list that @command returns whose @key is @name; owned. NULL:
 * there is none. A daemon that does not answer ends the program: what is not
 * known must not be taken for absent. */
json_t *client_find(struct sluice_conn *conn, const char *command,
                    const char *key, const char *name);
bool client_has(struct sluice_conn *conn, const char *command, const char *key,
                const char *name);
/* Wait for what events tell, or for a moment. False, told: the daemon is
 * gone. */
bool client_wait_a_little(struct sluice_conn *conn);
/* Wait until export @id is gone. False: the daemon is. */
bool client_wait_export_gone(struct sluice_conn *conn, const char *id);

/* "could not read node ..." of a JobFault. Owned. */
char *client_fault_text(const json_t *fault);

/* After an error about @word: the name in the list that @command gives, under
 * @key, that is nearest to it, and @lister, which lists them. On stderr. */
void client_hint_names(struct sluice_conn *conn, const char *command,
                       const char *key, const char *word, const char *lister);
/* The same for the name of a device or node. False, and nothing is printed, when
 * there is one of that name. */
bool client_hint_device(struct sluice_conn *conn, const char *name);
/* The same for the id of a job. */
void client_hint_jobs(struct sluice_conn *conn, const char *id);
