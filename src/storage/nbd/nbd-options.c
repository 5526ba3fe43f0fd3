/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The options of driver "nbd": where the export is and how to reach it.  The
 * address comes as a SocketAddress object, flat ("server.path"), in the older
 * flat spelling ("path", "host", "port"), or as an address in "filename".
 */
#include "storage/nbd/nbd-options.h"

#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "storage/nbd/nbd-client.h"
#include "tls/tls-creds.h"
#include "wire/nbd-uri.h"

#define NS_PER_S UINT64_C(1000000000)
#define CONNECTIONS_DEFAULT 4
/* A server that is restarted is back by then, and a guest has not given up. */
#define RECONNECT_DELAY_DEFAULT_S 10
#define HANG_TIMEOUT_DEFAULT_S 10
#define DELAY_MAX_S (24 * 3600)

const char *const nbd_option_names[] = { "server",
                                         "path",
                                         "host",
                                         "port",
                                         "export",
                                         "filename",
                                         "fallback-servers",
                                         "tls-creds",
                                         "tls-hostname",
                                         "reconnect-delay",
                                         "open-timeout",
                                         "connections",
                                         "on-base-hang",
                                         "hang-timeout",
                                         NULL };

/* Members of @o, each with @prefix before its name, into @t. */
static int take_address(struct opts *o, const char *prefix,
                        struct nbd_target *t, GError **err)
{
    const struct {
        const char *name;
        char **ret;
    } members[] = {
        { "path", &t->path },
        { "host", &t->host },
        { "port", &t->port },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++) {
        g_autofree char *key = g_strconcat(prefix, members[i].name, NULL);
        int64_t number;
        json_t *v = opts_has(o, key) ? opts_take_any(o, key) : NULL;
        if (!v) {
            continue;
        }
        g_free(*members[i].ret);
        *members[i].ret = NULL;
        if (json_is_string(v)) {
            *members[i].ret = g_strdup(json_string_value(v));
        } else if (json_is_integer(v) && members[i].ret == &t->port) {
            number = json_integer_value(v);
            *members[i].ret = g_strdup_printf("%" PRId64, number);
        }
        json_decref(v);
        if (!*members[i].ret) {
            return err_set(err, EINVAL,
                           "Invalid parameter type for '%s', "
                           "expected: string",
                           key);
        }
    }
    return 0;
}

/* Does @type of a SocketAddress fit what was given? */
static int check_address(const char *type, const struct nbd_target *t,
                         GError **err)
{
    bool is_unix = type ? g_str_equal(type, "unix") : t->path != NULL;

    if (type && !is_unix && !g_str_equal(type, "inet")) {
        return err_set(err, EINVAL,
                       "Parameter 'server.type' does not accept "
                       "value '%s'",
                       type);
    }
    if (t->path && t->host) {
        return err_set(err, EINVAL,
                       "path and host may not be used at the "
                       "same time");
    }
    if (is_unix) {
        return t->path ? 0 : opts_missing("server.path", err);
    }
    return t->host ? 0 : opts_missing(type ? "server.host" : "server", err);
}

/* A SocketAddress, option @name. */
static int take_object(const json_t *obj, const char *name,
                       struct nbd_target *t, GError **err)
{
    CLEANUP(opts_freep) struct opts *sub = NULL;
    g_autofree char *type = NULL;
    int ret;

    if (!json_is_object(obj)) {
        return err_set(err, EINVAL,
                       "Invalid parameter type for '%s', expected: object",
                       name);
    }
    sub = opts_new(obj);
    ret = opts_take_str(sub, "type", &type, err);
    if (ret == 0) {
        g_autofree char *key = g_strconcat(name, ".type", NULL);

        return opts_missing(key, err);
    }
    if (ret < 0 || (ret = take_address(sub, "", t, err)) < 0 ||
        (ret = check_address(type, t, err)) < 0) {
        return ret;
    }
    return opts_finish(sub, err);
}

static int take_server(struct opts *o, struct nbd_target *t, GError **err)
{
    g_autofree char *type = NULL;
    json_t *obj = opts_take_any(o, "server");
    int ret;

    if (!obj) {
        /* Flat: server.path or, older, path. */
        ret = opts_take_str(o, "server.type", &type, err);
        if (ret >= 0) {
            ret = take_address(o, "server.", t, err);
        }
        if (ret >= 0 && !t->path && !t->host) {
            ret = take_address(o, "", t, err);
        }
        return ret < 0 ? ret : check_address(type, t, err);
    }
    ret = take_object(obj, "server", t, err);
    json_decref(obj);
    return ret;
}

static int take_target(struct opts *o, struct nbd_target *t, GError **err)
{
    g_autofree char *filename = NULL;
    int ret = opts_take_str(o, "filename", &filename, err);
    if (ret < 0) {
        return ret;
    }
    if (filename) {
        return nbd_uri_parse(filename, t, err);
    }
    ret = take_server(o, t, err);
    if (ret >= 0) {
        ret = opts_take_str(o, "export", &t->export_name, err);
    }
    if (ret < 0) {
        return ret;
    }
    if (!t->export_name) {
        t->export_name = g_strdup("");
    }
    if (t->host && !t->port) {
        t->port = g_strdup(NBD_DEFAULT_PORT);
    }
    return strlen(t->export_name) <= 4096
               ? 0
               : err_set(err, EINVAL, "export name too long to send to server");
}

/* Other servers of the same export. */
static int take_fallbacks(struct opts *o, struct nbd_targets *ts, GError **err)
{
    json_t *list = opts_take_any(o, "fallback-servers"), *item;
    size_t i;
    int ret = 0;

    if (list &&
        (!json_is_array(list) || json_array_size(list) >= NBD_TARGETS_MAX)) {
        ret = err_set(err, EINVAL,
                      "Parameter 'fallback-servers' expects a list of at most "
                      "%d addresses",
                      NBD_TARGETS_MAX - 1);
    }
    for (i = 0; list && ret == 0 && i < json_array_size(list); i++) {
        struct nbd_target *t = &ts->list[ts->n++];

        item = json_array_get(list, i);
        t->export_name = g_strdup(ts->list[0].export_name);
        ret = take_object(item, "fallback-servers", t, err);
        if (ret == 0 && t->host && !t->port) {
            t->port = g_strdup(NBD_DEFAULT_PORT);
        }
    }
    json_decref(list);
    return ret;
}

void nbd_targets_clear(struct nbd_targets *ts)
{
    for (unsigned i = 0; i < NBD_TARGETS_MAX; i++) {
        nbd_target_clear(&ts->list[i]);
    }
    ts->n = 0;
}

char *nbd_targets_format(const struct nbd_targets *ts)
{
    GString *out = g_string_new(NULL);

    for (unsigned i = 0; i < ts->n; i++) {
        g_autofree char *uri = nbd_uri_format(&ts->list[i]);

        g_string_append_printf(out, "%s%s", i ? " " : "", uri);
    }
    return g_string_free(out, FALSE);
}

void nbd_tls_clear(struct nbd_tls *tls)
{
    g_clear_pointer(&tls->id, g_free);
    g_clear_pointer(&tls->hostname, g_free);
    g_clear_pointer(&tls->creds, tls_creds_unref);
}

/* A name in an address asks for TLS, but only credentials make it safe. */
static int tls_missing(const struct nbd_target *t, const struct nbd_tls *tls,
                       GError **err)
{
    if (!t->tls && !tls->hostname) {
        return 0;
    }
    err_set(err, EINVAL, "%s needs 'tls-creds'",
            t->tls ? "An address with nbds" : "Parameter 'tls-hostname'");
    err_hint(err, "It names an object tls-creds-x509 or tls-creds-psk with "
                  "endpoint=client.");
    return -EINVAL;
}

/* A certificate is for a name, which a Unix socket has not. */
static bool lacks_hostname(const struct nbd_targets *ts,
                           const struct nbd_tls *tls)
{
    bool lacks = false;

    for (unsigned i = 0; i < ts->n; i++) {
        lacks |= !ts->list[i].host;
    }
    return lacks && !tls->hostname && tls_creds_want_hostname(tls->creds);
}

static int take_tls(struct opts *o, struct graph *g, struct nbd_targets *ts,
                    struct nbd_tls *tls, GError **err)
{
    int ret = opts_take_str(o, "tls-creds", &tls->id, err);

    if (ret >= 0) {
        ret = opts_take_str(o, "tls-hostname", &tls->hostname, err);
    }
    if (ret < 0 || !tls->id) {
        return ret < 0 ? ret : tls_missing(&ts->list[0], tls, err);
    }
    ret = tls_creds_get(g, tls->id, false, &tls->creds, err);
    if (ret < 0) {
        return ret;
    }
    ts->list[0].tls = true;
    if (lacks_hostname(ts, tls)) {
        err_set(err, EINVAL, "No hostname for certificate validation");
        err_hint(err, "tls-hostname says whose certificate the server at a "
                      "Unix socket is to have.");
        return -EINVAL;
    }
    return 0;
}

/* @name in seconds; @seconds is the default. */
static int take_delay(struct opts *o, const char *name, int64_t seconds,
                      uint64_t *ret_ns, GError **err)
{
    int ret = opts_take_int(o, name, &seconds, err);
    if (ret >= 0 && (seconds < 0 || seconds > DELAY_MAX_S)) {
        ret = err_set(err, EINVAL, "Parameter '%s' expects 0 to %d seconds",
                      name, DELAY_MAX_S);
    }
    *ret_ns = (uint64_t)seconds * NS_PER_S;
    return MIN(ret, 0);
}

static int take_on_hang(struct opts *o, bool *ret_fail, GError **err)
{
    g_autofree char *policy = NULL;
    int ret = opts_take_str(o, "on-base-hang", &policy, err);

    *ret_fail = policy && g_str_equal(policy, "error");
    if (policy && !*ret_fail && !g_str_equal(policy, "wait")) {
        return err_set(err, EINVAL,
                       "Parameter 'on-base-hang' does not accept "
                       "value '%s'",
                       policy);
    }
    return MIN(ret, 0);
}

static int take_client_options(struct opts *o, struct nbd_client_options *co,
                               GError **err)
{
    int64_t connections = CONNECTIONS_DEFAULT;
    int ret = take_delay(o, "reconnect-delay", RECONNECT_DELAY_DEFAULT_S,
                         &co->reconnect_delay_ns, err);
    if (ret == 0) {
        ret = take_delay(o, "open-timeout", 0, &co->open_timeout_ns, err);
    }
    if (ret == 0) {
        ret = take_delay(o, "hang-timeout", HANG_TIMEOUT_DEFAULT_S,
                         &co->hang_timeout_ns, err);
    }
    if (ret == 0) {
        ret = take_on_hang(o, &co->fail_on_hang, err);
    }
    if (ret == 0) {
        ret = opts_take_int(o, "connections", &connections, err);
    }
    if (ret >= 0 && (connections < 1 || connections > NBD_CONNECTIONS_MAX)) {
        ret = err_set(err, EINVAL, "Parameter 'connections' expects 1 to %d",
                      NBD_CONNECTIONS_MAX);
    }
    co->connections = (unsigned)connections;
    return MIN(ret, 0);
}

int nbd_options_take(struct opts *o, struct graph *g, struct nbd_targets *ts,
                     struct nbd_tls *tls, struct nbd_client_options *co,
                     GError **err)
{
    int ret;

    ts->n = 1;
    ret = take_target(o, &ts->list[0], err);
    if (ret == 0) {
        ret = take_fallbacks(o, ts, err);
    }
    if (ret == 0) {
        ret = take_tls(o, g, ts, tls, err);
    }
    co->creds = tls->creds;
    co->tls_hostname = tls->hostname;
    return ret < 0 ? ret : take_client_options(o, co, err);
}
