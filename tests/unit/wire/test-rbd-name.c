/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of RBD images, good and bad, and what a header may hold. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "wire/rbd-name.h"

static const struct {
    const char *text, *pool, *name_space, *image, *snapshot, *user, *conf;
    const char *formatted; /* NULL: as @text */
} good[] = {
    { "rbd:rbd/disk", "rbd", NULL, "disk" },
    { "rbd:rbd/ns/disk", "rbd", "ns", "disk" },
    { "rbd:rbd//disk", "rbd", NULL, "disk", .formatted = "rbd:rbd/disk" },
    { "rbd:rbd/disk@snap", "rbd", NULL, "disk", "snap" },
    { "rbd:rbd/ns/disk@snap:id=vm:conf=/etc/ceph/a.conf", "rbd", "ns", "disk",
      "snap", "vm", "/etc/ceph/a.conf",
      "rbd:rbd/ns/disk@snap:id=vm:conf=\\/etc\\/ceph\\/a.conf" },
    { "rbd:rbd/disk:conf=a\\:b=c", "rbd", NULL, "disk", NULL, NULL, "a:b=c",
      "rbd:rbd/disk:conf=a\\:b\\=c" },
    { "rbd:a\\/b/c\\@d\\/e@f\\:g", "a/b", NULL, "c@d/e", "f:g" },
    { "rbd:a\\b/c\\\\d", "ab", NULL, "c\\d", .formatted = "rbd:ab/c\\\\d" },
    { "rbd:rbd/disk\\", "rbd", NULL, "disk\\",
      .formatted = "rbd:rbd/disk\\\\" },
    { "rbd:rbd/a@b/c", "rbd", NULL, "a", "b/c",
      .formatted = "rbd:rbd/a@b\\/c" },
    { "rbd:rbd/disk:", "rbd", NULL, "disk", .formatted = "rbd:rbd/disk" },
    { "rbd:rbd/disk:id=a@b", "rbd", NULL, "disk", NULL, "a@b", NULL,
      "rbd:rbd/disk:id=a\\@b" },
};

static const struct {
    const char *text, *error;
} bad[] = {
    { "", "File name must start with 'rbd:'" },
    { "nbd:rbd/disk", "File name must start with 'rbd:'" },
    { "rbd:", "Pool name is required" },
    { "rbd:disk", "Pool name is required" },
    { "rbd:/disk", "Pool name is required" },
    { "rbd:disk\\/x", "Pool name is required" },
    { "rbd:rbd/", "Image name is required" },
    { "rbd:rbd/@snap", "Image name is required" },
    { "rbd:rbd/ns/", "Image name is required" },
    { "rbd:rbd/disk:conf", "conf option conf has no value" },
    { "rbd:rbd/disk:conf:id=x", "conf option conf has no value" },
    { "rbd:rbd/disk:=x", "A conf option has no name" },
    { "rbd:rbd/disk:key=AQ==", "A key may not stand in the name of an image" },
};

static const struct {
    const char *text;
    bool ok;
} headers[] = {
    { "rbd:rbd/disk@snap:id=vm", true },
    { "rbd:rbd/disk:mon_host=192.0.2.1\\:6789", true },
    { "rbd:rbd/disk:conf=/etc/ceph/other.conf", true },
    { "rbd:rbd/disk:conf=/etc/ceph/../passwd", false },
    { "rbd:rbd/disk:conf=ceph.conf", false },
    { "rbd:rbd/disk:conf=/etc/cephx", false },
    { "rbd:rbd/disk:log_file=/etc/passwd", false },
    { "rbd:rbd/disk:mon_host=a:admin_socket=/run/x", false },
};

static void test_good(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        struct rbd_name n = {}, again = {};
        g_autofree char *text = NULL, *twice = NULL;
        GError *err = NULL;

        g_test_message("%s", good[i].text);
        rbd_name_parse(good[i].text, &n, &err);
        g_assert_no_error(err);
        g_assert_cmpstr(n.pool, ==, good[i].pool);
        g_assert_cmpstr(n.name_space, ==, good[i].name_space);
        g_assert_cmpstr(n.image, ==, good[i].image);
        g_assert_cmpstr(n.snapshot, ==, good[i].snapshot);
        g_assert_cmpstr(n.user, ==, good[i].user);
        g_assert_cmpstr(n.conf, ==, good[i].conf);
        text = rbd_name_format(&n);
        g_assert_cmpstr(text, ==,
                        good[i].formatted ? good[i].formatted : good[i].text);
        rbd_name_parse(text, &again, &err);
        g_assert_no_error(err);
        twice = rbd_name_format(&again);
        g_assert_cmpstr(text, ==, twice);
        rbd_name_clear(&n);
        rbd_name_clear(&again);
    }
}

static void test_settings(void)
{
    struct rbd_name n = {};
    g_autofree char *text = NULL;
    GError *err = NULL;

    rbd_name_parse("rbd:p/i:a=1:id=u:b=\\:2", &n, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(n.settings->len, ==, 4);
    g_assert_cmpstr(g_ptr_array_index(n.settings, 0), ==, "a");
    g_assert_cmpstr(g_ptr_array_index(n.settings, 3), ==, ":2");
    text = rbd_name_format(&n);
    g_assert_cmpstr(text, ==, "rbd:p/i:id=u:a=1:b=\\:2");
    rbd_name_clear(&n);
}

static void test_bad(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct rbd_name n = {};
        g_autoptr(GError) err = NULL;
        g_autofree char *message = NULL;

        g_test_message("%s", bad[i].text);
        g_assert_cmpint(rbd_name_parse(bad[i].text, &n, &err), ==, -EINVAL);
        message = err_dup_message(err);
        g_assert_cmpstr(message, ==, bad[i].error);
        g_assert_null(n.pool);
    }
}

static void test_headers(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(headers); i++) {
        g_autoptr(GError) err = NULL;

        g_test_message("%s", headers[i].text);
        g_assert_cmpint(rbd_name_check_header(headers[i].text, &err), ==,
                        headers[i].ok ? 0 : -EINVAL);
        g_assert_true((err == NULL) == headers[i].ok);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/rbd-name/good", test_good);
    g_test_add_func("/rbd-name/settings", test_settings);
    g_test_add_func("/rbd-name/bad", test_bad);
    g_test_add_func("/rbd-name/headers", test_headers);
    return g_test_run();
}
