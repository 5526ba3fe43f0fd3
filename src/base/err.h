/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors.
 *
 * A fallible function returns an int: zero or positive, else -errno.  Where a
 * person will read the failure its last parameter is GError **err, set exactly
 * when the result is negative.  The GError code is the errno, its domain is
 * the class that the control socket reports.
 *
 * Messages keep no password that stands in an address (scheme://name:pw@host).
 */
#pragma once
#include <errno.h>
#include <glib.h>
#include <stdint.h>
#include "base/annot.h"

enum err_class {
    ERR_GENERIC,
    ERR_COMMAND_NOT_FOUND,
    ERR_DEVICE_NOT_FOUND,
    ERR_DEVICE_NOT_ACTIVE,
    ERR_CLASS_COUNT
};

/* Set *@err (if @err) to class GenericError with @errnum and return
 * -@errnum. */
int err_set(GError **err, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* As err_set(), then ": " and the text of @errnum. */
int err_set_errno(GError **err, int errnum, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* As err_set(), of class @cls. */
int err_set_class(GError **err, enum err_class cls, int errnum, const char *fmt,
                  ...) PRINTF_LIKE(4, 5);

/* Put "fmt: " before the message of *@err, keeping class and errno. */
void err_prefix(GError **err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Append a line to the message itself, before hints: one that QEMU's programs
 * print, too. Not for what QMP sends. */
void err_add_line(GError **err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Append a second line that says what to do; shown by people's front ends
 * after the message, never sent in QMP's "desc". */
void err_hint(GError **err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The message without its hint. Owned by the caller. */
char *err_dup_message(const GError *err);
/* The hint, or NULL. Borrowed. */
const char *err_get_hint(const GError *err);

enum err_class err_class_of(const GError *err);
const char *err_class_name(enum err_class cls);
