/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON with single quotes, and the options of "json:" names. */
#include "base/err.h"
#include "base/json-text.h"

/* @want NULL: refused; else what it means, in strict JSON; "!TEXT": what the
 * error says. */
struct row {
    const char *text, *want;
};

static void check(int (*parse)(const char *, json_t **, GError **),
                  const struct row *r)
{
    g_autoptr(GError) err = NULL;
    json_t *got = NULL, *want;
    int ret = parse(r->text, &got, &err);

    if (*r->want == '!') {
        g_assert_cmpint(ret, ==, -EINVAL);
        g_assert_cmpstr(err->message, ==, r->want + 1);
        return;
    }
    g_assert_no_error(err);
    want = json_loads(r->want, JSON_DECODE_ANY, NULL);
    g_assert_nonnull(want);
    if (!json_equal(got, want)) {
        g_error("%s is not %s", r->text, r->want);
    }
    json_decref(got);
    json_decref(want);
}

static void test_quotes(void)
{
    static const struct row rows[] = {
        { "{}", "{}" },
        { "{'a': 1, \"b\": 'c'}", "{\"a\": 1, \"b\": \"c\"}" },
        { "{'a': 'say \"no\"'}", "{\"a\": \"say \\\"no\\\"\"}" },
        { "{'a': 'it\\'s'}", "{\"a\": \"it's\"}" },
        { "{\"a\": \"it's, it\\'s\"}", "{\"a\": \"it's, it's\"}" },
        { "{'a': 'x\\\\', 'b': '\\u0041\\\"'}",
          "{\"a\": \"x\\\\\", \"b\": \"A\\\"\"}" },
        { "{'a': '{[}'}", "{\"a\": \"{[}\"}" },
        { "'text'", "\"text\"" },
        { "{'a': 1, 'a': 2}", "!JSON parse error, duplicate object key near "
                              "'\"a\"' at character 12" },
        { "{'a': 'b\"}", "!JSON parse error, premature end of input near "
                         "'\"b\\\"}' at character 10" },
        { "{'a\"b': zork}", "!JSON parse error, invalid token near 'zork' at "
                            "character 12" },
        { "{'a': 'b\\", "!JSON parse error, invalid escape near '\"b\\' at "
                        "character 9" },
        { "{'a': '\\x'}", "!JSON parse error, invalid escape near '\"\\x' at "
                          "character 9" },
        { "", "!JSON parse error, unexpected token near end of file at "
              "character 0" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        check(json_text_parse, &rows[i]);
    }
}

static char *nested(const char *open, const char *close, unsigned depth)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < depth; i++) {
        g_string_append(s, open);
    }
    g_string_append(s, "1");
    for (unsigned i = 0; i < depth; i++) {
        g_string_append(s, close);
    }
    return g_string_free(s, FALSE);
}

static void test_depth(void)
{
    g_autofree char *fits = nested("[", "]", JSON_TEXT_DEPTH_MAX);
    g_autofree char *deep = nested("[", "]", JSON_TEXT_DEPTH_MAX + 1);
    g_autofree char *dots = nested("{'a.b.c.d.e.f.g.h':", "}", 9);
    g_autoptr(GError) err = NULL;
    json_t *v = NULL;

    g_assert_cmpint(json_text_parse(fits, &v, &err), ==, 0);
    json_decref(v);
    g_assert_cmpint(json_text_parse(deep, &v, &err), ==, -EINVAL);
    g_clear_error(&err);
    g_assert_cmpint(json_text_options(dots, &v, &err), ==, -EINVAL);
}

static void test_options(void)
{
    static const struct row rows[] = {
        { "{'a': 1, 'b': true, 'c': false, 'd': null, 'e': [1, 'x']}",
          "{\"a\":\"1\", \"b\":\"on\", \"c\":\"off\", \"d\":null, "
          "\"e\":[\"1\", \"x\"]}" },
        { "{'file.driver': 'nbd', 'file.server.port': 10809, 'driver': 'raw'}",
          "{\"driver\":\"raw\", \"file\":{\"driver\":\"nbd\", \"server\":"
          "{\"port\":\"10809\"}}}" },
        { "{'file': {'driver': 'file'}, 'file.filename': 'x'}",
          "{\"file\":{\"driver\":\"file\", \"filename\":\"x\"}}" },
        { "{'a': {'b': 1}, 'a.b': 2}",
          "!Could not parse the JSON options: Parameter 'a.b' is given twice" },
        { "{'a': 1, 'a.b': 2}",
          "!Could not parse the JSON options: Parameter 'a.b' is given twice" },
        { "[]", "!Could not parse the JSON options: a JSON object is "
                "expected" },
        { "{", "!Could not parse the JSON options: JSON parse error, string "
               "or '}' expected near end of file at character 1" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        check(json_text_options, &rows[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json-text/quotes", test_quotes);
    g_test_add_func("/json-text/depth", test_depth);
    g_test_add_func("/json-text/options", test_options);
    return g_test_run();
}
