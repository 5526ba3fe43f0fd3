/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which file a name leads to, and what tells one storage from another. */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "graph/open/open.h"
#include "loop/io.h"

int backing_path_beside(struct node *n, const char *name, char **ret_path,
                        GError **err)
{
    struct node *storage = node_storage(n);
    const char *image = storage ? storage->filename : NULL;
    char *dir;

    if (g_path_is_absolute(name)) {
        *ret_path = g_strdup(name);
        return 0;
    }
    if (!image || !backing_is_path(image)) {
        return err_set(err, EINVAL,
                       "Backing file name '%s' is relative, but "
                       "'%s' is not in a folder",
                       name, node_title(n));
    }
    /* "./a" leads to "./b": what is printed looks like what was typed. */
    dir = g_path_get_dirname(image);
    *ret_path = strchr(image, '/') ? g_build_filename(dir, name, NULL)
                                   : g_strdup(name);
    g_free(dir);
    return 0;
}

char *backing_stat_identity(const struct stat *st)
{
    if (S_ISBLK(st->st_mode)) {
        return g_strdup_printf("blk:%" PRIu64, (uint64_t)st->st_rdev);
    }
    return g_strdup_printf("ino:%" PRIu64 ":%" PRIu64, (uint64_t)st->st_dev,
                           (uint64_t)st->st_ino);
}

bool backing_co_same_file(const char *a, const char *b)
{
    struct stat st_a, st_b;

    return !strcmp(a, b) ||
           (io_co_stat(a, &st_a) == 0 && io_co_stat(b, &st_b) == 0 &&
            st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino);
}

int backing_co_check_relative(struct node *n, const char *path, GError **err)
{
    g_autofree char *beside = NULL, *there = NULL, *here = NULL;
    int ret;

    if (g_path_is_absolute(path)) {
        return 0;
    }
    ret = backing_path_beside(n, path, &beside, err);
    if (ret < 0) {
        return ret;
    }
    there = g_canonicalize_filename(beside, NULL);
    here = g_canonicalize_filename(path, NULL);
    return backing_co_same_file(there, here)
               ? 0
               : err_set(
                     err, EINVAL,
                     "Backing file name of '%s' is refused: the "
                     "relative file name '%s' in it means another file in the "
                     "folder of the image than in this one",
                     image_of(n), path);
}

CO_FN char *node_co_identity(struct node *n)
{
    struct node *storage = node_storage(n);
    struct stat st;

    if (!storage || !storage->filename) {
        return NULL;
    }
    if (backing_is_path(storage->filename) &&
        io_co_stat(storage->filename, &st) == 0) {
        return backing_stat_identity(&st);
    }
    return g_strdup(storage->filename);
}

CO_FN char *node_co_name_identity(struct node *n, const char *name)
{
    g_autofree char *path = NULL;
    struct stat st;

    if (!backing_is_path(name)) {
        return g_strdup(name);
    }
    return backing_path_beside(n, name, &path, NULL) == 0 &&
                   io_co_stat(path, &st) == 0
               ? backing_stat_identity(&st)
               : NULL;
}
