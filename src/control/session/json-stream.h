/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding the commands in the bytes of a control connection.
 *
 * Bytes go in as they come; complete JSON values come out, whatever the lines.
 * Strings may be in single quotes.  A value that is too long, too deep or has
 * too many members is not stored beyond the limit: it is followed to its end
 * and reported once.  Memory is bounded by `max_bytes` and one feed.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stddef.h>

struct json_stream;

struct json_stream_limits {
    size_t max_bytes;   /* of one value */
    unsigned max_depth; /* of nesting; at most 64 */
    unsigned max_keys;  /* members of all its objects together */
};
extern const struct json_stream_limits json_stream_default_limits;

struct json_stream *json_stream_new(const struct json_stream_limits *limits);
void json_stream_free(struct json_stream *s);

/* Hand over @len bytes. Everything fed before must have been taken out. */
void json_stream_feed(struct json_stream *s, const char *data, size_t len);
/* The next value. 1: *@ret_value is it, owned by the caller; 0: feed more;
 * -EINVAL: something that is no value was skipped, @err tells; call again. */
int json_stream_next(struct json_stream *s, json_t **ret_value, GError **err);
