/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may use what.
 *
 * A server with credentials forces TLS: before it every option but STARTTLS and
 * ABORT is refused, and what a client said in the clear is forgotten.  Then the
 * server's own rules decide whether it stays, and the rules of each export
 * whether that exists for it.  Rules know a client by what the handshake has
 * proven, and nobody else.
 */
#include "export/nbd/nbd-int.h"
#include "export/trace.h"
#include "tls/authz.h"
#include "tls/tls-channel.h"
#include "tls/tls-creds.h"

bool nbd_access_needs_tls(const struct nbd_conn *c)
{
    return c->server->creds && !c->tls;
}

bool nbd_access_allows(const struct nbd_conn *c, const char *authz)
{
    return !authz ||
           authz_allows(c->server->exports->graph, authz, c->identity);
}

/* Files of rules may have changed since the last client came. */
static CO_FN void access_co_refresh(const struct nbd_conn *c,
                                    const GPtrArray *rules)
{
    struct graph *g = c->server->exports->graph;

    for (guint i = 0; i < rules->len; i++) {
        authz_co_refresh(g, g_ptr_array_index(rules, i));
    }
}

int nbd_access_co_start_tls(struct nbd_conn *c, const GPtrArray *rules)
{
    struct nbd_server *s = c->server;
    g_autoptr(GError) err = NULL;
    struct tls_creds *creds = tls_creds_latest(s->creds);
    int r = tls_channel_new(c->ch, creds, NULL, &c->ch, &err);

    tls_creds_unref(creds);
    if (r < 0) {
        return r;
    }
    c->tls = true;
    r = tls_channel_co_handshake(c->ch, &err);
    if (r < 0) {
        trace_nbd_server_tls_failed(c, err->message);
        return r;
    }
    c->identity = tls_channel_identity(c->ch);
    trace_nbd_server_tls(c, tls_channel_version(c->ch),
                         c->identity ? c->identity : "");
    access_co_refresh(c, rules);
    if (!nbd_access_allows(c, s->authz)) {
        trace_nbd_server_denied(c, c->identity ? c->identity : "");
        return -EACCES;
    }
    return 0;
}
