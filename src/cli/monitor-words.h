/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The words that can stand in a line of the monitor, for completion. */
#pragma once
#include <glib.h>
#include <stddef.h>

struct monitor_words;
struct sluice_conn;

/* Ask the daemon which commands it has. @conn stays the caller's. */
struct monitor_words *monitor_words_new(struct sluice_conn *conn);
/* NULL is fine. */
void monitor_words_free(struct monitor_words *w);
/* Add to @out what may stand at @start of @line: names of commands, or of
 * devices, nodes, jobs and exports; in a JSON command those of commands. */
void monitor_words_complete(struct monitor_words *w, const char *line,
                            size_t start, GPtrArray *out);
