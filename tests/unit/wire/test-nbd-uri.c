/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every spelling of an NBD export, good and bad. */
#include <string.h>

#include "base/err.h"
#include "wire/nbd-uri.h"

static const struct {
    const char *text, *path, *host, *port, *export_name, *formatted;
} good[] = {
    { "nbd://host:1234/disk", NULL, "host", "1234", "disk",
      "nbd://host:1234/disk" },
    { "nbd://host", NULL, "host", "10809", "", "nbd://host:10809" },
    { "nbd://host/", NULL, "host", "10809", "", "nbd://host:10809" },
    { "nbd://host:/a/b", NULL, "host", "10809", "a/b", "nbd://host:10809/a/b" },
    { "nbd://[::1]:99/x%20y", NULL, "::1", "99", "x y",
      "nbd://[::1]:99/x%20y" },
    { "nbd+tcp://h/e", NULL, "h", "10809", "e", "nbd://h:10809/e" },
    { "nbd:///e", NULL, "localhost", "10809", "e", "nbd://localhost:10809/e" },
    { "nbd+unix:///disk?socket=/run/s", "/run/s", NULL, NULL, "disk",
      "nbd+unix:///disk?socket=/run/s" },
    { "nbd+unix://?socket=/run/s", "/run/s", NULL, NULL, "",
      "nbd+unix://?socket=/run/s" },
    { "nbd+unix:///?socket=/run/a%3fb", "/run/a?b", NULL, NULL, "",
      "nbd+unix://?socket=/run/a%3Fb" },
    { "nbd:unix:/run/s", "/run/s", NULL, NULL, "",
      "nbd+unix://?socket=/run/s" },
    { "nbd:unix:/run/s:exportname=a:b", "/run/s", NULL, NULL, "a:b",
      "nbd+unix:///a:b?socket=/run/s" },
    { "nbd:host:10809", NULL, "host", "10809", "", "nbd://host:10809" },
    { "nbd:host:10809:exportname=d", NULL, "host", "10809", "d",
      "nbd://host:10809/d" },
    { "nbd:[::1]:10809:exportname=d", NULL, "::1", "10809", "d",
      "nbd://[::1]:10809/d" },
};

static const char *const bad[] = {
    "",
    "nbd",
    "http://host/x",
    "/tmp/nbd://x",
    "nbd:",
    "nbd:host",
    "nbd:host:port",
    "nbd:unix:",
    "nbd://host:70000/x",
    "nbd://host:x/",
    "nbd://[::1/x",
    "nbd://[::1]x/",
    "nbd+unix:///x",
    "nbd+unix:///x?socket=",
    "nbd+unix://host/x?socket=/s",
    "nbd://host/x?socket=/s",
    "nbd+unix:///x?socket=/s&socket=/t",
    "nbd+unix:///x?other=1",
    "nbd://host/%00",
    "nbd://host/%zz",
    "nbd://host/x#y",
    "nbd://u@host/x",
};

static void test_good(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        struct nbd_target t;
        g_autoptr(GError) err = NULL;
        int ret = nbd_uri_parse(good[i].text, &t, &err);
        g_assert_no_error(err);
        g_assert_cmpint(ret, ==, 0);
        g_assert_cmpstr(t.path, ==, good[i].path);
        g_assert_cmpstr(t.host, ==, good[i].host);
        g_assert_cmpstr(t.port, ==, good[i].port);
        g_assert_cmpstr(t.export_name, ==, good[i].export_name);
        g_assert_false(t.tls);
        g_autofree char *text = nbd_uri_format(&t);
        g_assert_cmpstr(text, ==, good[i].formatted);
        nbd_target_clear(&t);
    }
}

static void test_bad(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct nbd_target t;
        g_autoptr(GError) err = NULL;
        g_test_message("%s", bad[i]);
        g_assert_cmpint(nbd_uri_parse(bad[i], &t, &err), ==, -EINVAL);
        g_assert_nonnull(err);
    }
}

static void test_limits(void)
{
    struct nbd_target t;
    g_autoptr(GError) err = NULL;
    g_autofree char *name = g_strnfill(4096, 'x');
    g_autofree char *fits = g_strconcat("nbd://h/", name, NULL);
    g_autofree char *more = g_strconcat(fits, "x", NULL);

    g_assert_cmpint(nbd_uri_parse(fits, &t, &err), ==, 0);
    nbd_target_clear(&t);
    g_assert_cmpint(nbd_uri_parse(more, &t, &err), ==, -EINVAL);
    g_clear_error(&err);
    g_assert_cmpint(nbd_uri_parse("nbds://h/e", &t, &err), ==, 0);
    g_assert_true(t.tls);
    nbd_target_clear(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/nbd-uri/good", test_good);
    g_test_add_func("/wire/nbd-uri/bad", test_bad);
    g_test_add_func("/wire/nbd-uri/limits", test_limits);
    return g_test_run();
}
