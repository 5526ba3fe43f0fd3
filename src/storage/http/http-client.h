/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file on an HTTP server, read in ranges, many at a time.
 *
 * The first answer pins the version: every later byte is of that one, or the
 * read fails (http-fetch.h).  Once another version was seen everything fails
 * from then on: what was read before and what would be read now do not belong
 * together (S6).
 *
 * A read that failed for want of a connection, or that the server told to come
 * again, is tried again, further and further apart, from where it was cut off;
 * it fails when nothing has come for longer than the reconnect delay.  A server
 * that is connected and does not answer hangs (http-wait.h).
 *
 * Redirects are followed here and not by libcurl: to no lower scheme, few times,
 * with names and passwords for nobody but the server of the first address.
 * Where one led is kept for later reads, until that serves the file no more.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"
#include "storage/http/http-fetch.h"

#define HTTP_CONNECTIONS_MAX 64

struct http_client;

struct http_client_options {
    unsigned connections; /* requests in flight at most */
    unsigned redirects;   /* at most, for one request */
    uint64_t stall_ns;    /* a multiple of seconds, > 0 */
    uint64_t reconnect_delay_ns;
    uint64_t open_timeout_ns; /* 0: one attempt */
    uint64_t hang_timeout_ns; /* that a read waits; 0: never hangs */
    bool fail_on_hang;        /* then it fails */
    bool unpinned;            /* take a file without a version */
    void (*hang_event)(bool hanging, unsigned requests, void *arg);
    void *hang_arg;
    /* As of an http_fetch. */
    struct curl_slist *(*prepare)(CURL *easy, struct curl_slist *lines,
                                  const void *arg);
    const void *prepare_arg;
};

/* Ask for the size and version; the rest of @url and @id is borrowed for the
 * client's life. *@ret is there from the first attempt on, to be interrupted;
 * NULL again on failure. Error texts hold neither address nor secrets. */
CO_FN int http_client_co_open(const struct http_url *url,
                              const struct http_identity *id,
                              const struct http_client_options *opts,
                              struct http_client **ret, GError **err);
/* No read may be under way. NULL is fine. */
CO_FN void http_client_co_close(struct http_client *cl);
/* Read dst.len bytes at @off, which the file has. -ESTALE: it is another file;
 * -EIO, -EACCES ...; what http_client_end_reads() said. */
CO_FN int http_client_co_read(struct http_client *cl, uint64_t off,
                              struct iov dst, bool background);
/* Ask for the same file by the address @text of the same server from now on. */
void http_client_set_address(struct http_client *cl, const char *text);
const struct http_pin *http_client_pin(const struct http_client *cl);
/* Of the first answer: x-amz-version-id, or "". */
const char *http_client_version(const struct http_client *cl);
/* Why everything fails, or NULL. */
const char *http_client_failure(const struct http_client *cl);
/* What waits ends with @verdict (-errno), now; @for_good: later reads fail. */
void http_client_end_reads(struct http_client *cl, int verdict, bool for_good);
void http_client_set_hang(struct http_client *cl, uint64_t timeout_ns,
                          bool fail);
