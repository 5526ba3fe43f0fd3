/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private keys.  GnuTLS leaves a copy of the text behind in memory that it has
 * freed when it reads PEM, so the text is decoded here, into memory that is
 * wiped, and GnuTLS gets the binary form.
 */
#include <gnutls/x509.h>
#include <string.h>
#include "tls/tls-creds-int.h"

#define BEGIN "-----BEGIN "
#define KEY "PRIVATE KEY-----"

/* Where the base64 of the first private key begins, and its length; NULL: it is
 * written in another way. */
static const char *body_find(const char *pem, size_t *ret_len)
{
    const char *at = pem, *end;

    while ((at = strstr(at, BEGIN))) {
        size_t line = strcspn(at, "\r\n");

        if (line > strlen(KEY) &&
            memcmp(at + line - strlen(KEY), KEY, strlen(KEY)) == 0) {
            at += line;
            end = strstr(at, "-----END ");
            /* A colon: it is encrypted in the old way of OpenSSL. */
            if (!end || memchr(at, ':', (size_t)(end - at))) {
                return NULL;
            }
            *ret_len = (size_t)(end - at);
            return at;
        }
        at += line;
    }
    return NULL;
}

/* The key in binary, to be wiped; empty: not that kind of text. */
static gnutls_datum_t der_of(GBytes *pem)
{
    size_t len = 0;
    const char *body = body_find(g_bytes_get_data(pem, NULL), &len);
    gnutls_datum_t der = { 0 };
    gint state = 0;
    guint save = 0;

    if (body) {
        der.data = g_malloc0(len + 1);
        der.size = (unsigned)g_base64_decode_step(body, len, der.data, &state,
                                                  &save);
    }
    return der;
}

int tls_key_import(GBytes *pem, const char *password,
                   gnutls_x509_privkey_t *ret)
{
    gnutls_datum_t text = tls_file_datum(pem), der = der_of(pem);
    gnutls_x509_privkey_t key;
    int r = gnutls_x509_privkey_init(&key);

    if (r >= 0) {
        r = gnutls_x509_privkey_import2(
            key, der.size ? &der : &text,
            der.size ? GNUTLS_X509_FMT_DER : GNUTLS_X509_FMT_PEM, password, 0);
        if (r < 0) {
            gnutls_x509_privkey_deinit(key);
        } else {
            *ret = key;
        }
    }
    gnutls_memset(der.data, 0, der.size);
    g_free(der.data);
    return r;
}
