/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The listening side, and what connections share.
 *
 * A connection needs a slot to be served; when all are taken it waits for one,
 * within the deadline of its handshake.  Of the payload budget each connection
 * owns ->share; only what it takes beyond that counts as ->excess against the
 * rest.  So the sum never passes the server's limit, and clients that sit on
 * large replies cannot stop the small requests of others.
 *
 * To clients the servers of all loops are one (hub.h): slots are given by the one
 * that listens, to connections that move away, too.  Each has a budget of its own.
 */
#include <errno.h>
#include "base/err.h"
#include "export/nbd/nbd-int.h"
#include "tls/authz.h"
#include "tls/tls-creds.h"

struct nbd_server *nbd_server_get(struct exports *es)
{
    return es->nbd;
}

bool nbd_server_running(const struct exports *es)
{
    struct nbd_hub *h = es->hub;
    bool is;

    pthread_mutex_lock(&h->lock);
    is = h->home && !h->closing;
    pthread_mutex_unlock(&h->lock);
    return is;
}

bool nbd_server_is_home(const struct exports *es)
{
    return es->nbd && es->nbd->home == es->nbd;
}

unsigned nbd_server_port(const struct exports *es)
{
    return es->nbd && es->nbd->listener ? listener_port(es->nbd->listener) : 0;
}

/* --- budget --- */

static uint64_t excess_of(const struct nbd_server *s, uint64_t bytes)
{
    return bytes > s->share ? bytes - s->share : 0;
}

static uint64_t excess_more(const struct nbd_conn *c, uint64_t cost)
{
    return excess_of(c->server, c->payload + cost) -
           excess_of(c->server, c->payload);
}

static bool conn_has_room(const struct nbd_conn *c, uint64_t cost)
{
    return c->in_flight < NBD_MAX_REQUESTS &&
           c->payload + cost <= NBD_MAX_CONN_PAYLOAD;
}

bool nbd_budget_co_take(struct nbd_conn *c, uint64_t cost)
{
    struct nbd_server *s = c->server;

    for (;;) {
        if (c->broken) {
            return false;
        }
        if (!conn_has_room(c, cost)) {
            co_queue_co_wait(&c->room);
        } else if (s->excess + excess_more(c, cost) > s->max_excess) {
            co_queue_co_wait(&s->room);
        } else {
            break;
        }
    }
    s->excess += excess_more(c, cost);
    c->payload += cost;
    c->in_flight++;
    return true;
}

void nbd_budget_put(struct nbd_conn *c, uint64_t cost)
{
    struct nbd_server *s = c->server;
    uint64_t before = excess_of(s, c->payload);

    g_assert(c->in_flight > 0 && c->payload >= cost);
    c->in_flight--;
    c->payload -= cost;
    if (before > 0) {
        s->excess -= before - excess_of(s, c->payload);
        co_queue_wake_all(&s->room);
    }
    co_queue_wake_all(&c->room);
}

/* --- connections --- */

void nbd_server_half_open_done(struct nbd_server *s)
{
    g_assert(s->n_half_open > 0);
    s->n_half_open--;
}

/* Too many have come and said nothing: the oldest of them goes. */
void nbd_server_push_out(struct nbd_server *s)
{
    for (GList *l = s->conns.head; l; l = l->next) {
        struct nbd_conn *c = l->data;
        if (!c->transmitting && !c->broken) {
            nbd_conn_break(c);
            return;
        }
    }
}

void nbd_server_accept(struct channel *ch, void *arg)
{
    struct nbd_server *s = arg;

    if (s->stopping) {
        channel_free(ch);
        return;
    }
    nbd_conn_start(s, ch);
}

static void away_ended(void *arg)
{
    struct nbd_server *home = arg;

    home->n_slots--;
    home->n_away--;
    co_queue_wake_one(&home->slot);
    co_queue_wake_all(&home->empty);
}

void nbd_server_away_ended(struct nbd_server *home)
{
    loop_post(home->loop, away_ended, home);
}

/* --- starting and stopping --- */

static struct nbd_server *server_make(struct exports *es, unsigned max_conns)
{
    struct nbd_server *s = g_new0(struct nbd_server, 1);

    s->exports = es;
    s->loop = graph_loop(es->graph);
    s->max_conns = max_conns ? max_conns : NBD_MAX_CONNS;
    s->share = MIN(NBD_CONN_SHARE, NBD_MAX_SERVER_PAYLOAD / 2 / s->max_conns);
    s->max_excess = NBD_MAX_SERVER_PAYLOAD - s->share * s->max_conns;
    g_queue_init(&s->conns);
    s->home = s;
    es->nbd = s;
    return s;
}

/* From now on there is a server, for all loops. */
static void server_publish(struct nbd_server *s)
{
    struct nbd_hub *h = s->exports->hub;

    pthread_mutex_lock(&h->lock);
    h->home = s;
    h->closing = false;
    pthread_mutex_unlock(&h->lock);
}

struct nbd_server *nbd_server_new(struct exports *es, unsigned max_conns)
{
    struct nbd_server *s = server_make(es, max_conns);

    server_publish(s);
    return s;
}

struct nbd_server *nbd_server_for_export(struct exports *es)
{
    struct nbd_hub *h = es->hub;
    struct nbd_server *s = NULL;

    pthread_mutex_lock(&h->lock);
    if (h->home && !h->closing && es->nbd) {
        s = es->nbd;
    } else if (h->home && !h->closing) {
        const struct nbd_server *home = h->home;

        s = server_make(es, home->max_conns);
        s->home = h->home;
        s->creds = home->creds ? tls_creds_ref(home->creds) : NULL;
        s->authz = g_strdup(home->authz);
        s->path = g_strdup(home->path);
        s->host = g_strdup(home->host);
        s->port = home->port;
    }
    pthread_mutex_unlock(&h->lock);
    return s;
}

int nbd_server_check_authz(const struct exports *es, const char *authz,
                           GError **err)
{
    const struct nbd_server *s = es->nbd;
    int ret = authz_check(es->graph, authz, err);

    if (ret == 0 && !(s && s->creds && tls_creds_name_clients(s->creds))) {
        ret = err_set(
            err, EINVAL,
            "Parameter 'tls-authz' needs a server whose clients prove "
            "who they are");
        err_hint(err, "Give the server tls-creds of a tls-creds-x509 with "
                      "verify-peer=on, or of a tls-creds-psk.");
    }
    return ret;
}

static void server_free(struct nbd_server *s)
{
    s->exports->nbd = NULL;
    tls_creds_unref(s->creds);
    g_free(s->authz);
    g_free(s->path);
    g_free(s->host);
    g_free(s);
}

static void server_keep_address(struct nbd_server *s, const struct sock_addr *a)
{
    s->path = a->path ? g_canonicalize_filename(a->path, NULL) : NULL;
    s->host = g_strdup(a->host);
    s->port = listener_port(s->listener);
}

/* Who may reach it, and by what. */
static int server_set_access(struct nbd_server *s,
                             const struct nbd_server_params *p, GError **err)
{
    s->creds = p->creds ? tls_creds_ref(p->creds) : NULL;
    s->authz = g_strdup(p->authz);
    return p->authz ? nbd_server_check_authz(s->exports, p->authz, err) : 0;
}

static int server_listen(struct nbd_server *s,
                         const struct nbd_server_params *p, GError **err)
{
    struct sock_addr addr = *p->addr;
    int ret;

    addr.any_network = p->creds || p->plaintext;
    ret = listener_new(s->loop, &addr, nbd_server_accept, s, &s->listener, err);
    if (ret == -EPERM && addr.host && !addr.any_network) {
        err_hint(err, "tls-creds names an object with credentials for TLS.  "
                      "insecure-plaintext=on lets everybody who reaches this "
                      "address read and write the disks.");
    }
    return ret;
}

int nbd_server_start(struct exports *es, const struct nbd_server_params *p,
                     GError **err)
{
    struct nbd_server *s;
    int ret;

    if (es->nbd) {
        return err_set(err, EBUSY, "NBD server already running");
    }
    s = server_make(es, p->max_connections);
    ret = server_set_access(s, p, err);
    if (ret == 0) {
        ret = server_listen(s, p, err);
    }
    if (ret < 0) {
        server_free(s);
        return ret;
    }
    server_keep_address(s, p->addr);
    server_publish(s);
    return 0;
}

int nbd_server_begin_end(struct exports *es, GError **err)
{
    struct nbd_server *s = es->nbd;

    if (!nbd_server_is_home(es) || s->stopping) {
        return err_set(err, ENOENT, "NBD server not running");
    }
    pthread_mutex_lock(&es->hub->lock);
    es->hub->closing = true;
    pthread_mutex_unlock(&es->hub->lock);
    s->stopping = true;
    listener_free(s->listener);
    s->listener = NULL;
    return 0;
}

/* No connection of @s is here, and no nbd export. */
static CO_FN void server_co_empty(struct nbd_server *s)
{
    /* A connection leaves the queue in its own coroutine, not in here. */
    for (GList *l = s->conns.head; l; l = l->next) {
        nbd_conn_stop(l->data);
    }
    while (s->conns.length > 0 || s->n_away > 0) {
        co_queue_co_wait(&s->empty);
    }
    exports_co_delete_all(s->exports, &nbd_export_driver);
}

void nbd_server_co_leave(struct exports *es)
{
    struct nbd_server *s = es->nbd;

    if (s && !s->stopping) {
        s->stopping = true;
        server_co_empty(s);
        server_free(s);
    }
}

void nbd_server_co_end(struct exports *es)
{
    struct nbd_server *s = es->nbd;

    if (!s || s->ending) {
        while (s && es->nbd == s) {
            co_queue_co_wait(&es->gone);
        }
        return;
    }
    s->ending = true;
    server_co_empty(s);
    pthread_mutex_lock(&es->hub->lock);
    es->hub->home = NULL;
    es->hub->closing = false;
    pthread_mutex_unlock(&es->hub->lock);
    server_free(s);
    co_queue_wake_all(&es->gone);
}

int nbd_server_co_stop(struct exports *es, GError **err)
{
    int r = nbd_server_begin_end(es, err);

    if (r == 0) {
        nbd_server_co_end(es);
    }
    return r;
}
