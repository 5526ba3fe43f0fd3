/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/options.h"

#include <string.h>

#include "base/err.h"
#include "base/suggest.h"
#include "base/units.h"

struct opts {
    json_t *obj; /* what is left; a copy of the object, sharing its values */
};

struct opts *opts_new(const json_t *obj)
{
    struct opts *o = g_new0(struct opts, 1);

    o->obj = obj ? json_copy((json_t *)obj) : json_object();
    return o;
}

void opts_free(struct opts *o)
{
    if (o) {
        json_decref(o->obj);
        g_free(o);
    }
}

void opts_freep(struct opts **o)
{
    opts_free(*o);
}

bool opts_has(const struct opts *o, const char *name)
{
    return json_object_get(o->obj, name) != NULL;
}

static int options_bad_type(const char *name, const char *type, GError **err)
{
    return err_set(err, EINVAL, "Invalid parameter type for '%s', expected: %s",
                   name, type);
}

json_t *opts_take_any(struct opts *o, const char *name)
{
    json_t *v = json_incref(json_object_get(o->obj, name));

    if (v) {
        json_object_del(o->obj, name);
    }
    return v;
}

json_t *opts_take_rest(struct opts *o)
{
    json_t *rest = o->obj;

    o->obj = json_object();
    return rest;
}

int opts_take_str(struct opts *o, const char *name, char **ret, GError **err)
{
    json_t *v = opts_take_any(o, name);
    int r = 1;

    if (!v) {
        return 0;
    }
    if (json_is_string(v)) {
        *ret = g_strdup(json_string_value(v));
    } else {
        r = options_bad_type(name, "string", err);
    }
    json_decref(v);
    return r;
}

static int parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = { "on", "yes", "true", "y" };
    static const char *const no[] = { "off", "no", "false", "n" };

    for (unsigned i = 0; i < G_N_ELEMENTS(yes); i++) {
        if (g_str_equal(text, yes[i])) {
            *ret = true;
            return 1;
        }
        if (g_str_equal(text, no[i])) {
            *ret = false;
            return 1;
        }
    }
    return -EINVAL;
}

int opts_take_bool(struct opts *o, const char *name, bool *ret, GError **err)
{
    json_t *v = opts_take_any(o, name);
    int r = 1;

    if (!v) {
        return 0;
    }
    if (json_is_boolean(v)) {
        *ret = json_is_true(v);
    } else if (!json_is_string(v)) {
        r = options_bad_type(name, "boolean", err);
    } else if (parse_bool(json_string_value(v), ret) < 0) {
        r = err_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'", name);
    }
    json_decref(v);
    return r;
}

int opts_take_size(struct opts *o, const char *name, uint64_t *ret,
                   GError **err)
{
    json_t *v = opts_take_any(o, name);
    int r = 1;

    if (!v) {
        return 0;
    }
    if (json_is_integer(v) && json_integer_value(v) >= 0) {
        *ret = (uint64_t)json_integer_value(v);
    } else if (json_is_integer(v)) {
        r = err_set(err, EINVAL, "Parameter '%s' expects a non-negative value",
                    name);
    } else if (!json_is_string(v)) {
        r = options_bad_type(name, "integer", err);
    } else {
        r = size_parse(json_string_value(v), 0, ret, err);
        if (r < 0) {
            err_prefix(err, "Parameter '%s'", name);
        } else {
            r = 1;
        }
    }
    json_decref(v);
    return r;
}

int opts_take_int(struct opts *o, const char *name, int64_t *ret, GError **err)
{
    json_t *v = opts_take_any(o, name);
    int r = 1;

    if (!v) {
        return 0;
    }
    if (json_is_integer(v)) {
        *ret = json_integer_value(v);
    } else if (json_is_string(v)) {
        const char *text = json_string_value(v);
        char *end;
        errno = 0;
        *ret = g_ascii_strtoll(text, &end, 0);
        if (errno || end == text || *end) {
            r = options_bad_type(name, "integer", err);
        }
    } else {
        r = options_bad_type(name, "integer", err);
    }
    json_decref(v);
    return r;
}

int opts_take_enum(struct opts *o, const char *name, const char *const *names,
                   int *ret, GError **err)
{
    g_autofree char *text = NULL;
    int r = opts_take_str(o, name, &text, err);

    if (r <= 0) {
        return r;
    }
    for (int i = 0; names[i]; i++) {
        if (g_str_equal(names[i], text)) {
            *ret = i;
            return 1;
        }
    }
    err_set(err, EINVAL, "Parameter '%s' does not accept value '%s'", name,
            text);
    suggest_hint(err, text, names);
    return -EINVAL;
}

int opts_finish(struct opts *o, GError **err)
{
    void *it = json_object_iter(o->obj);

    if (!it) {
        return 0;
    }
    return err_set(err, EINVAL, "Parameter '%s' is unexpected",
                   json_object_iter_key(it));
}
