/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as files.  Creation goes: make the file, lock it as any writer does,
 * only then empty it, write the format, make file and directory entry durable.
 * So an image that somebody uses is refused before a byte of it is lost.
 */

#include "graph/model/chain-map.h"
#include "graph/image.h"
#include <fcntl.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/model/early.h"
#include "graph/model/model.h"
#include "graph/open/open.h"
#include "graph/reference.h"
#include "loop/io.h"

/* Whoever changes the image as a whole does so alone, and without requests. */
static CO_FN void change_co_begin(struct node *n)
{
    node_ref(n);
    co_mutex_co_lock(&n->priv->changing);
    node_co_drain_begin(n);
}

static CO_FN void change_co_end(struct node *n)
{
    node_drain_end(n);
    co_mutex_unlock(&n->priv->changing);
    node_co_unref(n);
}

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
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    /* What is being allocated looks like a leak. */
    change_co_begin(n);
    ret = n->drv->co_check(n, fix, res, err);
    chain_maps_drop(n);
    change_co_end(n);
    return ret;
}

CO_FN int node_co_info(struct node *n, json_t *info, GError **err)
{
    return n->drv->co_info ? n->drv->co_info(n, info, err) : 0;
}

CO_FN_LOOKS const struct create_option *
driver_amend_options(const struct node_driver *drv)
{
    return drv->co_amend ? drv->amend_options : NULL;
}

static CO_FN int amend_co_kind(struct node *n, struct opts *o, GError **err)
{
    int r;

    change_co_begin(n);
    r = early_co_settle_all(n); /* the size of a cluster may change */
    r = r < 0 ? err_set_errno(err, -r, "Could not flush node '%s'", n->name)
              : n->drv->co_amend(n, o, err);
    node_refresh_limits(n);
    change_co_end(n);
    return r;
}

CO_FN int node_co_amend(struct node *n, const json_t *options, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = NULL;
    uint64_t size = n->size;
    int r;

    if (!n->drv->co_amend) {
        return err_set(err, ENOTSUP,
                       "Format driver '%s' does not support option amendment",
                       n->drv->name);
    }
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    o = opts_new(options);
    r = opts_take_size(o, "size", &size, err);
    if (r >= 0 && size < n->size) {
        err_set(err, EINVAL,
                "The size of an image can only be amended to grow");
        err_hint(err, "'sluice resize --shrink' cuts data off.");
        r = -EINVAL;
    }
    if (r >= 0) {
        r = amend_co_kind(n, o, err);
    }
    return r == 0 && size != n->size ? node_co_resize(n, "amend", size, err)
                                     : MIN(r, 0);
}

CO_FN int node_co_snapshot(struct node *n, enum snapshot_op op,
                           const char *name, GError **err)
{
    uint64_t size;
    int r;

    if (!n->drv->co_snapshot) {
        return err_set(err, ENOTSUP,
                       "Image format driver '%s' does not "
                       "support internal snapshots",
                       n->drv->name);
    }
    if (op != SNAPSHOT_LOAD && !node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    change_co_begin(n);
    size = n->size;
    r = early_co_settle_all(n);
    r = r < 0 ? err_set_errno(err, -r, "Could not flush node '%s'", n->name)
              : n->drv->co_snapshot(n, op, name, err);
    n->priv->write_gen++;
    chain_maps_drop(n);
    if (n->size != size) {
        node_notify_changed(n);
    }
    change_co_end(n);
    return r;
}

/* Alone like those that change the image, but beside requests. */
static CO_FN void beside_requests_co_do(struct node *n,
                                        void (*co_fn)(struct node *n))
{
    if (co_fn && node_is_writable(n)) {
        node_ref(n);
        co_mutex_co_lock(&n->priv->changing);
        co_fn(n);
        co_mutex_unlock(&n->priv->changing);
        node_co_unref(n);
    }
}

CO_FN void node_co_snapshot_prepare(struct node *n)
{
    beside_requests_co_do(n, n->drv->co_snapshot_prepare);
}

CO_FN void node_co_snapshot_tidy(struct node *n)
{
    beside_requests_co_do(n, n->drv->co_snapshot_tidy);
}

CO_FN int node_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                         const struct bitmap_args *args, GError **err)
{
    int r;

    if (!n->drv->co_bitmap) {
        return err_set(err, ENOTSUP,
                       "Image format driver '%s' does not "
                       "support persistent dirty bitmaps",
                       n->drv->name);
    }
    if (!node_is_writable(n)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    change_co_begin(n);
    r = n->drv->co_bitmap(n, op, name, args, err);
    change_co_end(n);
    return r;
}

CO_FN int node_co_check_identity(struct node *n, GError **err)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->co_check_identity
               ? storage->drv->co_check_identity(storage, err)
               : 0;
}

CO_FN int node_co_forget_base(struct node *n, GError **err)
{
    bool writable = node_is_writable(n);
    int ret = 0;

    if (!n->drv->co_forget_base) {
        return 0;
    }
    if (!writable) {
        ret = node_co_take_for_writing(n, err);
    }
    if (ret == 0) {
        ret = n->drv->co_forget_base(n, err);
    }
    if (!writable && node_is_writable(n)) {
        (void)node_co_set_read_only(n, true, NULL);
    }
    return ret;
}

CO_FN int node_co_stat(struct node *n, struct stat *ret_st)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->co_stat
               ? storage->drv->co_stat(storage, ret_st)
               : -ENOTSUP;
}

CO_FN int node_co_rename(struct node *n, const char *path, GError **err)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->co_rename
               ? storage->drv->co_rename(storage, path, err)
               : err_set(err, ENOTSUP, "'%s' is no file that could be renamed",
                         node_title(n));
}

CO_FN int node_co_unlink(struct node *n, GError **err)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->co_unlink
               ? storage->drv->co_unlink(storage, err)
               : err_set(err, ENOTSUP, "'%s' is no file that could be removed",
                         node_title(n));
}

CO_FN int node_co_change_backing(struct node *n, const char *name,
                                 const char *fmt, GError **err)
{
    if (!n->drv->co_change_backing) {
        return err_set(err, ENOTSUP,
                       "Image format driver '%s' does not "
                       "support changing the backing file",
                       n->drv->name);
    }
    int ret = name ? reference_co_check(n, name, fmt, NULL, err) : 0;

    if (ret < 0) {
        return ret;
    }
    /* What the new reference does without must be here, durably. */
    ret = BARRIER(PIVOT_DATA, node_co_flush(n));
    if (ret < 0) {
        return err_set_errno(err, -ret,
                             "Could not make the data of '%s' "
                             "durable",
                             node_title(n));
    }
    return n->drv->co_change_backing(n, name, fmt, err);
}

CO_FN int node_co_make_empty(struct node *n, GError **err)
{
    if (!n->drv->co_make_empty) {
        return err_set(err, ENOTSUP,
                       "Image format driver '%s' does not "
                       "support emptying an image",
                       n->drv->name);
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

/* The file for a new image, its directory entry made if need be, or what a
 * driver makes of an address; else what is there already: a device, the storage
 * behind an address. */
static CO_FN int open_co_storage(struct graph *g, const char *filename,
                                 struct new_storage *s, GError **err)
{
    const struct node_driver *drv;
    json_t *options = NULL;
    int r = backing_co_parse_address(g, filename, &options, err);

    if (r < 0) {
        return r;
    }
    drv = graph_find_driver(
        g, json_string_value(json_object_get(options, "driver")));
    if (strcmp(drv->name, "file") == 0) {
        s->path = g_strdup(
            json_string_value(json_object_get(options, "filename")));
        r = make_co_file(s->path, &s->made, err);
    } else if (drv->co_make) {
        r = drv->co_make(filename, err);
        s->unmake = r == 0 ? drv->co_unmake : NULL;
        s->address = g_strdup(filename);
    }
    if (r == 0) {
        r = node_co_open(g, options, NODE_RDWR, &s->node, err);
    }
    json_decref(options);
    return r;
}

static CO_FN int take_co_storage(struct new_storage *s, GError **err)
{
    return backend_co_new(s->node, "image creation",
                          PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE, 0,
                          NULL, NULL, &s->backend, err);
}

int new_storage_co_open(struct graph *g, const char *filename,
                        struct new_storage *s, GError **err)
{
    int r;

    *s = (struct new_storage) { 0 };
    r = open_co_storage(g, filename, s, err);
    if (r == 0) {
        r = take_co_storage(s, err);
    }
    if (r < 0) {
        new_storage_co_close(s, false);
    }
    return r;
}

int new_storage_co_empty(struct new_storage *s, GError **err)
{
    return s->path && s->node->size > 0 ? node_co_truncate(s->node, 0, err) : 0;
}

int new_storage_co_sync(struct new_storage *s, GError **err)
{
    int r = BARRIER(CREATE_HEADER, node_co_flush(s->node));

    if (r < 0) {
        return err_set_errno(err, -r, "Could not flush '%s'",
                             s->node->filename);
    }
    r = s->path ? BARRIER(CREATE_NAME, io_co_fsync_parent(s->path)) : 0;
    return r == 0 ? 0
                  : err_set_errno(err, -r,
                                  "Could not make the directory "
                                  "entry of '%s' durable",
                                  s->path);
}

void new_storage_co_close(struct new_storage *s, bool keep)
{
    backend_co_free(s->backend);
    if (s->node) {
        node_co_unref(s->node);
    }
    if (s->made && !keep) {
        io_co_unlink(s->path);
    }
    if (s->unmake && !keep) {
        s->unmake(s->address);
    }
    g_free(s->address);
    g_free(s->path);
    *s = (struct new_storage) { 0 };
}

/* Before anything that is there is lost. The file is made by now: a name that
 * leads to it, by whatever way, is seen. */
static CO_FN int create_co_check_backing(struct node *storage,
                                         const json_t *options, GError **err)
{
    const char *name = json_string_value(
        json_object_get(options, "backing_file"));

    return name && *name
               ? reference_co_check(
                     storage, name,
                     json_string_value(json_object_get(options, "backing_fmt")),
                     NULL, err)
               : 0;
}

const struct create_option *storage_create_options(void)
{
    static const struct create_option options[] = {
        { "nocow", "bool (on/off)",
          "Turn off copy-on-write (valid only on btrfs)" },
        { "extent_size_hint", "size",
          "Extent size hint for the image file, 0 to disable" },
        { NULL, NULL, NULL, NULL },
    };

    return options;
}

/* Hints: a file system that does not know them is as good. */
static CO_FN int create_co_set_attributes(struct node *storage, struct opts *o,
                                          GError **err)
{
    bool nocow = false;
    uint64_t hint = 0;
    int r = opts_take_bool(o, "nocow", &nocow, err);

    if (r >= 0) {
        r = opts_take_size(o, "extent_size_hint", &hint, err);
    }
    if (r >= 0 && hint > UINT32_MAX) {
        r = err_set(err, EINVAL, "Extent size hint is too large");
    }
    if (r < 0 || (!nocow && !hint) || !storage->drv->co_set_attributes) {
        return MIN(r, 0);
    }
    r = storage->drv->co_set_attributes(storage, nocow, (uint32_t)hint);
    if (r < 0 && hint && r != -ENOTSUP && r != -ENOTTY) {
        node_notice(storage, "Failed to set extent size hint: %s",
                    g_strerror(-r));
    }
    return 0;
}

/* Write the format into storage that is open and ours. */
static CO_FN int create_co_write(struct new_storage *s,
                                 const struct node_driver *drv,
                                 const json_t *options, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(options);
    bool made = false;
    int r = create_co_check_backing(s->node, options, err);

    if (r == 0 && !drv->creates_over) {
        r = new_storage_co_empty(s, err);
    }
    if (r == 0) {
        r = create_co_set_attributes(s->node, o, err);
    }
    if (r == 0) {
        r = drv->co_create(s->node, o, err);
        made = r == 0;
    }
    if (r == 0) {
        r = opts_finish(o, err);
    }
    if (r == 0) {
        r = new_storage_co_sync(s, err);
    }
    if (r < 0 && made && drv->co_uncreate) {
        drv->co_uncreate(s->node);
    }
    return r;
}

CO_FN int image_co_create(struct graph *g, const struct node_driver *drv,
                          const char *filename, const json_t *options,
                          GError **err)
{
    struct new_storage s;
    int r = new_storage_co_open(g, filename, &s, err);

    if (r < 0) {
        return r;
    }
    r = create_co_write(&s, drv, options, err);
    new_storage_co_close(&s, r == 0);
    return r;
}

CO_FN int image_co_create_in(struct node *storage,
                             const struct node_driver *drv,
                             const json_t *options, GError **err)
{
    struct stat st;
    struct new_storage s = {
        .node = node_ref(storage),
        .path = node_co_stat(storage, &st) == 0 && S_ISREG(st.st_mode)
                    ? g_strdup(node_storage(storage)->filename)
                    : NULL,
    };
    int r = take_co_storage(&s, err);

    if (r == 0) {
        r = create_co_write(&s, drv, options, err);
    }
    new_storage_co_close(&s, true);
    return r;
}

int node_co_snapshot_gaps(struct node *n, unsigned i, struct snapshot_gaps *g,
                          GError **err)
{
    return n->drv->co_snapshot_gaps ? n->drv->co_snapshot_gaps(n, i, g, err)
                                    : -ENOENT;
}
