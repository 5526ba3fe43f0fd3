/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of driver "nbd"; private to it. */
#pragma once
#include <glib.h>

struct graph;
struct nbd_client_options;
struct nbd_target;
struct opts;
struct tls_creds;

/* NULL-terminated. */
extern const char *const nbd_option_names[];

/* TLS; all NULL without it. */
struct nbd_tls {
    char *id; /* of the object */
    char *hostname;
    struct tls_creds *creds;
};
void nbd_tls_clear(struct nbd_tls *tls);

/* Take them out of @o. *@t and *@tls are the caller's to clear, also after a
 * failure; *@co borrows from *@tls. */
int nbd_options_take(struct opts *o, struct graph *g, struct nbd_target *t,
                     struct nbd_tls *tls, struct nbd_client_options *co,
                     GError **err);
