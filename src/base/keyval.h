/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Command line option strings, "driver=qed,file.filename=a,,b.qed", as nested
 * JSON objects whose leaves are strings.
 *
 *   text   = [ value-of-implied-key "," ] pair { "," pair }  |  JSON object
 *   pair   = key "=" value
 *   key    = name { "." name }     a.0, a.1 ... make a list
 *   value  = any text; ",," stands for a comma
 *
 * JSON is read by json_text_parse().  The later of two equal keys wins.  A name
 * begins with a letter and goes on with letters, digits, "-" and "_", or is a
 * number.
 */
#pragma once
#include <glib.h>
#include <jansson.h>

/* @implied_key: the key of a first element without "=", or NULL for none.
 * Returns 0; -EINVAL with a message that names the element. Caller owns
 * *@ret, a JSON object. */
int keyval_parse(const char *text, const char *implied_key, json_t **ret,
                 GError **err);
/* The same, where key @alias is another word for @key; so both a value for
 * @alias and members below it ("file=a,file.locking=off") may be given. */
int keyval_parse_alias(const char *text, const char *implied_key,
                       const char *alias, const char *key, json_t **ret,
                       GError **err);
