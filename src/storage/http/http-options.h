/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of drivers "http" and "https"; private to them and "s3". */
#pragma once
#include <glib.h>
#include "base/annot.h"
#include "storage/http/http-client.h"
#include "storage/http/http-url.h"

struct graph;
struct opts;

/* Memory that libraries find by a path; NULL: none. */
struct http_file {
    int fd;
    char *path;
};

/* What an http_identity borrows. */
struct http_names {
    char *username, *proxy_username;
    GBytes *password, *cookie, *bearer, *proxy_password;
    struct http_file ca, crl, cert, key; /* PEM */
};

void http_names_init(struct http_names *names);
void http_names_clear(struct http_names *names);
void http_names_lend(const struct http_names *names, struct http_identity *id);

/* NULL-terminated.  The first ones are of https alone. */
enum { HTTPS_ONLY_OPTIONS = 3 };
extern const char *const https_option_names[];
#define http_option_names (https_option_names + HTTPS_ONLY_OPTIONS)

/* The address, for driver @scheme. */
int http_options_take_url(struct opts *o, const char *scheme,
                          struct http_url *ret, GError **err);
/* Who we are: user, cookie, token, proxy, certificates. @names is initialised
 * and the caller's to clear, also after a failure. */
int http_options_take_names(struct opts *o, struct graph *g,
                            struct http_names *names, GError **err);
/* Of that, the proxy alone. */
int http_options_take_proxy(struct opts *o, struct graph *g,
                            struct http_names *names, GError **err);
/* What @id has beside names. */
int http_options_take_tls(struct opts *o, struct graph *g,
                          struct http_names *names, bool *ret_verify,
                          GError **err);
int http_options_take_client(struct opts *o, struct http_client_options *co,
                             uint64_t *ret_readahead, GError **err);
/* A secret that is one line of text; NULL if option @name is not there. */
int http_options_take_secret(struct opts *o, struct graph *g, const char *name,
                             GBytes **ret, GError **err);
