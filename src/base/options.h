/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Typed reading of an options object (a JSON object, nested, as blockdev-add
 * and the command line give it).  A reader works on its own shallow copy and
 * takes members out; what is left at the end is an error, so no option is ever
 * silently ignored.  Numbers and booleans may also come as strings ("on",
 * "64k"), as command lines give them.
 */
#pragma once
#include <errno.h>
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/err.h"

struct opts;

/* @obj is borrowed for the call. NULL counts as {}. */
struct opts *opts_new(const json_t *obj);
void opts_free(struct opts *o);
void opts_freep(struct opts **o); /* for CLEANUP() */

bool opts_has(const struct opts *o, const char *name);

/* Each returns 1 when taken, 0 when absent (*ret untouched), -EINVAL with
 * "Invalid parameter type for 'NAME', expected: TYPE" (and the like). */
int opts_take_str(struct opts *o, const char *name, char **ret, GError **err);
int opts_take_bool(struct opts *o, const char *name, bool *ret, GError **err);
/* Sizes in bytes; strings take the suffixes of units.h. */
int opts_take_size(struct opts *o, const char *name, uint64_t *ret,
                   GError **err);
int opts_take_int(struct opts *o, const char *name, int64_t *ret, GError **err);
/* Index of the value in NULL-terminated @names:
 * "Parameter 'NAME' does not accept value 'X'". */
int opts_take_enum(struct opts *o, const char *name, const char *const *names,
                   int *ret, GError **err);
/* Any member; the caller owns the reference. NULL when absent. */
json_t *opts_take_any(struct opts *o, const char *name);
/* All that is left; the caller owns it. */
json_t *opts_take_rest(struct opts *o);

/* "Parameter 'NAME' is missing". Always -EINVAL. */
static inline int opts_missing(const char *name, GError **err)
{
    return err_set(err, EINVAL, "Parameter '%s' is missing", name);
}
/* -EINVAL "Parameter 'X' is unexpected" when anything is left. */
int opts_finish(struct opts *o, GError **err);
