/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys that both ends have had before (pre-shared keys), in a file "keys.psk"
 * of lines USER:HEX, as psktool makes it.  A server has a line for each client;
 * a client uses the one of its user name.
 */
#include <string.h>
#include "base/err.h"
#include "tls/tls-creds-int.h"

#define KEY_FILE "keys.psk"
#define USER_DEFAULT "qemu"

/* The key of @user in @keys, still in hex; empty if there is none. */
static gnutls_datum_t psk_find(GBytes *keys, const char *user, size_t user_len)
{
    gnutls_datum_t all = tls_file_datum(keys);
    const char *line = (const char *)all.data, *end = line + all.size;

    while (line < end) {
        size_t len = strcspn(line, "\r\n");

        if (len > user_len && line[user_len] == ':' &&
            memcmp(line, user, user_len) == 0) {
            return (gnutls_datum_t) {
                .data = (unsigned char *)line + user_len + 1,
                .size = (unsigned)(len - user_len - 1),
            };
        }
        line += len + 1;
    }
    return (gnutls_datum_t) { 0 };
}

/* GnuTLS asks for the key of a client. 1: there is no such user; it then goes on
 * with a random key, so that nobody learns which users there are. */
static int psk_ask(gnutls_session_t session, const char *user,
                   gnutls_datum_t *ret_key)
{
    const struct tls_creds *tc = gnutls_session_get_ptr(session);
    gnutls_datum_t hex = psk_find(tc->psk_keys, user, strlen(user));

    if (hex.size == 0) {
        return 1;
    }
    return gnutls_hex_decode2(&hex, ret_key) < 0 ? -1 : 0;
}

/* Is every line one of a user with a key, and is there one? */
static int psk_check(GBytes *keys, const char *dir, GError **err)
{
    gnutls_datum_t all = tls_file_datum(keys);
    g_auto(GStrv) lines = NULL;
    unsigned n = 0, bad = 0;

    if (strlen((const char *)all.data) != all.size) {
        return err_set(err, EINVAL, "%s/" KEY_FILE " holds zero bytes", dir);
    }
    lines = g_strsplit_set((const char *)all.data, "\r\n", -1);
    for (unsigned i = 0; lines[i] && !bad; i++) {
        const char *colon = strchr(lines[i], ':');
        size_t digits = colon ? strspn(colon + 1, "0123456789abcdefABCDEF") : 0;

        if (*lines[i] == '\0') {
            continue;
        }
        n++;
        if (!colon || colon == lines[i] || digits == 0 || digits % 2 ||
            colon[1 + digits]) {
            bad = i + 1;
        }
    }
    for (unsigned i = 0; lines[i]; i++) {
        explicit_bzero(lines[i], strlen(lines[i]));
    }
    if (bad) {
        err_set(err, EINVAL, "%s/" KEY_FILE ": line %u is not USER:HEX", dir,
                bad);
    } else if (n == 0) {
        err_set(err, EINVAL, "%s/" KEY_FILE " holds no key", dir);
    } else {
        return 0;
    }
    err_hint(err, "psktool -u USER -p " KEY_FILE " makes such lines.");
    return -EINVAL;
}

static int psk_set_server(struct tls_creds *tc)
{
    int r = gnutls_psk_allocate_server_credentials(&tc->psk_server);

    if (r < 0) {
        return r;
    }
    gnutls_psk_set_server_credentials_function(tc->psk_server, psk_ask);
    return gnutls_psk_set_server_known_dh_params(tc->psk_server,
                                                 GNUTLS_SEC_PARAM_MEDIUM);
}

static int psk_set_client(struct tls_creds *tc, const char *user,
                          gnutls_datum_t hex)
{
    int r = gnutls_psk_allocate_client_credentials(&tc->psk_client);

    return r < 0 ? r
                 : gnutls_psk_set_client_credentials(tc->psk_client, user, &hex,
                                                     GNUTLS_PSK_KEY_HEX);
}

int tls_psk_co_load(struct tls_creds *tc, const struct tls_props *p,
                    GError **err)
{
    const char *user = p->username ? p->username : USER_DEFAULT;
    gnutls_datum_t hex;
    int r = tls_file_co_load(p->dir, KEY_FILE, TLS_FILE_PRIVATE, &tc->psk_keys,
                             err);

    if (r == 0) {
        r = psk_check(tc->psk_keys, p->dir, err);
    }
    if (r < 0) {
        return r;
    }
    hex = psk_find(tc->psk_keys, user, strlen(user));
    if (!tc->server && hex.size == 0) {
        return err_set(err, ENOENT, "%s/" KEY_FILE " has no key of user '%s'",
                       p->dir, user);
    }
    r = tc->server ? psk_set_server(tc) : psk_set_client(tc, user, hex);
    return r < 0 ? err_set(err, EINVAL,
                           "Cannot use the keys of %s/" KEY_FILE ": %s", p->dir,
                           gnutls_strerror(r))
                 : 0;
}
