/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of driver "nbd"; private to it. */
#pragma once
#include <glib.h>
#include "storage/nbd/nbd-client.h"
#include "wire/nbd-uri.h"

struct graph;
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

/* Where the export is: the server first, then those that stand in for it. */
struct nbd_targets {
    struct nbd_target list[NBD_TARGETS_MAX];
    unsigned n;
};
void nbd_targets_clear(struct nbd_targets *ts);
/* All addresses, for comparisons; the caller owns it. */
char *nbd_targets_format(const struct nbd_targets *ts);

/* Take them out of @o. *@ts and *@tls are the caller's to clear, also after a
 * failure; *@co borrows from *@tls. */
int nbd_options_take(struct opts *o, struct graph *g, struct nbd_targets *ts,
                     struct nbd_tls *tls, struct nbd_client_options *co,
                     GError **err);
