/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another name for an open file, or none.
 *
 * A name may have come to lead elsewhere since it was opened; then nothing is
 * done.  Where a link was opened, the file changes its name, not the link.
 */
#include <errno.h>

#include "base/barrier.h"
#include "base/err.h"
#include "graph/driver.h"
#include "loop/io.h"
#include "storage/file/file-int.h"

/* Where the open file is; owned. */
static CO_FN int name_co_find(struct file_state *s, char **ret_path,
                              GError **err)
{
    g_autofree char *path = NULL;
    struct stat open, named;
    int ret = io_co_real_path(s->io, &path);

    if (ret == -ENOTSUP) {
        path = g_strdup(s->opt.path);
        ret = 0;
    }
    if (ret == 0) {
        ret = io_co_fstat(s->io, &open);
    }
    if (ret == 0) {
        ret = io_co_stat(path, &named);
    }
    if (ret != 0) {
        return err_set_errno(err, -ret, "Could not look at '%s'", s->opt.path);
    }
    if (open.st_dev != named.st_dev || open.st_ino != named.st_ino) {
        return err_set(err, ESTALE,
                       "The name '%s' leads to another file by "
                       "now",
                       path);
    }
    *ret_path = g_steal_pointer(&path);
    return 0;
}

int file_name_co_rename(struct node *n, const char *path, GError **err)
{
    struct file_state *s = n->state;
    g_autofree char *from = NULL;
    int ret = name_co_find(s, &from, err);

    if (ret < 0) {
        return ret;
    }
    /* Under that name already: the one before was not made durable. */
    ret = g_str_equal(s->opt.path, path) ? 0 : io_co_rename_new(from, path);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not rename '%s' to '%s'", from,
                             path);
    }
    if (!g_str_equal(s->opt.path, path)) {
        g_free(s->opt.path);
        s->opt.path = g_strdup(path);
        g_free(n->filename);
        n->filename = g_strdup(path);
    }
    ret = BARRIER(FILE_RENAME, io_co_fsync_parent(path));
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not make the new name "
                                    "'%s' durable",
                                    path);
}

int file_name_co_unlink(struct node *n, GError **err)
{
    struct file_state *s = n->state;
    g_autofree char *path = s->unlinked ? g_strdup(s->opt.path) : NULL;
    int ret = s->unlinked ? 0 : name_co_find(s, &path, err);

    if (ret < 0) {
        return ret;
    }
    ret = s->unlinked ? 0 : io_co_unlink(path);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not remove '%s'", path);
    }
    s->unlinked = true;
    ret = BARRIER(FILE_UNLINK, io_co_fsync_parent(path));
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not make the removal "
                                    "of '%s' durable",
                                    path);
}
