/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images as files: make one, check one, describe one, rewrite its header.
 * All in a coroutine on the graph's loop; all yield.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/driver.h"

struct graph;
struct node;

/* Make image @filename of format @drv; @options is what its co_create() takes
 * and is checked in full.  @filename may be a device or an address: then the
 * image goes into what is there.  An existing file is emptied, unless somebody
 * uses it.  Durable on success, its directory entry included (N4); on failure a
 * file that was made here is removed again. */
CO_FN int image_co_create(struct graph *g, const struct node_driver *drv,
                          const char *filename, const json_t *options,
                          GError **err);

/* node_co_probe() of storage that is opened for it, read-only, with options
 * @storage and @flags; or of that of an image, whose options (without "driver")
 * are @options: "file" or "filename". */
CO_FN int storage_co_probe(struct graph *g, const json_t *storage,
                           unsigned flags, const char *say_raw,
                           const struct node_driver **ret_drv, GError **err);
CO_FN int image_co_probe(struct graph *g, const json_t *options,
                         unsigned flags, const char *say_raw,
                         const struct node_driver **ret_drv, GError **err);

/* New storage, for an image or for data that one keeps elsewhere: open it, which
 * makes the file if there is none and locks it as a writer does who shares with
 * nobody; empty the file there is; write to it; make it durable with its
 * directory entry; close. */
struct new_storage {
    struct node *node;      /* writable */
    struct backend *backend;
    char *path;             /* of a file; NULL: other storage, which stays as
                             * long as it is */
    bool made;              /* there was no file */
};
/* @filename may be a device or an address. After 0 close it. */
CO_FN int new_storage_co_open(struct graph *g, const char *filename,
                              struct new_storage *s, GError **err);
CO_FN int new_storage_co_empty(struct new_storage *s, GError **err);
CO_FN int new_storage_co_sync(struct new_storage *s, GError **err);
/* Not to @keep: a file that was made is removed again. */
CO_FN void new_storage_co_close(struct new_storage *s, bool keep);

/* node_driver.co_check of @n, with requests held off when it is to fix.
 * -ENOTSUP when the format has none. */
CO_FN int node_co_check(struct node *n, unsigned fix, struct check_result *res,
                        GError **err);

/* node_driver.co_info of @n: format-specific members into *@info. */
CO_FN int node_co_info(struct node *n, json_t *info, GError **err);

/* Is the storage under @n, where it is read-only, still what was opened (S6)?
 * -ESTALE with a text that says what changed. */
CO_FN int node_co_check_identity(struct node *n, GError **err);

/* node_driver.co_forget_base of @n, where it has one. */
CO_FN int node_co_forget_base(struct node *n, GError **err);

/* node_driver.co_stat, co_rename, co_unlink of the storage under @n; -ENOTSUP
 * when it is no file, or there is none. */
CO_FN int node_co_stat(struct node *n, struct stat *ret_st);
CO_FN int node_co_rename(struct node *n, const char *path, GError **err);
CO_FN int node_co_unlink(struct node *n, GError **err);

/* node_driver.co_make_empty of @n; -ENOTSUP when the format has none. */
CO_FN int node_co_make_empty(struct node *n, GError **err);

/* Flush @n, then node_driver.co_change_backing; -ENOTSUP when the format has
 * none. */
CO_FN int node_co_change_backing(struct node *n, const char *name,
                                 const char *fmt, GError **err);

/* node_driver.co_snapshot and co_bitmap of @n, with requests to @n held off.
 * -ENOTSUP when the format has none; -EACCES on a read-only node; -ENOENT. */
CO_FN int node_co_snapshot(struct node *n, enum snapshot_op op,
                           const char *name, GError **err);
CO_FN int node_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                         const struct bitmap_args *args, GError **err);
