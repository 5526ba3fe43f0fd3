/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which versions, ciphers and key exchanges are offered: TLS 1.2 and later,
 * ciphers that authenticate what they encrypt, and keys that are new for each
 * session.  Whoever gives a priority string of his own may choose others, but
 * no older version.
 */
#include "base/err.h"
#include "tls/tls-creds-int.h"

#define MODERN \
    ":-CIPHER-ALL:+AES-256-GCM:+AES-128-GCM:+CHACHA20-POLY1305" \
    ":-MAC-ALL:+AEAD:%SERVER_PRECEDENCE"
#define NOT_OLD ":-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1"

static const char *const defaults[] = {
    [TLS_X509] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA" MODERN
                 ":%PROFILE_MEDIUM",
    [TLS_PSK] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
                ":-KX-ALL:+ECDHE-PSK:+DHE-PSK" MODERN,
    /* TLS 1.3 has no anonymous key exchange. */
    [TLS_ANON] = "NORMAL:-VERS-ALL:+VERS-TLS1.2"
                 ":-KX-ALL:+ANON-ECDH:+ANON-DH" MODERN,
};

/* Without these the credentials would be of no use. */
static const char *const needed[] = {
    [TLS_X509] = "",
    [TLS_PSK] = ":+ECDHE-PSK:+DHE-PSK",
    [TLS_ANON] = ":+ANON-ECDH:+ANON-DH",
};

int tls_priority_set(struct tls_creds *tc, const char *wish, GError **err)
{
    g_autofree char *text = wish ? g_strconcat(wish, needed[tc->kind], NOT_OLD,
                                               NULL)
                                 : g_strdup(defaults[tc->kind]);
    const char *where = NULL;
    int r = gnutls_priority_init(&tc->priority, text, &where);

    if (r < 0) {
        return err_set(err, EINVAL, "Unable to set TLS session priority %s: %s",
                       text, gnutls_strerror(r));
    }
    return 0;
}
