/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON as QEMU's users write it: on command lines and in "json:" names.
 *
 * The text is JSON, and strings may stand in single quotes, too, so that a
 * shell leaves the double ones alone; \' is an apostrophe in both.  All else is
 * as strict as jansson, duplicate keys and deep nesting are refused.
 */
#pragma once
#include <glib.h>
#include <jansson.h>

/* Nested objects and lists, at most: readers of the result may recurse. */
#define JSON_TEXT_DEPTH_MAX 64

/* Any value. -EINVAL: "JSON parse error, WHY at character N" of @text, counted
 * in bytes. The caller owns *@ret. */
int json_text_parse(const char *text, json_t **ret, GError **err);

/* Options as a "json:" name has them (@text is what follows the prefix): an
 * object.  "a.b": x means "a": {"b": x}, and numbers and truth values become
 * the strings that a command line has for them: what reads options takes those
 * anywhere. -EINVAL. The caller owns *@ret. */
int json_text_options(const char *text, json_t **ret, GError **err);
