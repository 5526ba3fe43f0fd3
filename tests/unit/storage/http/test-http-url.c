/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Addresses of web servers and of S3 objects: what they lead to, what of them
 * people are shown, and what is refused. */
#include <glib.h>

#include "base/err.h"
#include "base/options.h"
#include "storage/http/http-url.h"
#include "storage/http/s3-target.h"

static void test_good(void)
{
    static const struct {
        const char *text, *origin, *shown;
        bool tls;
    } rows[] = {
        { "http://host/x", "http://host:80", "http://host/x", false },
        { "https://HOST/x", "https://host:443", "https://HOST/x", true },
        { "https://host:443/x", "https://host:443", "https://host:443/x",
          true },
        { "https://host:8443/x?sig=hidden", "https://host:8443",
          "https://host:8443/x", true },
        { "http://[::1]:80/", "http://[::1]:80", "http://[::1]:80/", false },
        { "http://host/a@b", "http://host:80", "http://host/a@b", false },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) err = NULL;
        g_autofree char *shown = http_url_public(rows[i].text);
        struct http_url u = {};

        g_test_message("%s", rows[i].text);
        http_url_parse(rows[i].text, &u, &err);
        g_assert_no_error(err);
        g_assert_cmpstr(u.origin, ==, rows[i].origin);
        g_assert_true(u.tls == rows[i].tls);
        g_assert_cmpstr(shown, ==, rows[i].shown);
        http_url_clear(&u);
    }
}

static void test_bad(void)
{
    static const char *const bad[] = {
        "",
        "host/x",
        "http:",
        "http://",
        "http:///x",
        "https:///x",
        "ftp://h/x",
        "file:///etc/x",
        "http://u@h/x",
        "http://:hidden@h/x",
        "http://u:hidden@h/x",
        "http://h:99999/x",
        "http://[::1/x",
        "http://h h/x",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        struct http_url u = {};

        g_test_message("%s", bad[i]);
        g_assert_cmpint(http_url_parse(bad[i], &u, &err), <, 0);
        g_assert_null(g_strstr_len(err->message, -1, "hidden"));
        g_assert_null(u.text);
    }
}

static void test_shown(void)
{
    static const struct {
        const char *text, *shown;
    } rows[] = {
        { "http://u:hidden@h/x", "http://h/x" },
        { "http://u:hid@den@h", "http://h" },
        { "s3://b/k?endpoint=http://h", "s3://b/k" },
        { "x?y=http://u@h", "x" },
        { "", "" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *shown = http_url_public(rows[i].text);

        g_assert_cmpstr(shown, ==, rows[i].shown);
    }
}

static void test_redirects(void)
{
    static const struct {
        const char *from, *location, *to;
    } rows[] = {
        { "http://h/a/b?c", "d", "http://h/a/d" },
        { "http://h/a/b", "/d?e", "http://h/d?e" },
        { "http://h/a/b", "//g/d", "http://g/d" },
        { "http://h/a", "https://g/d#e", "https://g/d" },
        { "https://h/a", "https://g:1/d", "https://g:1/d" },
        { "https://h/a", "http://h/a", NULL },
        { "http://h/a", "ftp://h/a", NULL },
        { "http://h/a", "file:///a", NULL },
        { "http://h/a", "javascript:x", NULL },
        { "http://h/a", "http://u:p@h/a", NULL },
        { "http://h/a", "http:///a", NULL },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) err = NULL;
        struct http_url from = {}, to = {};

        g_test_message("%s %s", rows[i].from, rows[i].location);
        http_url_parse(rows[i].from, &from, &err);
        g_assert_no_error(err);
        http_url_redirect(&from, rows[i].location, &to, &err);
        g_assert_cmpstr(to.text, ==, rows[i].to);
        g_assert_true(!err == !!rows[i].to);
        http_url_clear(&from);
        http_url_clear(&to);
    }
}

/* A target by its name; NULL: refused. */
static char *s3_address(const char *name, char **ret_again)
{
    json_t *obj = json_pack("{s:s}", "filename", name);
    CLEANUP(opts_freep) struct opts *o = opts_new(obj);
    g_autoptr(GError) err = NULL;
    struct s3_target t = {};
    struct http_url u = {};

    json_decref(obj);
    *ret_again = NULL;
    if (s3_target_take(o, &t, &err) == 0) {
        *ret_again = s3_target_format(&t);
        s3_target_url(&t, t.version, &u, &err);
        g_assert_no_error(err);
    }
    char *text = g_strdup(u.text);

    http_url_clear(&u);
    s3_target_clear(&t);
    return text;
}

static void test_s3(void)
{
    static const struct {
        const char *name, *address;
    } rows[] = {
        { "s3://bucket/key", "https://s3.us-east-1.amazonaws.com/bucket/key" },
        { "s3://bucket/a/b%20c?region=eu-west-1",
          "https://s3.eu-west-1.amazonaws.com/bucket/a/b%20c" },
        { "s3://bucket/a%2Bb?endpoint=http://h:80&versionId=x%2Fy",
          "http://h:80/bucket/a%2Bb?versionId=x%2Fy" },
        { "s3://bucket/../x",
          "https://s3.us-east-1.amazonaws.com/bucket/../x" },
        { "s3://bucket", NULL },
        { "s3://bucket/", NULL },
        { "s3://bu/key", NULL },
        { "s3:///key", NULL },
        { "s3://bucket/%2", NULL },
        { "s3://bucket/k?endpoint=h", NULL },
        { "s3://bucket/k?endpoint=http://h/p", NULL },
        { "s3://bucket/k?region=", NULL },
        { "s3://bucket/k?region=a&region=a", NULL },
        { "s3://bucket/k?other=a", NULL },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *again = NULL, *same = NULL, *twice = NULL;
        g_autofree char *address = s3_address(rows[i].name, &again);

        g_test_message("%s", rows[i].name);
        g_assert_cmpstr(address, ==, rows[i].address);
        /* The name for people leads to the same. */
        if (again) {
            twice = s3_address(again, &same);
            g_assert_cmpstr(twice, ==, address);
            g_assert_cmpstr(same, ==, again);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/storage/http/url/good", test_good);
    g_test_add_func("/storage/http/url/bad", test_bad);
    g_test_add_func("/storage/http/url/shown", test_shown);
    g_test_add_func("/storage/http/url/redirects", test_redirects);
    g_test_add_func("/storage/http/url/s3", test_s3);
    return g_test_run();
}
