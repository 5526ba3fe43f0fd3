/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands out of bytes: any cut of the input gives the same values. */
#include <string.h>

#include "base/err.h"
#include "control/session/json-stream.h"

/* Everything that comes out of @text fed in pieces of @piece bytes: one line
 * for each value or error. */
static char *run(const struct json_stream_limits *l, const char *text,
                 size_t len, size_t piece)
{
    struct json_stream *s = json_stream_new(l);
    GString *out = g_string_new("");

    for (size_t at = 0; at < len; at += piece) {
        int r;

        json_stream_feed(s, text + at, MIN(piece, len - at));
        do {
            g_autoptr(GError) err = NULL;
            json_t *v = NULL;

            r = json_stream_next(s, &v, &err);
            if (r > 0) {
                char *dump = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);

                g_string_append_printf(out, "%s\n", dump);
                free(dump);
                json_decref(v);
            } else if (r < 0) {
                g_string_append_printf(out, "!%s\n", err->message);
            }
        } while (r != 0);
    }
    json_stream_free(s);
    return g_string_free(out, FALSE);
}

static void check(const char *text, const char *want)
{
    for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
        g_autofree char *got = run(&json_stream_default_limits, text,
                                   strlen(text), piece);

        g_assert_cmpstr(got, ==, want);
    }
}

static void test_values(void)
{
    check("{\"a\":1}\n", "{\"a\":1}\n");
    check("{\"a\":\n\n1}{\"b\":[{}]} ", "{\"a\":1}\n{\"b\":[{}]}\n");
    check("7 \"abc\" [1]\n", "7\n\"abc\"\n[1]\n");
    check("{'a':'b'}", "{\"a\":\"b\"}\n");
    check("{'a':'it\\'s \"b\" }{'}", "{\"a\":\"it's \\\"b\\\" }{\"}\n");
    check("{\"a\":\"it's }\"}", "{\"a\":\"it's }\"}\n");
    check("{\"a\":\"\\\\\"} 1 ", "{\"a\":\"\\\\\"}\n1\n");
    check("{\"a\":\"b", "");
    check("", "");
}

static void test_bad(void)
{
    check("zork\n{}", "!JSON parse error, invalid keyword 'zork'\n{}\n");
    check("{]{}", "!JSON parse error, expecting value\n{}\n");
    check("}{}", "!JSON parse error, expecting value\n{}\n");
    check("{\"a\":1,\"a\":2}{}",
          "!JSON parse error, duplicate object key near '\"a\"'\n{}\n");
    check("{\"a\":99999999999999999999}{}",
          "!JSON parse error, too big integer near '99999999999999999999'\n"
          "{}\n");
    check("{\"a\":\"\xff\"}{}",
          "!JSON parse error, unable to decode byte 0xff near '\"'\n{}\n");
    check("{\"a\":\"\\u0000\"}{}",
          "!JSON parse error, \\u0000 is not allowed without "
          "JSON_ALLOW_NUL near '\"\\u0000\"'\n{}\n");
}

/* At each limit it works, one above it fails, and then it works again. */
static void test_limits(void)
{
    const struct json_stream_limits l = { 100, 4, 3 };
    g_autofree char *fits = g_strdup_printf("[\"%*s\"]", 96, "");
    g_autofree char *over = g_strdup_printf("[\"%*s\"]{}", 97, "");
    g_autofree char *a = run(&l, fits, strlen(fits), 7);
    g_autofree char *b = run(&l, over, strlen(over), 7);
    g_autofree char *c = run(&l, "[[[[]]]]", 8, 3);
    g_autofree char *d = run(&l, "[[[[[]]]]]{}", 12, 3);
    g_autofree char *e = run(&l, "{'a':1,'b':{'c':1}}", 19, 3);
    g_autofree char *f = run(&l, "{'a':1,'b':{'c':1,'d':2}}{}", 27, 3);

    g_assert_cmpuint(strlen(a), ==, 101);
    g_assert_cmpstr(b, ==,
                    "!JSON parse error, command is longer than 100 "
                    "bytes\n{}\n");
    g_assert_cmpstr(c, ==, "[[[[]]]]\n");
    g_assert_cmpstr(d, ==,
                    "!JSON parse error, nesting is deeper than 4\n"
                    "{}\n");
    g_assert_cmpstr(e, ==, "{\"a\":1,\"b\":{\"c\":1}}\n");
    g_assert_cmpstr(f, ==, "!JSON parse error, more than 3 members\n{}\n");
}

static void test_huge(void)
{
    size_t len = 10 << 20;
    g_autofree char *big = g_malloc(len + 4);
    g_autofree char *deep = g_malloc(20002);
    g_autofree char *got = NULL, *got2 = NULL;

    memset(big, 'x', len + 4);
    memcpy(big, "[\"", 2);
    memcpy(big + len, "\"]{}", 4);
    got = run(&json_stream_default_limits, big, len + 4, 65536);
    g_assert_cmpstr(got, ==,
                    "!JSON parse error, command is longer than "
                    "1048576 bytes\n{}\n");
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    memcpy(deep + 20000, "{}", 2);
    got2 = run(&json_stream_default_limits, deep, 20002, 4096);
    g_assert_cmpstr(got2, ==,
                    "!JSON parse error, nesting is deeper than 32\n"
                    "{}\n");
}

static void test_random(void)
{
    static const char marks[] = "{}[]\"'\\:,1a \n\xff";

    for (int i = 0; i < 20000; i++) {
        char text[40];
        g_autofree char *a = NULL, *b = NULL;
        size_t n = (size_t)g_test_rand_int_range(0, sizeof(text));

        for (size_t k = 0; k < n; k++) {
            text[k] = marks[g_test_rand_int_range(0, sizeof(marks) - 1)];
        }
        a = run(&json_stream_default_limits, text, n, 1);
        b = run(&json_stream_default_limits, text, n, sizeof(text));
        g_assert_cmpstr(a, ==, b);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json-stream/values", test_values);
    g_test_add_func("/json-stream/bad", test_bad);
    g_test_add_func("/json-stream/limits", test_limits);
    g_test_add_func("/json-stream/huge", test_huge);
    g_test_add_func("/json-stream/random", test_random);
    return g_test_run();
}
