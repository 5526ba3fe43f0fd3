/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of driver "rbd": those of QEMU, and how long to wait. */
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/options.h"
#include "graph/secret.h"
#include "storage/rbd/rbd-node.h"

#define NS_PER_S UINT64_C(1000000000)
#define HANG_TIMEOUT_DEFAULT_S 10
#define DELAY_MAX_S (24 * 3600)

void rbd_options_clear(struct rbd_options *o)
{
    rbd_target_clear(&o->target);
}

static int take_parts(struct opts *o, struct rbd_name *n, GError **err)
{
    const struct {
        const char *name;
        char **ret;
    } parts[] = {
        { "pool", &n->pool },   { "namespace", &n->name_space },
        { "image", &n->image }, { "snapshot", &n->snapshot },
        { "conf", &n->conf },   { "user", &n->user },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        int r = opts_take_str(o, parts[i].name, parts[i].ret, err);

        if (r < 0) {
            return r;
        }
        if (*parts[i].ret && !**parts[i].ret) {
            g_clear_pointer(parts[i].ret, g_free);
        }
    }
    return !n->pool    ? opts_missing("pool", err)
           : !n->image ? opts_missing("image", err)
                       : 0;
}

static int rbd_take_name(struct opts *o, struct rbd_name *n, GError **err)
{
    g_autofree char *filename = NULL;
    int r = opts_take_str(o, "filename", &filename, err);

    if (r <= 0) {
        return r < 0 ? r : take_parts(o, n, err);
    }
    r = rbd_name_parse(filename, n, err);
    if (r == 0 && (opts_has(o, "pool") || opts_has(o, "image"))) {
        return err_set(err, EINVAL,
                       "'pool', 'image' and 'filename' may not be used at the "
                       "same time");
    }
    return r;
}

/* --- the monitors --- */

/* Of a list, or of its flat form ("server.0.host"). *@ret: 1 when there was a
 * server number @i. */
static int rbd_take_server(struct opts *o, json_t *list, unsigned i, char **ret,
                           GError **err)
{
    g_autofree char *host = NULL, *port = NULL, *key = NULL;
    struct opts *sub = NULL;
    int r;

    if (list) {
        if (i >= json_array_size(list)) {
            return 0;
        }
        sub = opts_new(json_array_get(list, i));
        r = opts_take_str(sub, "host", &host, err);
        r = r < 0 ? r : opts_take_str(sub, "port", &port, err);
        r = r < 0 ? r : opts_finish(sub, err);
        opts_free(sub);
    } else {
        key = g_strdup_printf("server.%u.host", i);
        r = opts_take_str(o, key, &host, err);
        if (r == 0) {
            return 0;
        }
        g_free(key);
        key = g_strdup_printf("server.%u.port", i);
        r = r < 0 ? r : opts_take_str(o, key, &port, err);
    }
    if (r < 0) {
        return r;
    }
    if (!host || !port) {
        return opts_missing(host ? "port" : "host", err);
    }
    *ret = strchr(host, ':') ? g_strdup_printf("[%s]:%s", host, port)
                             : g_strdup_printf("%s:%s", host, port);
    return 1;
}

/* Becomes Ceph's option mon_host. */
static int take_servers(struct opts *o, struct rbd_name *n, GError **err)
{
    json_t *list = opts_take_any(o, "server");
    GString *hosts = g_string_new(NULL);
    int r = 1;

    if (list && !json_is_array(list)) {
        r = err_set(err, EINVAL,
                    "Invalid parameter type for 'server', expected: array");
    }
    for (unsigned i = 0; r > 0; i++) {
        g_autofree char *host = NULL;

        r = rbd_take_server(o, list, i, &host, err);
        if (r > 0) {
            g_string_append_printf(hosts, "%s%s", i > 0 ? ";" : "", host);
        }
    }
    if (r == 0 && hosts->len > 0) {
        if (!n->settings) {
            n->settings = g_ptr_array_new_with_free_func(g_free);
        }
        g_ptr_array_add(n->settings, g_strdup("mon_host"));
        g_ptr_array_add(n->settings, g_strdup(hosts->str));
    }
    g_string_free(hosts, TRUE);
    json_decref(list);
    return r;
}

/* --- who we are --- */

static int take_auth(struct opts *o, char **ret, GError **err)
{
    json_t *list = opts_take_any(o, "auth-client-required");
    GString *methods = g_string_new(NULL);
    size_t i;
    json_t *v;
    int r = 0;

    if (list && !json_is_array(list)) {
        r = err_set(err, EINVAL,
                    "Invalid parameter type for 'auth-client-required', "
                    "expected: array");
    }
    json_array_foreach(list, i, v) {
        const char *method = json_string_value(v);

        if (!method || (strcmp(method, "cephx") && strcmp(method, "none"))) {
            r = err_set(err, EINVAL,
                        "Parameter 'auth-client-required' does not accept "
                        "value '%s'",
                        method ? method : "?");
            break;
        }
        g_string_append_printf(methods, "%s%s", i > 0 ? ";" : "", method);
    }
    json_decref(list);
    *ret = g_string_free(methods, methods->len == 0);
    return r;
}

static int take_key(struct opts *o, struct graph *g, GBytes **ret, GError **err)
{
    g_autofree char *id = NULL;
    int r = opts_take_str(o, "key-secret", &id, err);

    return r <= 0 ? r : secret_get(g, id, ret, err);
}

/* --- how long to wait --- */

static int rbd_take_seconds(struct opts *o, const char *name, int64_t seconds,
                            int64_t min, uint64_t *ret, GError **err)
{
    int r = opts_take_int(o, name, &seconds, err);

    if (r >= 0 && (seconds < min || seconds > DELAY_MAX_S)) {
        r = err_set(err, EINVAL, "Parameter '%s' expects %d to %d seconds",
                    name, (int)min, DELAY_MAX_S);
    }
    *ret = (uint64_t)seconds;
    return MIN(r, 0);
}

static int rbd_take_hang(struct opts *o, struct rbd_options *ret, GError **err)
{
    static const char *const policies[] = { "wait", "error", NULL };
    int policy = 0;
    int r = opts_take_enum(o, "on-base-hang", policies, &policy, err);

    ret->fail_on_hang = policy == 1;
    if (r >= 0) {
        r = rbd_take_seconds(o, "hang-timeout", HANG_TIMEOUT_DEFAULT_S, 0,
                             &ret->hang_timeout_ns, err);
        ret->hang_timeout_ns *= NS_PER_S;
    }
    return MIN(r, 0);
}

int rbd_options_take(struct opts *o, struct graph *g, struct rbd_options *ret,
                     GError **err)
{
    struct rbd_target *t = &ret->target;
    int r;

    if (opts_has(o, "encrypt")) {
        err_set(err, ENOTSUP, "Encryption by librbd is not supported");
        err_hint(err, "Make a qcow2 image with encrypt.format=luks in it.");
        return -ENOTSUP;
    }
    if ((r = rbd_take_name(o, &t->name, err)) < 0 ||
        (r = take_servers(o, &t->name, err)) < 0 ||
        (r = take_auth(o, &t->auth, err)) < 0 ||
        (r = take_key(o, g, &t->key, err)) < 0 ||
        (r = rbd_take_hang(o, ret, err)) < 0) {
        return r;
    }
    return rbd_take_seconds(o, "open-timeout", OPEN_TIMEOUT_DEFAULT_S, 1,
                            &ret->open_timeout_s, err);
}
