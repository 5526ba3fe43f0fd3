/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small lexer in front of jansson: it knows where strings begin and end, and
 * how deep values are nested, and writes the same text with double quotes only.
 * It judges nothing else; what is no JSON stays none.
 */
#include "base/json-text.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"

/* --- quotes --- */

struct lexer {
    const char *at; /* what follows */
    char quote;     /* of the string that @at is in; 0: none */
    unsigned depth;
    GString *out;
};

/* A backslash and what it escapes. */
static void take_escape(struct lexer *l)
{
    if (l->at[1] == '\'') {
        g_string_append_c(l->out, '\'');
        l->at += 2;
    } else {
        g_string_append_c(l->out, *l->at++);
        if (*l->at) {
            g_string_append_c(l->out, *l->at++);
        }
    }
}

static void take_in_string(struct lexer *l)
{
    char c = *l->at;

    if (c == '\\') {
        take_escape(l);
        return;
    }
    if (c == l->quote) {
        l->quote = 0;
        c = '"';
    } else if (c == '"') {
        g_string_append_c(l->out, '\\');
    }
    g_string_append_c(l->out, c);
    l->at++;
}

static void take_outside(struct lexer *l)
{
    char c = *l->at++;

    if (c == '\'' || c == '"') {
        l->quote = c;
        c = '"';
    }
    l->depth += c == '{' || c == '[';
    l->depth -= l->depth && (c == '}' || c == ']');
    g_string_append_c(l->out, c);
}

/* The position in @text of byte @pos of what it was turned into. */
static size_t json_text_position(const char *text, size_t pos)
{
    g_autoptr(GString) out = g_string_new(NULL);
    struct lexer l = { .at = text, .out = out };

    while (*l.at && out->len < pos) {
        l.quote ? take_in_string(&l) : take_outside(&l);
    }
    return (size_t)(l.at - text);
}

int json_text_parse(const char *text, json_t **ret, GError **err)
{
    g_autoptr(GString) out = g_string_new(NULL);
    struct lexer l = { .at = text, .out = out };
    json_error_t je;
    json_t *v;

    while (*l.at) {
        l.quote ? take_in_string(&l) : take_outside(&l);
        if (l.depth > JSON_TEXT_DEPTH_MAX) {
            return err_set(err, EINVAL,
                           "JSON parse error, nested deeper than "
                           "%d at character %zu",
                           JSON_TEXT_DEPTH_MAX, (size_t)(l.at - text));
        }
    }
    v = json_loadb(out->str, out->len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY,
                   &je);
    if (!v) {
        return err_set(err, EINVAL, "JSON parse error, %s at character %zu",
                       je.text, json_text_position(text, (size_t)je.position));
    }
    *ret = v;
    return 0;
}

/* --- options --- */

/* @depth: of objects and lists around @value; dots count, too. */
static int expand(const json_t *value, unsigned depth, json_t **ret,
                  GError **err);

/* Put @value, which it takes over, at @path ("a.b") of @root. */
static int put_at(json_t *root, const char *path, json_t *value, GError **err)
{
    g_auto(GStrv) names = g_strsplit(path, ".", 0);
    json_t *at = root;
    unsigned i = 0;

    for (; names[0] && names[i + 1]; i++) {
        json_t *sub = json_object_get(at, names[i]);

        if (!sub) {
            sub = json_object();
            json_object_set_new(at, names[i], sub);
        }
        at = sub;
    }
    if (!json_is_object(at) || !names[0] || json_object_get(at, names[i])) {
        json_decref(value);
        return err_set(err, EINVAL, "Parameter '%s' is given twice", path);
    }
    json_object_set_new(at, names[i], value);
    return 0;
}

static unsigned count_dots(const char *key)
{
    unsigned n = 0;

    for (; *key; key++) {
        n += *key == '.';
    }
    return n;
}

static int expand_object(const json_t *value, unsigned depth, json_t **ret,
                         GError **err)
{
    json_t *o = json_object(), *sub, *done;
    const char *key;

    json_object_foreach((json_t *)value, key, sub) {
        if (expand(sub, depth + count_dots(key), &done, err) < 0 ||
            put_at(o, key, done, err) < 0) {
            json_decref(o);
            return -EINVAL;
        }
    }
    *ret = o;
    return 0;
}

static int expand_list(const json_t *value, unsigned depth, json_t **ret,
                       GError **err)
{
    json_t *list = json_array(), *sub, *done;
    size_t i;

    json_array_foreach(value, i, sub) {
        if (expand(sub, depth, &done, err) < 0) {
            json_decref(list);
            return -EINVAL;
        }
        json_array_append_new(list, done);
    }
    *ret = list;
    return 0;
}

static int expand(const json_t *value, unsigned depth, json_t **ret,
                  GError **err)
{
    g_autofree char *text = NULL;

    if (depth > JSON_TEXT_DEPTH_MAX) {
        return err_set(err, EINVAL, "nested deeper than %d",
                       JSON_TEXT_DEPTH_MAX);
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: return expand_object(value, depth + 1, ret, err);
    case JSON_ARRAY: return expand_list(value, depth + 1, ret, err);
    case JSON_TRUE:
    case JSON_FALSE:
        *ret = json_string(json_is_true(value) ? "on" : "off");
        return 0;
    case JSON_INTEGER:
    case JSON_REAL:
        text = json_dumps(value, JSON_ENCODE_ANY);
        *ret = json_string(text);
        return 0;
    default: *ret = json_incref((json_t *)value); return 0;
    }
}

int json_text_options(const char *text, json_t **ret, GError **err)
{
    json_t *value = NULL;
    int r = json_text_parse(text, &value, err);

    if (r == 0 && !json_is_object(value)) {
        r = err_set(err, EINVAL, "a JSON object is expected");
    }
    if (r == 0) {
        r = expand_object(value, 0, ret, err);
    }
    json_decref(value);
    if (r < 0) {
        err_prefix(err, "Could not parse the JSON options");
    }
    return r;
}
