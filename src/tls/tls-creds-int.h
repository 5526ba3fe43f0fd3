/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What TLS credentials hold; private to tls/. */
#pragma once
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include "tls/tls-creds.h"

enum tls_kind { TLS_X509, TLS_PSK, TLS_ANON };

/* Exactly one of the GnuTLS credentials is set, by kind and end. */
struct tls_creds {
    gatomicrefcount refs;
    struct graph *graph; /* of the registry that it was added to */
    char *id;
    enum tls_kind kind;
    bool server;
    bool verify_peer; /* x509: the server asks for certificates of clients; a
                       * client always verifies unless told not to */
    gnutls_priority_t priority;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_anon_server_credentials_t anon_server;
    gnutls_anon_client_credentials_t anon_client;
    GBytes *psk_keys; /* lines USER:HEX */
    struct tls_pem pem;
};

/* What an object was given. */
struct tls_props {
    char *dir, *priority, *passwordid, *username;
    bool server, verify_peer, sanity_check;
};

/* --- tls-creds-x509.c, tls-creds-psk.c --- */
CO_FN int tls_x509_co_load(struct tls_creds *tc, struct graph *g,
                           const struct tls_props *p, GError **err);
CO_FN int tls_psk_co_load(struct tls_creds *tc, const struct tls_props *p,
                          GError **err);

/* --- tls-file.c --- */
enum { TLS_FILE_OPTIONAL = 1, TLS_FILE_PRIVATE = 2 };
/* The content of @dir/@name, NULL if it may be missing and is. */
CO_FN int tls_file_co_load(const char *dir, const char *name, unsigned how,
                           GBytes **ret, GError **err);
gnutls_datum_t tls_file_datum(GBytes *content);

/* --- tls-key.c --- */
/* The first private key of @pem; the caller's to deinit. An error of GnuTLS. */
int tls_key_import(GBytes *pem, const char *password,
                   gnutls_x509_privkey_t *ret);

/* --- tls-sanity.c --- */
/* Would a peer accept our own certificate? Says what is wrong with it. */
int tls_sanity_check(const struct tls_pem *pem, const char *dir, bool server,
                     GError **err);

/* --- tls-priority.c --- */
int tls_priority_set(struct tls_creds *tc, const char *wish, GError **err);
