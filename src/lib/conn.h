/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection behind libsluice's opaque type; private to lib/. */
#pragma once
#include <jansson.h>
#include <stdint.h>

#include "base/annot.h"

struct sluice_conn;

/* Of the clock that never goes back. */
int64_t conn_now_ms(void);

/* As sluice_execute(), with JSON values. Takes @arguments (may be NULL). */
int conn_execute(struct sluice_conn *conn, const char *command,
                 json_t *arguments, json_t **ret_value, char **ret_error);
/* As sluice_wait_event(), with a JSON value. */
int conn_wait_event(struct sluice_conn *conn, int timeout_ms,
                    json_t **ret_event);
/* strdup()ed text for a @ret_error; returns -@errnum. */
int conn_error(char **ret_error, int errnum, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
