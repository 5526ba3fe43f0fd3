/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Option strings: nesting, lists, escapes, and what is refused. */
#include "base/err.h"
#include "base/keyval.h"

static void check_ok(const char *text, const char *implied, const char *want)
{
    g_autoptr(GError) err = NULL;
    json_t *v = NULL;
    char *got;

    g_assert_cmpint(keyval_parse(text, implied, &v, &err), ==, 0);
    g_assert_no_error(err);
    got = json_dumps(v, JSON_COMPACT);
    g_assert_cmpstr(got, ==, want);
    free(got);
    json_decref(v);
}

static void check_bad(const char *text, const char *implied, const char *want)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *msg = NULL;
    json_t *v = NULL;

    g_assert_cmpint(keyval_parse(text, implied, &v, &err), ==, -EINVAL);
    g_assert_null(v);
    msg = err_dup_message(err);
    g_assert_cmpstr(msg, ==, want);
}

static void test_pairs(void)
{
    check_ok("", NULL, "{}");
    check_ok("a=1,b=2", NULL, "{\"a\":\"1\",\"b\":\"2\"}");
    check_ok("a=1,a=2", NULL, "{\"a\":\"2\"}");
    check_ok("a=1,", NULL, "{\"a\":\"1\"}");
    check_ok("a=", NULL, "{\"a\":\"\"}");
    check_ok("a=x,,y=z,b=,,", NULL, "{\"a\":\"x,y=z\",\"b\":\",\"}");
    check_ok("qed,file=f", "driver", "{\"driver\":\"qed\",\"file\":\"f\"}");
    check_ok("driver=qed", "driver", "{\"driver\":\"qed\"}");
    check_ok("{\"a\": [1, {\"b\": null}]}", "driver",
             "{\"a\":[1,{\"b\":null}]}");
}

static void test_nesting(void)
{
    check_ok("a.b.c=1,a.b.d=2,a.e=3", NULL,
             "{\"a\":{\"b\":{\"c\":\"1\",\"d\":\"2\"},\"e\":\"3\"}}");
    check_ok("a.1=y,a.0=x", NULL, "{\"a\":[\"x\",\"y\"]}");
    check_ok("a.0.k=x,a.1.k=y", NULL, "{\"a\":[{\"k\":\"x\"},{\"k\":\"y\"}]}");
}

static void test_refused(void)
{
    check_bad("a", NULL, "Expected '=' after parameter 'a'");
    check_bad("x=1,a", "driver", "Expected '=' after parameter 'a'");
    check_bad("=1", NULL, "Invalid parameter ''");
    check_bad("a..b=1", NULL, "Invalid parameter 'a..b'");
    check_bad("-a=1", NULL, "Invalid parameter '-a'");
    check_bad("a=1,a.b=2", NULL, "Parameters 'a.*' used inconsistently");
    check_bad("a.b=2,a=1", NULL, "Parameters 'a.*' used inconsistently");
    check_bad("a.0=x,a.2=y", NULL, "Parameter 'a.1' is missing");
    check_bad("a.0=x,a.b=y", NULL, "Parameter 'a.1' is missing");
    check_bad("0=x", NULL, "Invalid parameter '0'");
    check_bad("a=\xff", NULL, "Parameter 'a' is not UTF-8");
}

/* A word for another: both it and members of its own name can be given. */
static void test_alias(void)
{
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "a", "{\"filename\":\"a\"}" },
        { "file=a", "{\"filename\":\"a\"}" },
        { "a,file.locking=off",
          "{\"filename\":\"a\",\"file\":{\"locking\":\"off\"}}" },
        { "file.x=1,file=b", "{\"file\":{\"x\":\"1\"},\"filename\":\"b\"}" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        json_t *v = NULL;
        char *got;

        g_assert_cmpint(keyval_parse_alias(rows[i].text, "file", "file",
                                           "filename", &v, NULL),
                        ==, 0);
        got = json_dumps(v, JSON_COMPACT);
        g_assert_cmpstr(got, ==, rows[i].want);
        free(got);
        json_decref(v);
    }
}

/* Whatever comes, it answers: random strings of the grammar's own marks. */
static void test_random(void)
{
    static const char marks[] = "ab01.,={}\"-";

    for (int i = 0; i < 20000; i++) {
        char text[24] = "";
        g_autoptr(GError) err = NULL;
        json_t *v = NULL;
        int n = g_test_rand_int_range(0, sizeof(text));

        for (int k = 0; k < n; k++) {
            text[k] = marks[g_test_rand_int_range(0, sizeof(marks) - 1)];
        }
        if (keyval_parse(text, i % 2 ? "driver" : NULL, &v, &err) == 0) {
            g_assert_true(json_is_object(v));
            g_assert_no_error(err);
        } else {
            g_assert_nonnull(err);
            g_assert_null(v);
        }
        json_decref(v);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/keyval/pairs", test_pairs);
    g_test_add_func("/keyval/nesting", test_nesting);
    g_test_add_func("/keyval/refused", test_refused);
    g_test_add_func("/keyval/alias", test_alias);
    g_test_add_func("/keyval/random", test_random);
    return g_test_run();
}
