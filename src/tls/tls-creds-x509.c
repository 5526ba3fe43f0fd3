/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Certificates, in the files that QEMU and libvirt have: ca-cert.pem, who is
 * trusted; ca-crl.pem, whose certificates were revoked (optional); and
 * server-cert.pem with server-key.pem, or client-cert.pem with client-key.pem,
 * which a client may leave out.
 */
#include <gnutls/x509.h>
#include <string.h>
#include "base/err.h"
#include "graph/secret.h"
#include "tls/tls-creds-int.h"

/* Of certificates that a peer sends. */
enum { CHAIN_DEPTH_MAX = 8, CHAIN_BITS_MAX = 16384 };

static CO_FN int x509_co_load_files(struct tls_creds *tc,
                                    const struct tls_props *p, GError **err)
{
    struct tls_pem *pem = &tc->pem;
    unsigned own = tc->server ? 0 : TLS_FILE_OPTIONAL;
    /* A server that asks nobody for a certificate trusts nobody's. */
    unsigned ca = tc->server && !tc->verify_peer ? TLS_FILE_OPTIONAL : 0;
    const char *cert = tc->server ? "server-cert.pem" : "client-cert.pem";
    const char *key = tc->server ? "server-key.pem" : "client-key.pem";
    int r;

    if ((r = tls_file_co_load(p->dir, "ca-cert.pem", ca, &pem->ca, err)) < 0 ||
        (r = tls_file_co_load(p->dir, "ca-crl.pem", TLS_FILE_OPTIONAL,
                              &pem->crl, err)) < 0 ||
        (r = tls_file_co_load(p->dir, cert, own, &pem->cert, err)) < 0) {
        return r;
    }
    return pem->cert
               ? tls_file_co_load(p->dir, key, TLS_FILE_PRIVATE, &pem->key, err)
               : 0;
}

static int x509_set_trust(struct tls_creds *tc, const struct tls_props *p,
                          GError **err)
{
    const struct tls_pem *pem = &tc->pem;
    gnutls_datum_t d;
    int n = 1;

    if (pem->ca) {
        d = tls_file_datum(pem->ca);
        n = gnutls_certificate_set_x509_trust_mem(tc->x509, &d,
                                                  GNUTLS_X509_FMT_PEM);
    }
    if (n <= 0) {
        return err_set(
            err, EINVAL, "Cannot load CA certificate '%s/ca-cert.pem': %s",
            p->dir, n < 0 ? gnutls_strerror(n) : "it holds no certificate");
    }
    if (pem->crl) {
        d = tls_file_datum(pem->crl);
        n = gnutls_certificate_set_x509_crl_mem(tc->x509, &d,
                                                GNUTLS_X509_FMT_PEM);
    }
    return n < 0 ? err_set(err, EINVAL, "Cannot load CRL '%s/ca-crl.pem': %s",
                           p->dir, gnutls_strerror(n))
                 : 0;
}

/* A passphrase that is a C string, NULL without one. */
static int x509_password(struct graph *g, const struct tls_props *p,
                         GBytes **ret, GError **err)
{
    gnutls_datum_t d;
    int r = p->passwordid ? secret_get(g, p->passwordid, ret, err) : 0;

    if (r < 0 || !*ret) {
        return r;
    }
    d = tls_file_datum(*ret);
    return memchr(d.data, 0, d.size)
               ? err_set(err, EINVAL, "Secret '%s' holds zero bytes",
                         p->passwordid)
               : 0;
}

static void bytes_wipe(void *p)
{
    gnutls_datum_t *d = p;

    gnutls_memset(d->data, 0, d->size);
    gnutls_free(d->data);
    g_free(d);
}

/* Libraries that get the key from us know no passphrase: they get it without. */
static int x509_open_key(struct tls_pem *pem, gnutls_x509_privkey_t key)
{
    gnutls_datum_t *out = g_new0(gnutls_datum_t, 1);
    int r = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL,
                                              GNUTLS_PKCS_PLAIN, out);

    if (r < 0) {
        g_free(out);
        return r;
    }
    g_bytes_unref(pem->key);
    pem->key = g_bytes_new_with_free_func(out->data, out->size, bytes_wipe,
                                          out);
    return 0;
}

/* Both are copied by GnuTLS, which sees whether they belong together. */
static int x509_set_pair(struct tls_creds *tc, gnutls_x509_privkey_t key)
{
    gnutls_datum_t d = tls_file_datum(tc->pem.cert);
    gnutls_x509_crt_t *certs;
    unsigned n = 0;
    int r = gnutls_x509_crt_list_import2(&certs, &n, &d, GNUTLS_X509_FMT_PEM,
                                         0);

    if (r < 0) {
        return r;
    }
    r = gnutls_certificate_set_x509_key(tc->x509, certs, (int)n, key);
    for (unsigned i = 0; i < n; i++) {
        gnutls_x509_crt_deinit(certs[i]);
    }
    gnutls_free(certs);
    return r;
}

static int x509_set_key(struct tls_creds *tc, GBytes *password)
{
    const char *text = password ? g_bytes_get_data(password, NULL) : NULL;
    gnutls_x509_privkey_t key;
    int r = tls_key_import(tc->pem.key, text, &key);

    if (r < 0) {
        return r;
    }
    r = x509_set_pair(tc, key);
    if (r >= 0 && password && !tc->server) {
        r = x509_open_key(&tc->pem, key);
    }
    gnutls_x509_privkey_deinit(key);
    return r;
}

static int x509_set_own(struct tls_creds *tc, struct graph *g,
                        const struct tls_props *p, GError **err)
{
    g_autoptr(GBytes) password = NULL;
    const char *end = tc->server ? "server" : "client";
    int r = x509_password(g, p, &password, err);

    if (r < 0 || !tc->pem.cert) {
        return r;
    }
    r = x509_set_key(tc, password);
    if (r < 0) {
        err_set(err, EINVAL,
                "Cannot load certificate '%s/%s-cert.pem' & key "
                "'%s/%s-key.pem': %s",
                p->dir, end, p->dir, end, gnutls_strerror(r));
        if (!password) {
            err_hint(err, "If the key has a passphrase, give passwordid, the "
                          "id of a secret object.");
        }
        return -EINVAL;
    }
    return 0;
}

int tls_x509_co_load(struct tls_creds *tc, struct graph *g,
                     const struct tls_props *p, GError **err)
{
    int r = x509_co_load_files(tc, p, err);

    if (r == 0 && p->sanity_check) {
        r = tls_sanity_check(&tc->pem, p->dir, tc->server, err);
    }
    if (r < 0) {
        return r;
    }
    if (gnutls_certificate_allocate_credentials(&tc->x509) < 0) {
        return err_set(err, ENOMEM, "Cannot allocate credentials");
    }
    gnutls_certificate_set_verify_limits(tc->x509, CHAIN_BITS_MAX,
                                         CHAIN_DEPTH_MAX);
    gnutls_certificate_set_known_dh_params(tc->x509, GNUTLS_SEC_PARAM_MEDIUM);
    r = x509_set_trust(tc, p, err);
    return r < 0 ? r : x509_set_own(tc, g, p, err);
}
