/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The data file and its names.
 *
 * The header, which anybody may have written, gives a plain name; the file is
 * looked for in the folder of the sidecar and nowhere else, and must be there
 * itself, not behind a link.  While POPULATING it is called NAME.partial, so that
 * nobody takes it for a disk (W6).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "format/cow/overlay.h"
#include "format/trace.h"
#include "graph/image.h"
#include "loop/io.h"

/* The folder where the file under @n is; owned. */
static CO_FN int folder_co_find(struct node *n, char **ret_dir, GError **err)
{
    struct node *storage = node_storage(n);
    g_autofree char *path = NULL;
    int ret;

    if (!storage || !storage->drv->co_real_path) {
        err_set(err, EINVAL,
                "The overlay '%s' is not in a folder, so its data "
                "file cannot be found",
                node_title(n));
        err_hint(err, "Name its node: data-file=NODE-NAME.");
        return -EINVAL;
    }
    ret = storage->drv->co_real_path(storage, &path);
    if (ret == -ENOTSUP) {
        path = g_strdup(storage->filename);
        ret = 0;
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not find out where '%s' is",
                             storage->filename);
    }
    *ret_dir = g_path_get_dirname(path);
    return 0;
}

/* --- open --- */

/* A complete overlay's file has its name already, or not yet. */
static CO_FN char *data_co_path(const struct overlay *o, const char *dir)
{
    g_autofree char *partial = g_strconcat(o->hdr.data_name, COW_PARTIAL, NULL);
    char *path = g_build_filename(dir, partial, NULL);
    struct stat st;

    if (!o->complete ||
        (io_co_stat(path, &st) == 0 && (!(o->hdr.known & COW_KNOWS_DATA) ||
                                        st.st_ino == o->hdr.data_inode))) {
        return path;
    }
    g_free(path);
    return g_build_filename(dir, o->hdr.data_name, NULL);
}

/* Options for the data file; what the sidecar's "file" was given for the way it
 * is accessed goes for it, too. */
static json_t *data_options(const struct overlay *o, const char *path)
{
    static const char *const same[] = { "locking", "aio", "cache", "discard" };
    json_t *from = json_object_get(o->node->options, "file");
    json_t *file = json_pack("{s:s,s:s}", "driver", "file", "filename", path);
    json_t *data;

    for (unsigned i = 0; file && i < G_N_ELEMENTS(same); i++) {
        json_t *v = json_object_get(from, same[i]);

        if (v) {
            json_object_set(file, same[i], v);
        }
    }
    data = file ? json_pack("{s:{s:s,s:o}}", "data-file", "driver",
                            o->hdr.data_format, "file", file)
                : NULL;
    if (data && !g_str_equal(o->hdr.data_format, "raw")) {
        json_object_set_new(json_object_get(data, "data-file"), "backing",
                            json_null());
    }
    return data;
}

static int cow_format_check(const struct overlay *o, GError **err)
{
    const struct node_driver *drv = graph_find_driver(o->node->graph,
                                                      o->hdr.data_format);

    return drv && drv->kind == NODE_FORMAT && drv != o->node->drv
               ? 0
               : err_set(err, EINVAL,
                         "The data file of '%s' has format '%s', which "
                         "cannot be used",
                         node_title(o->node), o->hdr.data_format);
}

/* What was opened by its name must be there itself. */
static CO_FN int cow_place_co_check(struct overlay *o, const char *path,
                                    GError **err)
{
    struct node *storage = node_storage(cow_data(o));
    g_autofree char *real = NULL;
    int ret = storage->drv->co_real_path(storage, &real);

    if (ret == -ENOTSUP) {
        return 0;
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not find out where '%s' is",
                             path);
    }
    return g_str_equal(real, path)
               ? 0
               : err_set(err, EPERM,
                         "Data file '%s' is refused: it is a link to '%s'",
                         path, real);
}

static CO_FN int named_co_open(struct overlay *o, GError **err)
{
    g_autofree char *dir = NULL, *path = NULL;
    struct edge *e = NULL;
    struct opts *opts;
    json_t *options;
    int ret = folder_co_find(o->node, &dir, err);

    if (ret == 0) {
        ret = cow_format_check(o, err);
    }
    if (ret < 0) {
        return ret;
    }
    path = data_co_path(o, dir);
    ret = node_co_check_beside(o->node, path, err);
    if (ret < 0) {
        return ret;
    }
    options = data_options(o, path);
    opts = opts_new(options);
    ret = options ? node_co_open_child(o->node, opts, "data-file", &e, err)
                  : err_set(err, EINVAL,
                            "The name of the folder '%s' is not "
                            "valid UTF-8",
                            dir);
    opts_free(opts);
    json_decref(options);
    if (ret < 0) {
        err_prefix(err, "Data file of '%s'",
                   o->node->filename ? o->node->filename : o->node->name);
        return ret;
    }
    return cow_place_co_check(o, path, err);
}

int cow_co_data_open(struct overlay *o, struct opts *opts, GError **err)
{
    struct edge *e = NULL;
    int ret = node_co_open_child(o->node, opts, "data-file", &e, err);

    return ret < 0 || e ? ret : named_co_open(o, err);
}

int cow_co_data_check(struct overlay *o, GError **err)
{
    struct node *data = cow_data(o), *storage = node_storage(data);
    const char *name = storage && storage->filename ? storage->filename
                                                    : data->name;
    struct stat st;

    if (!o->finished && data->size < o->hdr.size) {
        return err_set(err, EINVAL,
                       "Data file '%s' has %" PRIu64 " bytes, the "
                       "disk has %" PRIu64,
                       name, data->size, o->hdr.size);
    }
    if ((o->hdr.known & COW_KNOWS_DATA) && node_co_stat(data, &st) == 0 &&
        S_ISREG(st.st_mode) && st.st_ino != o->hdr.data_inode) {
        err_set(err, EINVAL,
                "'%s' is not the file that '%s' was made with "
                "(inode %" PRIu64 " instead of %" PRIu64 ")",
                name, node_title(o->node), (uint64_t)st.st_ino,
                o->hdr.data_inode);
        err_hint(err, "If both files were copied or restored together, "
                      "'sluice check -r all' takes it for its own.");
        return -EINVAL;
    }
    return 0;
}

/* --- create --- */

static CO_FN int name_co_check_free(const char *path, GError **err)
{
    struct stat st;
    int ret = io_co_stat(path, &st);

    if (ret == 0) {
        err_set(err, EEXIST, "'%s' exists already", path);
        err_hint(err, "It would be overwritten by the finished disk: move it "
                      "away, or choose another data_file.");
        return -EEXIST;
    }
    return ret == -ENOENT
               ? 0
               : err_set_errno(err, -ret, "Could not look at '%s'", path);
}

/* Is @partial the data file of the overlay, not complete, in @sidecar? */
static CO_FN bool data_co_is_its(struct node *sidecar, const char *partial)
{
    g_autofree char *base = g_path_get_basename(partial);
    g_autofree char *name = NULL;
    struct cow_header old;
    struct stat st;

    if (sidecar->size == 0 || cow_co_slots_read(sidecar, &old) < 0 ||
        old.state != COW_POPULATING || !(old.known & COW_KNOWS_DATA)) {
        return false;
    }
    name = g_strconcat(old.data_name, COW_PARTIAL, NULL);
    return g_str_equal(name, base) && io_co_stat(partial, &st) == 0 &&
           st.st_ino == old.data_inode;
}

/* An overlay is about to be created in place of another one: the sidecar of
 * that one is emptied, then its data file is removed. */
static CO_FN int old_co_remove(struct node *sidecar, const char *partial,
                               GError **err)
{
    int ret;

    if (!data_co_is_its(sidecar, partial)) {
        return 0;
    }
    ret = node_co_truncate(sidecar, 0, err);
    if (ret < 0) {
        return ret;
    }
    ret = BARRIER(OVERLAY_CREATE, node_co_flush(sidecar));
    if (ret == 0) {
        ret = io_co_unlink(partial);
    }
    return ret == 0
               ? 0
               : err_set_errno(err, -ret, "Could not remove '%s'", partial);
}

static CO_FN int storage_co_fill(struct new_storage *s,
                                 const struct node_driver *drv, uint64_t size,
                                 uint64_t *ret_inode, GError **err)
{
    json_t *options = json_pack("{s:I}", "size", (json_int_t)size);
    struct opts *opts = opts_new(options);
    struct stat st;
    int ret = drv->co_create(s->node, opts, err);

    opts_free(opts);
    json_decref(options);
    if (ret == 0) {
        ret = new_storage_co_sync(s, err);
    }
    if (ret == 0) {
        ret = node_co_stat(s->node, &st);
        if (ret < 0) {
            err_set_errno(err, -ret, "Could not look at '%s'", s->path);
        } else {
            *ret_inode = st.st_ino;
        }
    }
    return ret;
}

void cow_co_uncreate(struct node *sidecar)
{
    g_autofree char *dir = NULL, *partial = NULL, *path = NULL;
    struct cow_header h;

    if (cow_co_slots_read(sidecar, &h) == 0 &&
        folder_co_find(sidecar, &dir, NULL) == 0) {
        partial = g_strconcat(h.data_name, COW_PARTIAL, NULL);
        path = g_build_filename(dir, partial, NULL);
        if (data_co_is_its(sidecar, path)) {
            io_co_unlink(path);
        }
    }
}

int cow_co_data_create(struct node *sidecar, const struct cow_header *h,
                       uint64_t *ret_inode, char **ret_path, GError **err)
{
    const struct node_driver *drv = graph_find_driver(sidecar->graph,
                                                      h->data_format);
    g_autofree char *dir = NULL, *path = NULL, *partial = NULL;
    struct new_storage s;
    int ret = folder_co_find(sidecar, &dir, err);

    if (ret < 0) {
        return ret;
    }
    if (!drv || drv->kind != NODE_FORMAT || !drv->co_create ||
        g_str_equal(drv->name, "cow")) {
        return err_set(err, EINVAL, "Data format '%s' cannot be used",
                       h->data_format);
    }
    path = g_build_filename(dir, h->data_name, NULL);
    partial = g_strconcat(path, COW_PARTIAL, NULL);
    ret = name_co_check_free(path, err);
    if (ret == 0) {
        ret = old_co_remove(sidecar, partial, err);
    }
    if (ret == 0) {
        ret = name_co_check_free(partial, err);
    }
    if (ret == 0) {
        ret = new_storage_co_open(sidecar->graph, partial, &s, err);
    }
    if (ret < 0) {
        return ret;
    }
    ret = s.made ? storage_co_fill(&s, drv, h->size, ret_inode, err)
                 : err_set(err, EEXIST, "'%s' exists already", partial);
    new_storage_co_close(&s, ret == 0);
    if (ret == 0) {
        *ret_path = g_steal_pointer(&partial);
    }
    return ret;
}

/* --- the end --- */

/* The name without COW_PARTIAL; owned. NULL: it has another one. */
static char *final_path(const struct overlay *o)
{
    struct node *storage = node_storage(cow_data(o));
    const char *path = storage ? storage->filename : NULL;

    return path && g_str_has_suffix(path, COW_PARTIAL)
               ? g_strndup(path, strlen(path) - strlen(COW_PARTIAL))
               : NULL;
}

int cow_co_name_is_free(struct overlay *o, GError **err)
{
    g_autofree char *path = final_path(o);

    return path ? name_co_check_free(path, err) : 0;
}

int cow_co_finish(struct overlay *o, GError **err)
{
    struct node *storage = node_storage(cow_data(o));
    g_autofree char *path = final_path(o);
    int ret = 0;

    if (o->finished) {
        return 0;
    }
    if (!path && storage && storage->drv->co_rename) {
        path = g_strdup(storage->filename); /* has it; make that durable */
    }
    if (path) {
        ret = node_co_rename(cow_data(o), path, err);
    }
    if (ret == 0) {
        ret = node_co_unlink(o->node, err);
    }
    o->finished = ret == 0;
    cow_describe(o->node);
    trace_overlay_finish(o->node->name, path, ret);
    return ret;
}
