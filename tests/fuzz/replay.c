/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzz target on files and on every file of folders; a TAP point each.
 * An input that crashes ends the program, which fails the test.
 */
#include <stdio.h>
#include <stdlib.h>
#include "fuzz.h"

static unsigned n_done;

static void replay_file(const char *path)
{
    g_autofree char *name = g_path_get_basename(path);
    g_autoptr(GError) err = NULL;
    char *data;
    size_t len;
    uint8_t *exact;

    g_file_get_contents(path, &data, &len, &err);
    g_assert_no_error(err);
    /* Exactly as long as it is: a read beyond shows. */
    exact = malloc(len ? len : 1);
    for (size_t i = 0; i < len; i++) {
        exact[i] = (uint8_t)data[i];
    }
    g_free(data);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    printf("ok %u %s\n", ++n_done, name);
    fflush(stdout);
}

static int by_name(const void *a, const void *b)
{
    return g_strcmp0(*(char *const *)a, *(char *const *)b);
}

static void replay(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    const char *name;

    if (!dir) {
        replay_file(path);
        return;
    }
    while ((name = g_dir_read_name(dir))) {
        g_ptr_array_add(names, g_build_filename(path, name, NULL));
    }
    qsort(names->pdata, names->len, sizeof(names->pdata[0]), by_name);
    for (unsigned i = 0; i < names->len; i++) {
        replay_file(names->pdata[i]);
    }
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        replay(argv[i]);
    }
    printf("1..%u\n", n_done);
    if (n_done == 0) {
        fprintf(stderr, "usage: %s FILE-OR-FOLDER ...\n", argv[0]);
        return 1;
    }
    return 0;
}
