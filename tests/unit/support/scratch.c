/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scratch.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>

static char *scratch_dir;

static void scratch_remove(void)
{
    GDir *dir = g_dir_open(scratch_dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        char *path = g_build_filename(scratch_dir, name, NULL);

        g_unlink(path);
        g_free(path);
    }
    g_dir_close(dir);
    g_rmdir(scratch_dir);
    g_free(scratch_dir);
}

char *scratch_path(const char *name)
{
    if (!scratch_dir) {
        scratch_dir = g_dir_make_tmp("sluice-test-XXXXXX", NULL);
        g_assert_nonnull(scratch_dir);
        atexit(scratch_remove);
    }
    return g_build_filename(scratch_dir, name, NULL);
}

const char *scratch(const char *name)
{
    static char *path;

    g_free(path);
    path = scratch_path(name);
    return path;
}
