/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS credentials (objects tls-creds-x509, tls-creds-psk, tls-creds-anon): what
 * one end proves itself by, and what it asks of the other.
 *
 * Everything is read from the folder "dir" when the object is made, and kept in
 * memory that is wiped.  Who uses credentials keeps a reference: an object may
 * be deleted and made anew, with other files, while sessions go on.
 * Everything on the graph's loop.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct graph;
struct tls_creds;

/* @props: "endpoint" ("client", the default, or "server"), "dir", "verify-peer",
 * "priority"; x509: "passwordid", "sanity-check"; psk: "username".  0, or
 * -errno with a text that names the file and holds no secret. */
CO_FN int tls_creds_co_add_x509(struct graph *g, const char *id,
                                const json_t *props, GError **err);
CO_FN int tls_creds_co_add_psk(struct graph *g, const char *id,
                               const json_t *props, GError **err);
CO_FN int tls_creds_co_add_anon(struct graph *g, const char *id,
                                const json_t *props, GError **err);
/* Those who have a reference keep it. -ENOENT. */
int tls_creds_del(struct graph *g, const char *id, GError **err);

/* For the end of a server or a client. The caller owns a reference. -ENOENT, or
 * -EINVAL when they are for the other end. */
int tls_creds_get(struct graph *g, const char *id, bool server,
                  struct tls_creds **ret, GError **err);
struct tls_creds *tls_creds_ref(struct tls_creds *tc);
/* What the object of the same id is now, for a new session: @tc itself unless the
 * object was made anew, of the same kind. The caller owns a reference. The graph
 * must still be there. */
struct tls_creds *tls_creds_latest(struct tls_creds *tc);
/* NULL is fine. */
void tls_creds_unref(struct tls_creds *tc);
/* Does a client have to know the name of the server? */
bool tls_creds_want_hostname(const struct tls_creds *tc);
/* Do they prove anything by certificates? */
bool tls_creds_are_x509(const struct tls_creds *tc);
/* For libraries that make TLS themselves, PEM: the authorities that are trusted,
 * and our own certificate and key, without a passphrase; NULL where there is
 * none. */
struct tls_pem {
    GBytes *ca, *crl, *cert, *key;
};
const struct tls_pem *tls_creds_pem(const struct tls_creds *tc);
/* Are clients known by a name: a verified certificate or a key of their own? */
bool tls_creds_name_clients(const struct tls_creds *tc);
