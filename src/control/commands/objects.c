/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The object types.  A throttle group lives in filter/, a secret in graph/,
 * what TLS needs in tls/, an iothread in control/iothread.h: to a graph it is nothing.
 */
#include "control/commands/objects.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/text.h"
#include "control/control-int.h"
#include "control/iothread.h"
#include "filter/throttle/throttle.h"
#include "graph/secret.h"
#include "loop/loop.h"
#include "tls/authz.h"
#include "tls/tls-creds.h"

struct object_type {
    const char *name;
    /* @props without "id" and "qom-type"; NULL: nothing to do. */
    CO_FN_PTR int (*co_add)(struct graph *g, const char *id,
                            const json_t *props, GError **err);
    int (*del)(struct graph *g, const char *id, GError **err);
};

static const struct object_type object_types[] = {
    { "authz-list", authz_co_add_list, authz_del },
    { "authz-list-file", authz_co_add_list_file, authz_del },
    { "authz-simple", authz_co_add_simple, authz_del },
    { "iothread", NULL, NULL },
    { "secret", secret_co_add, secret_del },
    { "throttle-group", throttle_group_add, throttle_group_del },
    { "tls-creds-anon", tls_creds_co_add_anon, tls_creds_del },
    { "tls-creds-psk", tls_creds_co_add_psk, tls_creds_del },
    { "tls-creds-x509", tls_creds_co_add_x509, tls_creds_del },
};

static const struct object_type *object_type_find(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(object_types); i++) {
        if (strcmp(object_types[i].name, name) == 0) {
            return &object_types[i];
        }
    }
    return NULL;
}

#define SECRET_KEY "data"

char *object_show_text(const char *text)
{
    const char *data = strstr(text, SECRET_KEY);

    return data ? g_strdup_printf("%.*s" SECRET_KEY "...", (int)(data - text),
                                  text)
                : g_strdup(text);
}

/* Is any part of @message between quotes also a part of @secret? */
static bool quotes_part_of(const char *message, const char *secret)
{
    g_auto(GStrv) parts = g_strsplit_set(message, "'\"", -1);

    for (unsigned i = 0; parts[i]; i++) {
        if (*parts[i] && strstr(secret, parts[i])) {
            return true;
        }
    }
    return false;
}

void object_hide_text(const char *text, GError **err)
{
    const char *data = strstr(text, SECRET_KEY);

    if (!data || !err || !*err ||
        !quotes_part_of((*err)->message, data + strlen(SECRET_KEY))) {
        return;
    }
    g_clear_error(err);
    err_set(err, EINVAL,
            "The definition of the object is wrong; it is not shown, as it "
            "holds a secret");
    err_hint(err, "A comma in data= is written as two, or use file=PATH.");
}

int object_co_add(struct graph *g, const json_t *props, GError **err)
{
    const char *id = json_string_value(json_object_get(props, "id"));
    const char *name = json_string_value(json_object_get(props, "qom-type"));
    const struct object_type *type = name ? object_type_find(name) : NULL;
    int r = 0;

    if (!name) {
        return err_set(err, EINVAL, "Parameter 'qom-type' is missing");
    }
    if (!type) {
        return err_set(err, EINVAL,
                       "Parameter 'qom-type' does not accept "
                       "value '%s'",
                       name);
    }
    if (!id) {
        return err_set(err, EINVAL, "Parameter 'id' is missing");
    }
    if (!text_is_id(id)) {
        return err_set(err, EINVAL, "Parameter 'id' expects an identifier");
    }
    if (type->co_add) {
        json_t *rest = json_copy((json_t *)props);

        json_object_del(rest, "id");
        json_object_del(rest, "qom-type");
        r = type->co_add(g, id, rest, err);
        json_decref(rest);
    }
    return r;
}

int object_del(struct graph *g, const char *type, const char *id, GError **err)
{
    const struct object_type *t = object_type_find(type);

    return t && t->del ? t->del(g, id, err) : 0;
}

/* --- what is known of them: objects, by id, as they were defined --- */

void object_remember(json_t *objects, const json_t *props)
{
    json_t *kept = json_deep_copy(props);

    json_object_del(kept, SECRET_KEY);
    json_object_del(kept, "id");
    json_object_set_new(objects,
                        json_string_value(json_object_get(props, "id")), kept);
}

void object_reserve(json_t *objects, const char *id)
{
    json_object_set_new(objects, id, json_null());
}

const char *object_type(const json_t *objects, const char *id)
{
    return json_string_value(
        json_object_get(json_object_get(objects, id), "qom-type"));
}

const struct schema_member *object_members(const char *type)
{
    const struct schema_type *t = schema_find_variant(
        schema_find_type("ObjectOptions"), type);

    return t ? t->members : NULL;
}

const char *const *object_types_list(void)
{
    static const char *names[G_N_ELEMENTS(object_types) + 1];

    for (unsigned i = 0; i < G_N_ELEMENTS(object_types); i++) {
        names[i] = object_types[i].name;
    }
    return names;
}

/* --- properties --- */

/* "x-bps-read" and "limits" of a group. */
static json_t *group_get(struct graph *g, const char *id, const char *name)
{
    json_t *limits = throttle_group_get(g, id), *one;

    if (!limits || g_str_equal(name, "limits")) {
        return limits;
    }
    one = json_incref(json_object_get(limits, name + strlen("x-")));
    json_decref(limits);
    return one;
}

/* What a property is that nobody has set, as far as that is the same for all of
 * its kind. Owned, or NULL. */
static json_t *default_of(const char *type, const char *name)
{
    const struct schema_member *m = object_members(type);

    while (m && m->name && !g_str_equal(m->name, name)) {
        m++;
    }
    if (g_str_equal(type, "secret") && g_str_equal(name, "format")) {
        return json_string("raw");
    }
    if (g_str_equal(name, "poll-max-ns")) {
        return json_integer(LOOP_POLL_MAX_NS);
    }
    return !m || !m->name                  ? NULL
           : m->type->kind == SCHEMA_INT   ? json_integer(0)
           : m->type->kind == SCHEMA_ARRAY ? json_array()
                                           : NULL;
}

json_t *object_get(struct graph *g, const json_t *objects, const char *id,
                   const char *name)
{
    const char *type = object_type(objects, id);
    json_t *given = json_object_get(json_object_get(objects, id), name);

    if (g_str_equal(type, "throttle-group")) {
        return group_get(g, id, name);
    }
    return given ? json_incref(given) : default_of(type, name);
}

int object_set(struct graph *g, json_t *objects, const char *id,
               const char *name, const json_t *value, GError **err)
{
    const char *type = object_type(objects, id);

    if (g_str_equal(type, "throttle-group")) {
        if (!g_str_equal(name, "limits")) {
            return err_set(err, EINVAL,
                           "Property cannot be set after initialization");
        }
        int r = schema_check(schema_find_type("ThrottleLimits"), value, err);

        return r < 0 ? r : throttle_group_set(g, id, value, err);
    }
    if (!g_str_equal(type, "iothread")) {
        return err_set(err, EACCES, "Property '%s.%s' is not writable", type,
                       name);
    }
    int r = iothread_check_number(name, value, err);

    if (r == 0) {
        json_object_set(json_object_get(objects, id), name, (json_t *)value);
    }
    return r;
}

/* --- help --- */

static void print_types(void)
{
    printf("List of user creatable objects:\n");
    for (unsigned i = 0; i < G_N_ELEMENTS(object_types); i++) {
        printf("  %s\n", object_types[i].name);
    }
}

bool object_print_help(const char *text)
{
    const char *comma = strchr(text, ',');
    g_autofree char *type = g_strndup(text, comma ? (gsize)(comma - text)
                                                  : strlen(text));
    const struct schema_member *m;

    if (g_str_equal(text, "help") || g_str_equal(text, "?")) {
        print_types();
        return true;
    }
    if (!comma ||
        (!g_str_equal(comma + 1, "help") && !g_str_equal(comma + 1, "?"))) {
        return false;
    }
    if (g_str_has_prefix(type, "qom-type=")) {
        memmove(type, type + strlen("qom-type="),
                strlen(type) - strlen("qom-type=") + 1);
    }
    m = object_members(type);
    if (!m) {
        return false; /* the definition is refused with its reason */
    }
    printf("%s options:\n", type);
    for (; m->name; m++) {
        printf("  %s=<%s>\n", m->name,
               m->type->kind == SCHEMA_STR ? "string" : m->type->name);
    }
    return true;
}
