/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON with single quotes, and the options of "json:" names.  Oracles: strict
 * JSON means the same as ever; what is taken survives being written and read
 * again; a string in single quotes is the string that was quoted; options hold
 * no scalar but strings and null.
 */
#include <string.h>
#include "base/err.h"
#include "base/json-text.h"
#include "fuzz.h"

static void check_options(const json_t *v)
{
    const char *key;
    json_t *sub;
    size_t i;

    g_assert_false(json_is_number(v) || json_is_boolean(v));
    if (json_is_object(v)) {
        json_object_foreach((json_t *)v, key, sub) {
            g_assert_null(strchr(key, '.'));
            check_options(sub);
        }
    }
    json_array_foreach(v, i, sub) {
        check_options(sub);
    }
}

static void try_text(const char *text)
{
    g_autoptr(GError) err = NULL;
    json_t *strict = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY,
                                NULL);
    json_t *got = NULL, *again = NULL;
    int ret = json_text_parse(text, &got, &err);

    g_assert_true((ret < 0) == (err != NULL));
    if (ret == 0) {
        g_autofree char *out = json_dumps(got, JSON_ENCODE_ANY);

        g_assert_true(!strict || json_equal(strict, got));
        g_assert_cmpint(json_text_parse(out, &again, NULL), ==, 0);
        g_assert_true(json_equal(got, again));
    } else {
        g_assert_true(!strict || strstr(err->message, "nested"));
    }
    json_decref(strict);
    json_decref(got);
    json_decref(again);
}

static void try_options(const char *text)
{
    g_autoptr(GError) err = NULL;
    json_t *got = NULL;
    int ret = json_text_options(text, &got, &err);

    g_assert_true((ret < 0) == (err != NULL));
    if (ret == 0) {
        check_options(got);
        json_decref(got);
    }
}

/* Put @text into single quotes and take it out again. */
static void try_quoted(const char *text)
{
    g_autoptr(GString) quoted = g_string_new("'");
    json_t *got = NULL;

    for (const char *p = text; *p; p++) {
        if (*p == '\\' || *p == '\'') {
            g_string_append_c(quoted, '\\');
        }
        g_string_append_c(quoted, *p);
    }
    g_string_append_c(quoted, '\'');
    if (json_text_parse(quoted->str, &got, NULL) == 0) {
        g_assert_cmpstr(json_string_value(got), ==, text);
        json_decref(got);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    g_autofree char *text = g_strndup((const char *)data, len);

    try_text(text);
    try_options(text);
    try_quoted(text);
    return 0;
}
