/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of RBD images: what is taken reads the same when written out, and no
 * header gets by with an option of Ceph. */
#include <string.h>
#include "fuzz.h"
#include "wire/rbd-name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    g_autofree char *name = fuzz_str(&in, 8192);
    g_autofree char *once = NULL, *twice = NULL;
    g_autoptr(GError) err = NULL;
    struct rbd_name n = {}, again = {};

    if (rbd_name_parse(name, &n, &err) < 0) {
        g_assert_nonnull(err);
        return 0;
    }
    g_assert_no_error(err);
    g_assert_true(*n.pool && *n.image);
    once = rbd_name_format(&n);
    rbd_name_parse(once, &again, &err);
    g_assert_no_error(err);
    twice = rbd_name_format(&again);
    g_assert_cmpstr(once, ==, twice);
    if (rbd_name_check_header(name, NULL) == 0) {
        g_assert_true(!n.settings ||
                      !strcmp(g_ptr_array_index(n.settings, 0), "mon_host"));
        g_assert_true(!n.conf || g_str_has_prefix(n.conf, "/etc/ceph/"));
    }
    rbd_name_clear(&n);
    rbd_name_clear(&again);
    return 0;
}
