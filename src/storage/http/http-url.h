/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Addresses of files on HTTP servers.
 *
 * What stands after the "?" of an address may be a permission to read (a signed
 * address), so people are shown the part before it.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

struct http_url {
    char *text;
    char *origin; /* SCHEME://HOST:PORT, all of it written out */
    bool tls;
};

void http_url_clear(struct http_url *u);
/* An absolute http: or https: address with nobody's name or password in it.
 * The texts of errors never hold the address itself. -EINVAL. */
int http_url_parse(const char *text, struct http_url *ret, GError **err);
/* Where @location, in an answer from @from, leads. */
int http_url_redirect(const struct http_url *from, const char *location,
                      struct http_url *ret, GError **err);
/* For people; owned. */
char *http_url_public(const char *text);
