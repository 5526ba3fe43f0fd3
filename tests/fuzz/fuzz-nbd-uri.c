/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of NBD exports: what is taken reads the same when written out. */
#include "fuzz.h"
#include "wire/nbd-uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    g_autofree char *name = fuzz_str(&in, 8192);
    g_autofree char *once = NULL, *twice = NULL;
    g_autoptr(GError) err = NULL;
    struct nbd_target t = {}, u = {};

    if (nbd_uri_parse(name, &t, &err) < 0) {
        g_assert_nonnull(err);
        return 0;
    }
    g_assert_no_error(err);
    g_assert_true(t.tls || !t.path != !t.host);
    g_assert_nonnull(t.export_name);
    once = nbd_uri_format(&t);
    nbd_uri_parse(once, &u, &err);
    g_assert_no_error(err);
    twice = nbd_uri_format(&u);
    g_assert_cmpstr(once, ==, twice);
    g_assert_cmpstr(t.export_name, ==, u.export_name);
    g_assert_cmpstr(t.path, ==, u.path);
    g_assert_cmpstr(t.host, ==, u.host);
    nbd_target_clear(&t);
    nbd_target_clear(&u);
    return 0;
}
