/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Overlays that are finished: there is no sidecar any more, and the disk has
 * its final name.
 *
 * DISK.cow is removed after DISK.partial was renamed to DISK, both durably.  So
 * where DISK.cow and DISK.partial are missing and DISK is there, the overlay
 * was finished.  DISK.partial without a sidecar is an incomplete disk, and
 * nothing says which parts of it are complete, whatever else is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "base/err.h"
#include "format/cow/overlay.h"
#include "loop/io.h"

#define SIDECAR ".cow"

/* The final name of the overlay @path; owned. NULL: it says none. */
static char *final_name(const char *path)
{
    g_autofree char *base = g_path_get_basename(path);

    return g_str_has_suffix(base, SIDECAR) && strlen(base) > strlen(SIDECAR)
               ? g_strndup(path, strlen(path) - strlen(SIDECAR))
               : NULL;
}

/* A link that leads nowhere is something else. */
static CO_FN bool name_co_is_free(const char *path)
{
    struct io_file *f = NULL;
    int ret = io_co_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &f);

    if (ret == 0) {
        io_co_close(f);
    }
    return ret == -ENOENT;
}

int cow_co_successor(const char *path, char **ret_path, GError **err)
{
    g_autofree char *name = final_name(path), *partial = NULL;
    struct stat st;

    if (!name || !name_co_is_free(path)) {
        return 0;
    }
    partial = g_strconcat(name, COW_PARTIAL, NULL);
    if (!name_co_is_free(partial)) {
        err_set(err, ENOENT,
                "'%s' is missing, and '%s' is no whole disk "
                "without it",
                path, partial);
        err_hint(err, "Only the sidecar knows which parts of the disk are "
                      "good. Restore both files, or make the overlay anew.");
        return -ENOENT;
    }
    if (io_co_stat(name, &st) < 0 || !S_ISREG(st.st_mode)) {
        return 0;
    }
    *ret_path = g_steal_pointer(&name);
    return 1;
}

/* The format of the data file went with the sidecar.  It is raw, as good as
 * always; but where its bytes look like another that it could have been, a
 * guest may have written them, and a guess could open any file that they
 * name. */
static CO_FN int format_co_check(struct overlay *o, GError **err)
{
    struct node *disk = cow_file(o);
    const struct node_driver *drv = NULL;
    int ret = node_co_probe(disk, "", &drv, err);

    if (ret == -ENOTSUP) { /* of a format that it cannot have been */
        g_clear_error(err);
        return 0;
    }
    if (ret < 0 || !drv) {
        return ret;
    }
    err_set(err, EINVAL,
            "'%s' looks like a %s image: whether that is the format "
            "of the finished disk or what its guest wrote is not known any "
            "more",
            disk->filename, drv->name);
    err_hint(err, "Open '%s' itself, and say which format it has.",
             disk->filename);
    return -EINVAL;
}

/* Where the data file is and what is below it were options of the overlay. */
static void options_drop(struct opts *opts)
{
    json_decref(opts_take_any(opts, "data-file"));
    json_decref(opts_take_any(opts, "backing"));
}

int cow_co_open_finished(struct overlay *o, struct opts *opts, GError **err)
{
    GError *why = NULL;
    int ret = format_co_check(o, &why);

    if (ret < 0) {
        g_propagate_error(err, why);
        return ret;
    }
    options_drop(opts);
    o->complete = o->finished = true;
    o->cluster_bits = o->hdr.cluster_bits = COW_CLUSTER_BITS_DEFAULT;
    o->hdr.size = o->node->size = cow_file(o)->size;
    return 0;
}
