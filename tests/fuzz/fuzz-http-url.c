/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Addresses of web servers, where redirects lead, and names of objects of S3: what
 * is taken leads to one server, holds nobody's password, never leaves TLS, and
 * reads the same when written out.
 */
#include <string.h>
#include "base/options.h"
#include "fuzz.h"
#include "storage/http/http-url.h"
#include "storage/http/s3-target.h"

static void check_url(const struct http_url *u)
{
    g_autofree char *shown = http_url_public(u->text);
    struct http_url again = {};
    g_autoptr(GError) err = NULL;

    g_assert_true(g_str_has_prefix(u->origin, u->tls ? "https://" : "http://"));
    /* It stands in a request. */
    for (const char *p = u->text; *p; p++) {
        g_assert_true((unsigned char)*p > ' ');
    }
    g_assert_null(strchr(shown, '?'));
    http_url_parse(u->text, &again, &err);
    g_assert_no_error(err);
    g_assert_cmpstr(again.origin, ==, u->origin);
    http_url_clear(&again);
}

static void try_address(const char *text)
{
    g_autoptr(GError) err = NULL;
    struct http_url u = {};

    if (http_url_parse(text, &u, &err) < 0) {
        g_assert_nonnull(err);
        return;
    }
    g_assert_no_error(err);
    check_url(&u);
    http_url_clear(&u);
}

static void try_redirect(const char *from, const char *location)
{
    g_autoptr(GError) err = NULL;
    struct http_url u = {}, to = {};

    http_url_parse(from, &u, &err);
    g_assert_no_error(err);
    if (http_url_redirect(&u, location, &to, &err) == 0) {
        g_assert_true(to.tls || !u.tls);
        check_url(&to);
    } else {
        g_assert_nonnull(err);
    }
    http_url_clear(&u);
    http_url_clear(&to);
}

/* The name of what was taken, or NULL. */
static char *take_object(const char *name, struct s3_target *t)
{
    json_t *o = json_pack("{s:s}", "filename", name);
    g_autoptr(GError) err = NULL;
    char *ret = NULL;

    if (o) { /* it is UTF-8 */
        struct opts *opts = opts_new(o);

        if (s3_target_take(opts, t, &err) == 0) {
            ret = s3_target_format(t);
        } else {
            g_assert_nonnull(err);
        }
        opts_free(opts);
        json_decref(o);
    }
    return ret;
}

static void try_object(const char *name)
{
    struct s3_target t = {}, again = {};
    g_autofree char *once = take_object(name, &t);
    g_autofree char *twice = once ? take_object(once, &again) : NULL;
    struct http_url u = {}, server = {};

    g_assert_cmpstr(once, ==, twice);
    if (once) {
        g_assert_cmpstr(t.key, ==, again.key);
        g_assert_cmpint(http_url_parse(t.endpoint, &server, NULL), ==, 0);
    }
    if (once && s3_target_url(&t, t.version, &u, NULL) == 0) {
        check_url(&u);
        g_assert_cmpstr(u.origin, ==, server.origin);
    }
    http_url_clear(&u);
    http_url_clear(&server);
    s3_target_clear(&t);
    s3_target_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    g_autofree char *text = fuzz_str(&in, 8192);

    try_address(text);
    try_redirect("https://host:8443/dir/file?signature=x", text);
    try_redirect("http://[::1]/", text);
    try_object(text);
    return 0;
}
