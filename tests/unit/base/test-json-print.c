/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON as QEMU prints it. */
#include "base/json-print.h"

#include <string.h>

static void check(const char *text, bool pretty, const char *want)
{
    json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
    g_autofree char *got = NULL;

    g_assert_nonnull(v);
    got = json_print(v, pretty);
    g_assert_cmpstr(got, ==, want);
    json_decref(v);
}

static void test_lines(void)
{
    check("{}", false, "{}");
    check("[]", false, "[]");
    check("[1,true,null,-2,\"x\",[[]]]", false,
          "[1, true, null, -2, \"x\", [[]]]");
    check("{\"return\":{\"a\":1}}", false, "{\"return\": {\"a\": 1}}");
    check("9223372036854775807", false, "9223372036854775807");
}

static void test_pretty(void)
{
    check("{}", true, "{\n}");
    check("{\"return\":{}}", true, "{\n    \"return\": {\n    }\n}");
    check("[1,[]]", true, "[\n    1,\n    [\n    ]\n]");
}

/* What QEMU 7.2 sends. */
static void test_order(void)
{
    check("{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"r\",\"guest\":false},"
          "\"timestamp\":{\"microseconds\":2,\"seconds\":1}}",
          false,
          "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, "
          "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, "
          "\"reason\": \"r\"}}");
    check("{\"error\":{\"desc\":\"d\",\"class\":\"c\"},\"id\":1}", false,
          "{\"id\": 1, \"error\": {\"class\": \"c\", \"desc\": \"d\"}}");
    /* "return" and "reason" share a bucket: the one that came last is first. */
    check("{\"return\":1,\"reason\":2}", false,
          "{\"reason\": 2, \"return\": 1}");
    check("{\"reason\":1,\"return\":2}", false,
          "{\"return\": 2, \"reason\": 1}");
}

static void test_strings(void)
{
    json_t *raw = json_string_nocheck("a\xff"
                                      "b");
    g_autofree char *text = json_print(raw, false);

    g_assert_cmpstr(text, ==, "\"a\\uFFFDb\"");
    json_decref(raw);
    check("\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001b\\u007f\"", false,
          "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001B\\u007F\"");
    check("\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe\"", false,
          "\"\\u00E4\\u20AC\\uD83D\\uDCBE\"");
    check("{\"\xc3\xa4\":1}", false, "{\"\\u00E4\": 1}");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/json-print/lines", test_lines);
    g_test_add_func("/json-print/pretty", test_pretty);
    g_test_add_func("/json-print/order", test_order);
    g_test_add_func("/json-print/strings", test_strings);
    return g_test_run();
}
