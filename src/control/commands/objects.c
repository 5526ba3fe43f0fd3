/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The object types.  A throttle group lives in filter/, a secret in graph/; an
 * iothread is only accepted, so that command lines that name one work.
 */
#include "control/commands/objects.h"

#include <string.h>

#include "base/err.h"
#include "filter/throttle/throttle.h"
#include "graph/secret.h"

struct object_type {
    const char *name;
    /* @props without "id" and "qom-type"; NULL: nothing to do. */
    CO_FN_PTR int (*co_add)(struct graph *g, const char *id,
                            const json_t *props, GError **err);
    int (*del)(struct graph *g, const char *id, GError **err);
};

static const struct object_type object_types[] = {
    { "secret", secret_co_add, secret_del },
    { "throttle-group", throttle_group_add, throttle_group_del },
    { "iothread", NULL, NULL },
};

static const struct object_type *find_type(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(object_types); i++) {
        if (strcmp(object_types[i].name, name) == 0) {
            return &object_types[i];
        }
    }
    return NULL;
}

static bool id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
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
    const struct object_type *type = name ? find_type(name) : NULL;
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
    if (!id_wellformed(id)) {
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
    const struct object_type *t = find_type(type);

    return t && t->del ? t->del(g, id, err) : 0;
}
