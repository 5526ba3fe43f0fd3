/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/rbd-name.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"

#define PREFIX "rbd:"
/* Where a configuration file may lie that a header names: who writes there may
 * configure Ceph for all programs. */
#define CONF_FOLDER "/etc/ceph/"

void rbd_name_clear(struct rbd_name *n)
{
    g_free(n->pool);
    g_free(n->image);
    g_free(n->name_space);
    g_free(n->snapshot);
    g_free(n->user);
    g_free(n->conf);
    g_clear_pointer(&n->settings, g_ptr_array_unref);
    *n = (struct rbd_name) { 0 };
}

/* The text up to @end, or to the end of all; *@at is moved behind it. NULL in
 * *@at: there was no @end. The result is owned, its escapes are taken away. */
static char *take_token(const char **at, char end)
{
    GString *token = g_string_new(NULL);
    const char *p = *at;

    while (*p && *p != end) {
        p += *p == '\\' && p[1] ? 1 : 0;
        g_string_append_c(token, *p++);
    }
    *at = *p ? p + 1 : NULL;
    return g_string_free(token, FALSE);
}

/* Is there an @c before the next @end, but for escaped ones? */
static bool has_before(const char *at, char c, char end)
{
    for (; *at && *at != end; at++) {
        if (*at == c) {
            return true;
        }
        at += *at == '\\' && at[1] ? 1 : 0;
    }
    return false;
}

static int parse_setting(struct rbd_name *n, const char **at, GError **err)
{
    g_autofree char *key = NULL, *value = NULL;

    if (!has_before(*at, '=', ':')) {
        g_autofree char *bad = take_token(at, ':');

        return err_set(err, EINVAL, "conf option %s has no value", bad);
    }
    key = take_token(at, '=');
    value = take_token(at, ':');
    if (!strcmp(key, "id") || !strcmp(key, "conf")) {
        char **ret = key[0] == 'i' ? &n->user : &n->conf;

        g_free(*ret);
        *ret = g_steal_pointer(&value);
        return 0;
    }
    if (!*key) {
        return err_set(err, EINVAL, "A conf option has no name");
    }
    if (!strcmp(key, "key")) {
        err_set(err, EINVAL, "A key may not stand in the name of an image");
        err_hint(err, "Everybody would see it: make it a secret object, and "
                      "name that with key-secret.");
        return -EINVAL;
    }
    if (!n->settings) {
        n->settings = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(n->settings, g_steal_pointer(&key));
    g_ptr_array_add(n->settings, g_steal_pointer(&value));
    return 0;
}

static void parse_image(struct rbd_name *n, const char **at)
{
    char end = has_before(*at, '@', ':') ? '@' : ':';

    if (has_before(*at, '/', end)) {
        n->name_space = take_token(at, '/');
    }
    n->image = take_token(at, end);
    if (end == '@') {
        n->snapshot = take_token(at, ':');
    }
}

static int parse(const char *name, struct rbd_name *n, GError **err)
{
    const char *at = name + strlen(PREFIX);
    int r = 0;

    if (!g_str_has_prefix(name, PREFIX)) {
        return err_set(err, EINVAL, "File name must start with 'rbd:'");
    }
    n->pool = take_token(&at, '/');
    if (!at || !*n->pool) {
        return err_set(err, EINVAL, "Pool name is required");
    }
    parse_image(n, &at);
    if (!*n->image) {
        return err_set(err, EINVAL, "Image name is required");
    }
    if (n->name_space && !*n->name_space) {
        g_clear_pointer(&n->name_space, g_free);
    }
    while (r == 0 && at && *at) {
        r = parse_setting(n, &at, err);
    }
    return r;
}

int rbd_name_parse(const char *name, struct rbd_name *ret, GError **err)
{
    struct rbd_name n = {};
    int r = parse(name, &n, err);

    if (r < 0) {
        rbd_name_clear(&n);
        return r;
    }
    *ret = n;
    return 0;
}

static void append_escaped(GString *s, const char *text)
{
    for (; *text; text++) {
        if (strchr("/@:=\\", *text)) {
            g_string_append_c(s, '\\');
        }
        g_string_append_c(s, *text);
    }
}

static void append_part(GString *s, const char *before, const char *text)
{
    if (text) {
        g_string_append(s, before);
        append_escaped(s, text);
    }
}

char *rbd_name_format(const struct rbd_name *n)
{
    GString *s = g_string_new(PREFIX);

    append_escaped(s, n->pool);
    append_part(s, "/", n->name_space);
    append_part(s, "/", n->image);
    append_part(s, "@", n->snapshot);
    append_part(s, ":id=", n->user);
    append_part(s, ":conf=", n->conf);
    for (unsigned i = 0; n->settings && i + 1 < n->settings->len; i += 2) {
        append_part(s, ":", g_ptr_array_index(n->settings, i));
        append_part(s, "=", g_ptr_array_index(n->settings, i + 1));
    }
    return g_string_free(s, FALSE);
}

static int check_header(const struct rbd_name *n, GError **err)
{
    g_autofree char *conf = n->conf ? g_canonicalize_filename(n->conf, "/")
                                    : NULL;

    if (conf && !g_str_has_prefix(conf, CONF_FOLDER)) {
        return err_set(err, EINVAL,
                       "an image's header may name a configuration file of "
                       "Ceph beneath " CONF_FOLDER " only");
    }
    for (unsigned i = 0; n->settings && i + 1 < n->settings->len; i += 2) {
        const char *key = g_ptr_array_index(n->settings, i);

        if (strcmp(key, "mon_host")) {
            return err_set(err, EINVAL,
                           "an image's header may not set the option '%s' of "
                           "Ceph",
                           key);
        }
    }
    return 0;
}

int rbd_name_check_header(const char *name, GError **err)
{
    struct rbd_name n = {};
    int r = rbd_name_parse(name, &n, err);

    if (r == 0) {
        r = check_header(&n, err);
    }
    rbd_name_clear(&n);
    return r;
}
