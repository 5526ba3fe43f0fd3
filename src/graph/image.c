/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as files.  Creation goes: make the file, lock it as any writer does,
 * only then empty it, write the format, make file and directory entry durable.
 * So an image that somebody uses is refused before a byte of it is lost.
 */
#include "graph/image.h"

#include <fcntl.h>
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "graph/driver.h"
#include "graph/graph-int.h"
#include "graph/io.h"
#include "loop/io.h"

CO_FN int node_co_check(struct node *n, unsigned fix, struct check_result *res,
                        GError **err)
{
    if (!n->drv->co_check) {
        return err_set(err, ENOTSUP,
                       "This image format does not support checks");
    }
    int ret;

    if (!fix) {
        return n->drv->co_check(n, 0, res, err);
    }
    /* What is being allocated looks like a leak. */
    node_co_drain_begin(n);
    ret = n->drv->co_check(n, fix, res, err);
    node_drain_end(n);
    return ret;
}

CO_FN int node_co_info(struct node *n, json_t *info, GError **err)
{
    return n->drv->co_info ? n->drv->co_info(n, info, err) : 0;
}

CO_FN int node_co_snapshot(struct node *n, enum snapshot_op op,
                           const char *name, GError **err)
{
    uint64_t size;
    int r;

    if (!n->drv->co_snapshot) {
        return err_set(err, ENOTSUP, "Image format driver '%s' does not "
                       "support internal snapshots", n->drv->name);
    }
    if (op != SNAPSHOT_LOAD && !node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    node_co_drain_begin(n);
    size = n->size;
    r = n->drv->co_snapshot(n, op, name, err);
    n->priv->write_gen++;
    if (n->size != size) {
        node_notify_changed(n);
    }
    node_drain_end(n);
    return r;
}

CO_FN int node_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                         const struct bitmap_args *args, GError **err)
{
    int r;

    if (!n->drv->co_bitmap) {
        return err_set(err, ENOTSUP, "Image format driver '%s' does not "
                       "support persistent dirty bitmaps", n->drv->name);
    }
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    node_co_drain_begin(n);
    r = n->drv->co_bitmap(n, op, name, args, err);
    node_drain_end(n);
    return r;
}

CO_FN int node_co_check_identity(struct node *n, GError **err)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->co_check_identity
        ? storage->drv->co_check_identity(storage, err) : 0;
}

CO_FN int node_co_change_backing(struct node *n, const char *name,
                                 const char *fmt, GError **err)
{
    if (!n->drv->co_change_backing) {
        return err_set(err, ENOTSUP, "Image format driver '%s' does not "
                       "support changing the backing file", n->drv->name);
    }
    /* What the new reference does without must be here, durably. */
    int ret = BARRIER(PIVOT_DATA, node_co_flush(n));

    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not make the data of '%s' "
                             "durable", n->name);
    }
    return n->drv->co_change_backing(n, name, fmt, err);
}

CO_FN int node_co_make_empty(struct node *n, GError **err)
{
    if (!n->drv->co_make_empty) {
        return err_set(err, ENOTSUP, "Image format driver '%s' does not "
                       "support emptying an image", n->drv->name);
    }
    return n->drv->co_make_empty(n, err);
}

/* Make @path if it is not there. *@ret_made tells whether it was not. */
static CO_FN int make_co_file(const char *path, bool *ret_made, GError **err)
{
    struct io_file *f;
    int r = io_co_open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0644, &f);

    *ret_made = r == 0;
    if (r == -EEXIST) {
        return 0;
    }
    if (r < 0) {
        return err_set_errno(err, -r, "Could not create '%s'", path);
    }
    io_co_close(f);
    return 0;
}

/* Empty the file under @node, as a writer that shares with nobody. Storage
 * that is no file (@path NULL) stays as long as it is. */
static CO_FN int fill_co_image(struct node *file, const struct node_driver *drv,
                               const json_t *options, const char *path,
                               GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(options);
    struct user *user;
    int r = user_co_new(file, "image creation",
                        PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE, 0,
                        NULL, NULL, &user, err);

    if (r < 0) {
        return r;
    }
    r = path && file->size > 0 ? node_co_truncate(file, 0, err) : 0;
    if (r == 0) {
        r = drv->co_create(file, o, err);
    }
    if (r == 0) {
        r = opts_finish(o, err);
    }
    if (r == 0) {
        r = BARRIER(CREATE_HEADER, node_co_flush(file));
        if (r < 0) {
            err_set_errno(err, -r, "Could not flush '%s'", file->filename);
        }
    }
    user_co_free(user);
    return r;
}

/* The file for a new image, its directory entry made if need be; or what is
 * there already: a device, the storage behind an address. *@ret_path: of the
 * file, owned; NULL for other storage. */
static CO_FN int open_co_storage(struct graph *g, const char *filename,
                                 struct node **ret_file, char **ret_path,
                                 bool *ret_made, GError **err)
{
    json_t *options = NULL;
    int r = backing_co_parse_address(g, filename, &options, err);

    *ret_path = NULL;
    *ret_made = false;
    if (r < 0) {
        return r;
    }
    if (strcmp(json_string_value(json_object_get(options, "driver")),
               "file") == 0) {
        *ret_path = g_strdup(json_string_value(
            json_object_get(options, "filename")));
        r = make_co_file(*ret_path, ret_made, err);
    }
    if (r == 0) {
        r = node_co_open(g, options, NODE_RDWR, ret_file, err);
    }
    json_decref(options);
    return r;
}

CO_FN int image_co_create(struct graph *g, const struct node_driver *drv,
                          const char *filename, const json_t *options,
                          GError **err)
{
    g_autofree char *path = NULL;
    struct node *file;
    bool made;
    int r = open_co_storage(g, filename, &file, &path, &made, err);

    if (r == 0) {
        r = fill_co_image(file, drv, options, path, err);
        node_co_unref(file);
    }
    if (r == 0 && path) {
        r = BARRIER(CREATE_NAME, io_co_fsync_parent(path));
        if (r < 0) {
            err_set_errno(err, -r, "Could not make the directory entry of "
                          "'%s' durable", path);
        }
    }
    if (r < 0 && made) {
        io_co_unlink(path);
    }
    return r;
}
