/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The head of an HTTP response, as far as ranged reads of one file need it:
 * status, Content-Range, what names the version of the file, Retry-After.
 *
 * Lines come one by one, with or without their line end.  A status line begins
 * a new head (a 1xx response, and then the real one).  Anybody may have written
 * them; whatever cannot be trusted becomes a fault, and the response is not
 * used.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of all heads of one response together. */
#define HTTP_HEAD_BYTES_MAX (64u * 1024)
#define HTTP_TAG_MAX 512u
#define HTTP_DATE_MAX 64u
#define HTTP_VERSION_MAX 1024u
#define HTTP_LOCATION_MAX 8192u
#define HTTP_RETRY_AFTER_MAX_S (24 * 3600)

struct http_head {
    unsigned status; /* 0: no status line yet */
    /* "Content-Range: bytes FIRST-LAST/TOTAL" */
    bool has_range;
    uint64_t first, last, total;
    bool has_total; /* of that, or of "bytes * /TOTAL" without the blank */
    bool has_length;
    uint64_t length;
    bool encoded;                   /* the body is not the file's bytes */
    char etag[HTTP_TAG_MAX];        /* as it came, with quotes and W/; or "" */
    char modified[HTTP_DATE_MAX];   /* Last-Modified, a valid date; or "" */
    char version[HTTP_VERSION_MAX]; /* x-amz-version-id, or "" */
    char location[HTTP_LOCATION_MAX];
    int64_t retry_after_s; /* -1: not said */
    size_t bytes;
    const char *fault; /* static text; NULL: none */
};

void http_head_begin(struct http_head *h);
/* Take the next line. @now_s: seconds since 1970, for dates of Retry-After.
 * False: there is a fault. */
bool http_head_line(struct http_head *h, const char *line, size_t len,
                    int64_t now_s);
/* Does the tag name one sequence of bytes (no W/, in quotes)? */
bool http_tag_is_strong(const char *etag);
/* "Sun, 06 Nov 1994 08:49:37 GMT" into seconds since 1970. */
bool http_date_parse(const char *text, int64_t *ret_s);
