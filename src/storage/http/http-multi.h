/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcurl's multi interface on a loop: transfers run side by side, each with a
 * coroutine that waits for its end.
 *
 * libcurl opens the sockets, keeps connections for later transfers and speaks
 * the protocol.  Its sockets stand in one epoll descriptor; a coroutine waits
 * for that, a timer of the loop is libcurl's.  Nothing of it blocks: names are
 * looked up on threads of libcurl's own.
 *
 * Everything runs on one loop's thread.
 */
#pragma once
#include <curl/curl.h>
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"

struct http_multi;
struct co;

/* One transfer; on the stack of who waits for it. */
struct http_transfer {
    CURL *easy;
    struct co *waiter;
    bool done;
    CURLcode result;
};

/* At most @connections are kept open. -errno: descriptors or memory. */
int http_multi_new(unsigned connections, struct http_multi **ret, GError **err);
/* No transfer may be under way. NULL is fine. Closes all connections. */
CO_FN void http_multi_co_free(struct http_multi *m);
/* Run t->easy until it ends. CURLE_ABORTED_BY_CALLBACK after
 * http_transfer_end(). */
CO_FN CURLcode http_multi_co_run(struct http_multi *m, struct http_transfer *t);
/* Make http_multi_co_run() return soon; what was under way on the connection is
 * cut off when it does. Never inside a callback of libcurl. */
void http_transfer_end(struct http_transfer *t);
