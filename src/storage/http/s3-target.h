/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which object of which S3 server, and its addresses:
 *
 *   s3://BUCKET/KEY[?endpoint=URL&region=NAME&versionId=ID]     for people
 *   https://SERVER/BUCKET/KEY[?versionId=ID]                    for the server
 *
 * A signature is about the address byte by byte, so all that could be written
 * in two ways is escaped.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

struct http_url;
struct opts;

struct s3_target {
    char *bucket, *key; /* not escaped */
    char *endpoint;     /* without a path */
    char *region;
    char *version; /* NULL: the newest */
    bool has_endpoint, virtual_host;
};

void s3_target_clear(struct s3_target *t);
/* From options. @t is zero and the caller's to clear, also after a failure. */
int s3_target_take(struct opts *o, struct s3_target *t, GError **err);
/* The name for people. Owned. */
char *s3_target_format(const struct s3_target *t);
/* The address for the server; of @version, if that is not NULL. */
int s3_target_url(const struct s3_target *t, const char *version,
                  struct http_url *ret, GError **err);
