/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checking values against the tables of the control API.
 *
 * The path to the place under test grows and shrinks in one GString while the
 * check descends, so that an error names it: "options[0].file.filename".
 */
#include "control/schema/schema.h"

#include <string.h>

#include "base/err.h"
#include "base/suggest.h"
#include "base/units.h"

const struct schema_command *schema_find_command(const char *name)
{
    for (const struct schema_command *c = schema_commands; c->name; c++) {
        if (g_str_equal(c->name, name)) {
            return c;
        }
    }
    return NULL;
}

const struct schema_event *schema_find_event(const char *name)
{
    for (const struct schema_event *e = schema_events; e->name; e++) {
        if (g_str_equal(e->name, name)) {
            return e;
        }
    }
    return NULL;
}

const struct schema_type *schema_find_type(const char *name)
{
    for (unsigned i = 0; schema_types[i]; i++) {
        if (g_str_equal(schema_types[i]->name, name)) {
            return schema_types[i];
        }
    }
    return NULL;
}

const struct schema_type *schema_find_variant(const struct schema_type *t,
                                              const char *value)
{
    for (const struct schema_variant *v = t->variants; v && v->value; v++) {
        if (g_str_equal(v->value, value)) {
            return v->type;
        }
    }
    return NULL;
}

static const struct schema_member *
find_member(const struct schema_member *members, const char *name)
{
    for (const struct schema_member *m = members; m && m->name; m++) {
        if (g_str_equal(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

/* What the tag of union @t says in @v: the members it adds, or NULL. */
static const struct schema_member *variant_members(const struct schema_type *t,
                                                   const json_t *v)
{
    const char *tag = t->tag ? json_string_value(json_object_get(v, t->tag))
                             : NULL;
    const struct schema_type *var = tag ? schema_find_variant(t, tag) : NULL;

    return var ? var->members : NULL;
}

static int check(const struct schema_type *t, const json_t *v, GString *path,
                 GError **err);

static int schema_bad_type(const GString *path, const char *expected,
                           GError **err)
{
    return err_set(err, EINVAL, "Invalid parameter type for '%s', expected: %s",
                   path->len ? path->str : "arguments", expected);
}

static void path_push(GString *path, const char *name)
{
    if (path->len) {
        g_string_append_c(path, '.');
    }
    g_string_append(path, name);
}

static int check_members(const struct schema_member *members, const json_t *v,
                         GString *path, GError **err)
{
    gsize len = path->len;

    for (const struct schema_member *m = members; m && m->name; m++) {
        const json_t *sub = json_object_get(v, m->name);
        int r = 0;

        path_push(path, m->name);
        if (sub) {
            r = check(m->type, sub, path, err);
        } else if (!m->optional) {
            r = err_set(err, EINVAL, "Parameter '%s' is missing", path->str);
        }
        if (r < 0) {
            return r;
        }
        g_string_truncate(path, len);
    }
    return 0;
}

/* Which member @key, that there is none of, was probably meant to be. */
static void hint_members(const char *key, const struct schema_member *members,
                         const struct schema_member *more, GError **err)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (; members && members->name; members++) {
        g_ptr_array_add(names, (char *)members->name);
    }
    for (; more && more->name; more++) {
        g_ptr_array_add(names, (char *)more->name);
    }
    g_ptr_array_add(names, NULL);
    suggest_hint(err, key, (const char *const *)names->pdata);
}

static int check_object(const struct schema_type *t, const json_t *v,
                        GString *path, GError **err)
{
    const struct schema_member *more;
    const char *key;
    json_t *sub;
    int r;

    if (!json_is_object(v)) {
        return schema_bad_type(path, "object", err);
    }
    r = check_members(t->members, v, path, err);
    if (r < 0) {
        return r;
    }
    more = variant_members(t, v);
    r = check_members(more, v, path, err);
    if (r < 0) {
        return r;
    }
    json_object_foreach((json_t *)v, key, sub) {
        if (!find_member(t->members, key) && !find_member(more, key)) {
            path_push(path, key);
            err_set(err, EINVAL, "Parameter '%s' is unexpected", path->str);
            hint_members(key, t->members, more, err);
            return -EINVAL;
        }
    }
    return 0;
}

static int check_array(const struct schema_type *t, const json_t *v,
                       GString *path, GError **err)
{
    gsize len = path->len;

    if (!json_is_array(v)) {
        return schema_bad_type(path, "array", err);
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        int r;

        g_string_append_printf(path, "[%zu]", i);
        r = check(t->element, json_array_get(v, i), path, err);
        if (r < 0) {
            return r;
        }
        g_string_truncate(path, len);
    }
    return 0;
}

static int check_enum(const struct schema_type *t, const json_t *v,
                      GString *path, GError **err)
{
    const char *text = json_string_value(v);

    if (!text) {
        return schema_bad_type(path, "string", err);
    }
    if (!g_strv_contains(t->values, text)) {
        const char *dot = strrchr(path->str, '.');

        /* Without the path, as QEMU has it. */
        err_set(err, EINVAL, "Parameter '%s' does not accept value '%s'",
                dot ? dot + 1 : path->str, text);
        suggest_hint(err, text, t->values);
        return -EINVAL;
    }
    return 0;
}

static int check_int(const struct schema_type *t, const json_t *v,
                     GString *path, GError **err)
{
    int64_t i = json_integer_value(v);

    if (!json_is_integer(v)) {
        return schema_bad_type(path, "integer", err);
    }
    if (i < t->min && t->min == 0) {
        return err_set(err, EINVAL,
                       "Parameter '%s' expects a non-negative value",
                       path->str);
    }
    if (i < t->min || i > t->max) {
        return err_set(err, EINVAL, "Parameter '%s' expects %s", path->str,
                       t->name);
    }
    return 0;
}

/* Each JSON type belongs to at most one branch. */
static const struct schema_type *find_branch(const struct schema_type *t,
                                             const json_t *v)
{
    for (const struct schema_member *m = t->members; m->name; m++) {
        if ((json_is_string(v) && m->type->kind == SCHEMA_STR) ||
            (json_is_null(v) && m->type->kind == SCHEMA_NULL) ||
            (json_is_object(v) && m->type->kind == SCHEMA_OBJECT)) {
            return m->type;
        }
    }
    return NULL;
}

static int check(const struct schema_type *t, const json_t *v, GString *path,
                 GError **err)
{
    const struct schema_type *branch;

    switch (t->kind) {
    case SCHEMA_STR:
        return json_is_string(v) ? 0 : schema_bad_type(path, "string", err);
    case SCHEMA_INT: return check_int(t, v, path, err);
    case SCHEMA_NUMBER:
        return json_is_number(v) ? 0 : schema_bad_type(path, "number", err);
    case SCHEMA_BOOL:
        return json_is_boolean(v) ? 0 : schema_bad_type(path, "boolean", err);
    case SCHEMA_NULL:
        return json_is_null(v) ? 0 : schema_bad_type(path, "null", err);
    case SCHEMA_ANY: return 0;
    case SCHEMA_ENUM: return check_enum(t, v, path, err);
    case SCHEMA_ARRAY: return check_array(t, v, path, err);
    case SCHEMA_OBJECT: return check_object(t, v, path, err);
    case SCHEMA_ALTERNATE:
        branch = find_branch(t, v);
        return branch ? check(branch, v, path, err)
                      : schema_bad_type(path, t->name, err);
    }
    g_assert_not_reached();
}

int schema_check(const struct schema_type *t, const json_t *v, GError **err)
{
    g_autoptr(GString) path = g_string_new("");
    json_t *empty = v ? NULL : json_object();
    int r = check(t, v ? v : empty, path, err);

    json_decref(empty);
    return r;
}

/* --- from strings --- */

static json_t *convert_int(const char *text)
{
    char *end;
    gint64 i;
    uint64_t size;

    errno = 0;
    i = g_ascii_strtoll(text, &end, 10);
    if (*text && !*end && errno == 0) {
        return json_integer(i);
    }
    if (size_parse(text, 0, &size, NULL) == 0 && size <= INT64_MAX) {
        return json_integer((json_int_t)size);
    }
    return json_string(text);
}

static json_t *convert_bool(const char *text)
{
    if (g_str_equal(text, "on") || g_str_equal(text, "true") ||
        g_str_equal(text, "yes") || g_str_equal(text, "y")) {
        return json_true();
    }
    if (g_str_equal(text, "off") || g_str_equal(text, "false") ||
        g_str_equal(text, "no") || g_str_equal(text, "n")) {
        return json_false();
    }
    return json_string(text);
}

static json_t *convert_object(const struct schema_type *t, const json_t *v)
{
    const struct schema_member *more = variant_members(t, v);
    json_t *res = json_object();
    const char *key;
    json_t *sub;

    json_object_foreach((json_t *)v, key, sub) {
        const struct schema_member *m = find_member(t->members, key);

        m = m ? m : find_member(more, key);
        json_object_set_new(
            res, key, m ? schema_convert(m->type, sub) : json_incref(sub));
    }
    return res;
}

static json_t *convert_array(const struct schema_type *t, const json_t *v)
{
    json_t *res = json_array();

    for (size_t i = 0; i < json_array_size(v); i++) {
        json_array_append_new(res,
                              schema_convert(t->element, json_array_get(v, i)));
    }
    return res;
}

json_t *schema_convert(const struct schema_type *t, const json_t *v)
{
    const struct schema_type *branch;

    if (json_is_string(v) && t->kind == SCHEMA_INT) {
        return convert_int(json_string_value(v));
    }
    if (json_is_string(v) && t->kind == SCHEMA_BOOL) {
        return convert_bool(json_string_value(v));
    }
    if (json_is_object(v) && t->kind == SCHEMA_OBJECT) {
        return convert_object(t, v);
    }
    if (json_is_array(v) && t->kind == SCHEMA_ARRAY) {
        return convert_array(t, v);
    }
    if (t->kind == SCHEMA_ALTERNATE) {
        branch = find_branch(t, v);
        if (branch) {
            return schema_convert(branch, v);
        }
    }
    return json_incref((json_t *)v);
}
