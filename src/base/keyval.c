/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Option strings to JSON.  While parsing everything is an object; objects
 * whose keys are all numbers become lists at the end.
 */
#include "base/keyval.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "base/json-text.h"

enum { DEPTH_MAX = 32 };

/* Take one element off *@text: up to a single comma, ",," read as one. */
static char *take_element(const char **text)
{
    g_autoptr(GString) out = g_string_new("");
    const char *p = *text;

    while (*p) {
        if (*p == ',' && p[1] != ',') {
            p++;
            break;
        }
        p += *p == ',';
        g_string_append_c(out, *p++);
    }
    *text = p;
    return g_strdup(out->str);
}

static bool name_valid(const char *name)
{
    if (g_ascii_isdigit(*name)) {
        return strlen(name) <= 6 && strspn(name, "0123456789") == strlen(name);
    }
    if (!g_ascii_isalpha(*name)) {
        return false;
    }
    for (; *name; name++) {
        if (!g_ascii_isalnum(*name) && *name != '-' && *name != '_') {
            return false;
        }
    }
    return true;
}

/* Put @value at path @key below @root, making objects on the way. */
static int insert(json_t *root, const char *key, const char *value,
                  GError **err)
{
    g_auto(GStrv) names = g_strsplit(key, ".", 0);
    unsigned n = g_strv_length(names);
    json_t *at = root;

    if (n > DEPTH_MAX) {
        return err_set(err, EINVAL, "Parameter '%s' is nested too deep", key);
    }
    for (unsigned i = 0; i < n; i++) {
        json_t *sub;

        if (!name_valid(names[i])) {
            return err_set(err, EINVAL, "Invalid parameter '%s'", key);
        }
        if (i == n - 1) {
            break;
        }
        sub = json_object_get(at, names[i]);
        if (sub && !json_is_object(sub)) {
            return err_set(err, EINVAL, "Parameters '%s.*' used inconsistently",
                           names[i]);
        }
        if (!sub) {
            sub = json_object();
            json_object_set_new(at, names[i], sub);
        }
        at = sub;
    }
    if (n == 0) {
        return err_set(err, EINVAL, "Invalid parameter ''");
    }
    if (json_is_object(json_object_get(at, names[n - 1]))) {
        return err_set(err, EINVAL, "Parameters '%s.*' used inconsistently",
                       key);
    }
    if (json_object_set_new(at, names[n - 1], json_string(value)) < 0) {
        return err_set(err, EINVAL, "Parameter '%s' is not UTF-8", key);
    }
    return 0;
}

/* Objects whose keys are 0 .. n-1 become lists, from the leaves up. */
static int lists(json_t *obj, const char *where, json_t **ret, GError **err)
{
    size_t numbers = 0, n = json_object_size(obj);
    json_t *res, *sub, *done;
    const char *key;

    res = json_object();
    json_object_foreach(obj, key, sub) {
        if (json_is_object(sub)) {
            if (lists(sub, key, &done, err) < 0) {
                json_decref(res);
                return -EINVAL;
            }
            json_object_set_new(res, key, done);
        } else {
            json_object_set(res, key, sub);
        }
        numbers += g_ascii_isdigit(*key);
    }
    if (numbers == 0) {
        *ret = res;
        return 0;
    }
    *ret = json_array();
    for (size_t i = 0; i < n && *ret; i++) {
        char idx[24];

        g_snprintf(idx, sizeof(idx), "%zu", i);
        sub = json_object_get(res, idx);
        if (!sub) {
            json_decref(*ret);
            *ret = NULL;
            err_set(err, EINVAL, "Parameter '%s.%zu' is missing", where, i);
            break;
        }
        json_array_append(*ret, sub);
    }
    json_decref(res);
    return *ret ? 0 : -EINVAL;
}

static int keyval_parse_pairs(const char *text, const char *implied_key,
                              const char *alias, const char *name, json_t *root,
                              GError **err)
{
    bool first = true;

    while (*text) {
        g_autofree char *element = take_element(&text);
        char *eq = strchr(element, '=');
        const char *key = eq ? element : first ? implied_key : NULL;
        int r;

        if (eq) {
            *eq = 0;
        }
        if (key) {
            r = insert(root, g_strcmp0(key, alias) == 0 ? name : key,
                       eq ? eq + 1 : element, err);
        } else {
            r = err_set(err, EINVAL, "Expected '=' after parameter '%s'",
                        element);
        }
        if (r < 0) {
            return r;
        }
        first = false;
    }
    return 0;
}

int keyval_parse(const char *text, const char *implied_key, json_t **ret,
                 GError **err)
{
    return keyval_parse_alias(text, implied_key, NULL, NULL, ret, err);
}

int keyval_parse_alias(const char *text, const char *implied_key,
                       const char *alias, const char *key, json_t **ret,
                       GError **err)
{
    json_t *root;
    int r;

    if (*text == '{') {
        return json_text_parse(text, ret, err); /* an object, then */
    }
    root = json_object();
    r = keyval_parse_pairs(text, implied_key, alias, key, root, err);
    if (r == 0) {
        r = lists(root, "", ret, err);
    }
    if (r == 0 && !json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        r = err_set(err, EINVAL, "Invalid parameter '0'");
    }
    json_decref(root);
    return r;
}
