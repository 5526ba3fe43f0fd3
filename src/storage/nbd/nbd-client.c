/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD client from its opening to its close; nbd-client-int.h tells where the
 * rest is.
 */
#include "storage/nbd/nbd-client.h"

#include <errno.h>
#include <inttypes.h>

#include "storage/nbd/nbd-client-int.h"
#include "tls/tls-creds.h"
#include "wire/nbd-uri.h"

const struct nbd_offer *nbd_client_offer(const struct nbd_client *cl)
{
    return &cl->offer;
}

const char *nbd_client_failure(const struct nbd_client *cl)
{
    return cl->failure;
}

void nbd_client_keep_content(struct nbd_client *cl, bool keep)
{
    cl->keeps_content = keep && cl->offer.min_block <= NBD_CONTENT_BLOCK;
    if (!keep) {
        cl->content = (struct nbd_content) {};
    }
}

void nbd_client_interrupt(struct nbd_client *cl)
{
    nbd_client_fail(cl, "the daemon is shutting down");
}

static void nbd_client_release(struct nbd_client *cl)
{
    g_assert(cl->requests.length == 0);
    loop_timer_cancel(&cl->hang_timer);
    for (unsigned i = 0; i < cl->n_targets; i++) {
        nbd_target_clear(&cl->targets[i]);
    }
    tls_creds_unref(cl->opts.creds);
    g_free(cl->tls_hostname);
    g_free(cl->name);
    g_free(cl->failure);
    g_free(cl);
}

int nbd_client_co_open(const struct nbd_target *targets, unsigned n,
                       const struct nbd_client_options *opts,
                       struct nbd_client **ret, GError **err)
{
    struct nbd_client *cl = g_new0(struct nbd_client, 1);

    g_assert(n > 0 && n <= NBD_TARGETS_MAX);
    cl->n_targets = n;
    for (unsigned i = 0; i < n; i++) {
        cl->targets[i] = (struct nbd_target) {
            .path = g_strdup(targets[i].path),
            .host = g_strdup(targets[i].host),
            .port = g_strdup(targets[i].port),
            .export_name = g_strdup(targets[i].export_name),
        };
    }
    cl->opts = *opts;
    cl->opts.creds = opts->creds ? tls_creds_ref(opts->creds) : NULL;
    cl->opts.tls_hostname = NULL;
    cl->tls_hostname = g_strdup(opts->tls_hostname);
    cl->opts.connections = CLAMP(opts->connections, 1, NBD_CONNECTIONS_MAX);
    cl->name = nbd_uri_format(&targets[0]);
    cl->nslots = 1;
    loop_timer_init(&cl->hang_timer, loop_current(), nbd_client_hang_timer, cl);
    *ret = cl; /* may be interrupted from here on */
    int r = nbd_client_co_connect_first(cl, err);
    if (r < 0) {
        *ret = NULL;
        nbd_client_release(cl);
        return r;
    }
    nbd_client_start_slots(cl, 0, 1);
    return 0;
}

void nbd_client_co_close(struct nbd_client *cl)
{
    if (!cl) {
        return;
    }
    cl->closing = true;
    nbd_client_co_end_slots(cl);
    nbd_client_release(cl);
}
