/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Faults of our own certificates, found when they are loaded and not when the
 * first peer turns away: times, purpose, and the signature of the authority.
 */
#include <gnutls/x509.h>
#include <time.h>
#include "base/err.h"
#include "tls/tls-creds-int.h"

struct list {
    gnutls_x509_crt_t *certs;
    unsigned n;
};

static void list_clear(struct list *l)
{
    for (unsigned i = 0; i < l->n; i++) {
        gnutls_x509_crt_deinit(l->certs[i]);
    }
    gnutls_free(l->certs);
}

static int list_load(struct list *l, GBytes *pem, const char *path,
                     GError **err)
{
    gnutls_datum_t d = tls_file_datum(pem);
    int r = gnutls_x509_crt_list_import2(&l->certs, &l->n, &d,
                                         GNUTLS_X509_FMT_PEM, 0);

    return r < 0 ? err_set(err, EINVAL, "Unable to import certificate %s: %s",
                           path, gnutls_strerror(r))
                 : 0;
}

/* The first of a list is our own; those behind lead to the authority. */
static int check_times(const struct list *l, const char *path, const char *what,
                       GError **err)
{
    time_t now = time(NULL);

    for (unsigned i = 0; i < l->n; i++) {
        if (gnutls_x509_crt_get_expiration_time(l->certs[i]) < now) {
            return err_set(err, EINVAL, "The %s certificate %s has expired",
                           what, path);
        }
        if (gnutls_x509_crt_get_activation_time(l->certs[i]) > now) {
            return err_set(err, EINVAL,
                           "The %s certificate %s is not yet active", what,
                           path);
        }
    }
    return 0;
}

static int check_purpose(const struct list *l, const char *path, bool server,
                         GError **err)
{
    const char *purpose = server ? GNUTLS_KP_TLS_WWW_SERVER
                                 : GNUTLS_KP_TLS_WWW_CLIENT;

    return gnutls_x509_crt_check_key_purpose(l->certs[0], purpose, 0)
               ? 0
               : err_set(err, EINVAL,
                         "Certificate %s purpose does not allow for use with a "
                         "TLS %s",
                         path, server ? "server" : "client");
}

static int check_chain(const struct list *own, const struct list *ca,
                       const char *path, const char *ca_path, GError **err)
{
    unsigned status = 0;
    int r = gnutls_x509_crt_list_verify(own->certs, (int)own->n, ca->certs,
                                        (int)ca->n, NULL, 0, 0, &status);
    gnutls_datum_t text = { 0 };

    if (r == 0 && status == 0) {
        return 0;
    }
    if (r == 0) {
        r = gnutls_certificate_verification_status_print(
            status, GNUTLS_CRT_X509, &text, 0);
    }
    err_set(err, EINVAL,
            "Our own certificate %s failed validation against %s: %s", path,
            ca_path, r < 0 ? gnutls_strerror(r) : (const char *)text.data);
    gnutls_free(text.data);
    return -EINVAL;
}

int tls_sanity_check(const struct tls_pem *pem, const char *dir, bool server,
                     GError **err)
{
    const char *end = server ? "server" : "client";
    g_autofree char *ca_path = g_strdup_printf("%s/ca-cert.pem", dir);
    g_autofree char *path = g_strdup_printf("%s/%s-cert.pem", dir, end);
    struct list own = { 0 }, ca = { 0 };
    int r = 0;

    if (pem->ca && (r = list_load(&ca, pem->ca, ca_path, err)) == 0) {
        r = check_times(&ca, ca_path, "CA", err);
    }
    if (r == 0 && pem->cert &&
        (r = list_load(&own, pem->cert, path, err)) == 0 &&
        (r = check_times(&own, path, end, err)) == 0 &&
        (r = check_purpose(&own, path, server, err)) == 0 && pem->ca) {
        r = check_chain(&own, &ca, path, ca_path, err);
    }
    list_clear(&own);
    list_clear(&ca);
    return r;
}
