/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tls/tls-creds.h"
#include "base/err.h"
#include "base/options.h"
#include "graph/registry.h"
#include "tls/tls-creds-int.h"

static void *creds_ref(void *p)
{
    return tls_creds_ref(p);
}

static void creds_unref(void *p)
{
    tls_creds_unref(p);
}

static const struct registry_kind creds_kind = { "TLS credentials", creds_ref,
                                                 creds_unref };

struct tls_creds *tls_creds_ref(struct tls_creds *tc)
{
    g_atomic_ref_count_inc(&tc->refs);
    return tc;
}

/* Rules and options were checked against what the old ones prove and ask: others
 * that do not are not taken in their place. */
struct tls_creds *tls_creds_latest(struct tls_creds *tc)
{
    struct tls_creds *now = registry_get(tc->graph, &creds_kind, tc->id);

    if (now && now->kind == tc->kind && now->server == tc->server &&
        now->verify_peer == tc->verify_peer) {
        return now;
    }
    tls_creds_unref(now);
    return tls_creds_ref(tc);
}

static void pem_clear(struct tls_pem *pem)
{
    g_clear_pointer(&pem->ca, g_bytes_unref);
    g_clear_pointer(&pem->crl, g_bytes_unref);
    g_clear_pointer(&pem->cert, g_bytes_unref);
    g_clear_pointer(&pem->key, g_bytes_unref);
}

void tls_creds_unref(struct tls_creds *tc)
{
    if (!tc || !g_atomic_ref_count_dec(&tc->refs)) {
        return;
    }
    g_clear_pointer(&tc->x509, gnutls_certificate_free_credentials);
    g_clear_pointer(&tc->psk_server, gnutls_psk_free_server_credentials);
    g_clear_pointer(&tc->psk_client, gnutls_psk_free_client_credentials);
    g_clear_pointer(&tc->anon_server, gnutls_anon_free_server_credentials);
    g_clear_pointer(&tc->anon_client, gnutls_anon_free_client_credentials);
    g_clear_pointer(&tc->priority, gnutls_priority_deinit);
    g_clear_pointer(&tc->psk_keys, g_bytes_unref);
    pem_clear(&tc->pem);
    g_free(tc->id);
    g_free(tc);
}

static void props_clear(struct tls_props *p)
{
    g_free(p->dir);
    g_free(p->priority);
    g_free(p->passwordid);
    g_free(p->username);
}

static int props_take(struct tls_props *p, enum tls_kind kind,
                      const json_t *props, GError **err)
{
    static const char *const ends[] = { "client", "server", NULL };
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    int end = 0, r;

    if ((r = opts_take_enum(o, "endpoint", ends, &end, err)) < 0 ||
        (r = opts_take_str(o, "dir", &p->dir, err)) < 0 ||
        (r = opts_take_bool(o, "verify-peer", &p->verify_peer, err)) < 0 ||
        (r = opts_take_str(o, "priority", &p->priority, err)) < 0 ||
        (kind == TLS_X509 &&
         ((r = opts_take_str(o, "passwordid", &p->passwordid, err)) < 0 ||
          (r = opts_take_bool(o, "sanity-check", &p->sanity_check, err)) <
              0)) ||
        (kind == TLS_PSK &&
         (r = opts_take_str(o, "username", &p->username, err)) < 0) ||
        (r = opts_finish(o, err)) < 0) {
        return r;
    }
    p->server = end == 1;
    return p->dir || kind == TLS_ANON
               ? 0
               : err_set(err, EINVAL, "Missing 'dir' property value");
}

static int anon_load(struct tls_creds *tc, GError **err)
{
    int r;

    if (tc->server) {
        r = gnutls_anon_allocate_server_credentials(&tc->anon_server);
        if (r >= 0) {
            r = gnutls_anon_set_server_known_dh_params(tc->anon_server,
                                                       GNUTLS_SEC_PARAM_MEDIUM);
        }
    } else {
        r = gnutls_anon_allocate_client_credentials(&tc->anon_client);
    }
    return r < 0 ? err_set(err, ENOMEM, "Cannot allocate credentials: %s",
                           gnutls_strerror(r))
                 : 0;
}

static CO_FN int creds_co_load(struct tls_creds *tc, struct graph *g,
                               const struct tls_props *p, GError **err)
{
    int r = tls_priority_set(tc, p->priority, err);

    if (r < 0) {
        return r;
    }
    switch (tc->kind) {
    case TLS_X509: return tls_x509_co_load(tc, g, p, err);
    case TLS_PSK: return tls_psk_co_load(tc, p, err);
    case TLS_ANON: return anon_load(tc, err);
    }
    g_assert_not_reached();
}

static CO_FN int creds_co_add(struct graph *g, enum tls_kind kind,
                              const char *id, const json_t *props, GError **err)
{
    struct tls_props p = { .verify_peer = true, .sanity_check = true };
    struct tls_creds *tc = NULL;
    int r = props_take(&p, kind, props, err);

    if (r == 0) {
        tc = g_new0(struct tls_creds, 1);
        g_atomic_ref_count_init(&tc->refs);
        tc->graph = g;
        tc->id = g_strdup(id);
        tc->kind = kind;
        tc->server = p.server;
        tc->verify_peer = p.verify_peer;
        r = creds_co_load(tc, g, &p, err);
    }
    props_clear(&p);
    if (r < 0) {
        tls_creds_unref(tc);
        return r;
    }
    return registry_add(g, &creds_kind, id, tc, err);
}

int tls_creds_co_add_x509(struct graph *g, const char *id, const json_t *props,
                          GError **err)
{
    return creds_co_add(g, TLS_X509, id, props, err);
}

int tls_creds_co_add_psk(struct graph *g, const char *id, const json_t *props,
                         GError **err)
{
    return creds_co_add(g, TLS_PSK, id, props, err);
}

int tls_creds_co_add_anon(struct graph *g, const char *id, const json_t *props,
                          GError **err)
{
    return creds_co_add(g, TLS_ANON, id, props, err);
}

int tls_creds_del(struct graph *g, const char *id, GError **err)
{
    return registry_remove(g, &creds_kind, id, err);
}

int tls_creds_get(struct graph *g, const char *id, bool server,
                  struct tls_creds **ret, GError **err)
{
    struct tls_creds *tc = registry_get(g, &creds_kind, id);

    if (!tc) {
        return err_set(err, ENOENT, "No TLS credentials with id '%s'", id);
    }
    if (tc->server != server) {
        err_set(err, EINVAL, "Expected TLS credentials for a %s endpoint",
                server ? "server" : "client");
        err_hint(err, "Object '%s' was made with endpoint=%s.", id,
                 tc->server ? "server" : "client");
        tls_creds_unref(tc);
        return -EINVAL;
    }
    *ret = tc;
    return 0;
}

bool tls_creds_name_clients(const struct tls_creds *tc)
{
    return tc->kind == TLS_PSK || (tc->kind == TLS_X509 && tc->verify_peer);
}

bool tls_creds_want_hostname(const struct tls_creds *tc)
{
    return tc->kind == TLS_X509 && tc->verify_peer;
}

bool tls_creds_are_x509(const struct tls_creds *tc)
{
    return tc->kind == TLS_X509;
}

const struct tls_pem *tls_creds_pem(const struct tls_creds *tc)
{
    return &tc->pem;
}
