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
#include "graph/node.h"

struct dirty_map;
struct opts;
struct stat;

struct check_result {
    uint64_t corruptions, leaks, check_errors;
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters,
        compressed_clusters;
    uint64_t image_end_offset;
    void (*report)(void *arg, const char *line); /* may be NULL */
    void *report_arg;
};
enum check_fix { CHECK_FIX_LEAKS = 1, CHECK_FIX_ERRORS = 2 };

/* Internal snapshots, by id or else by name. LOAD: a read-only node shows that
 * snapshot from now on; nothing is written. */
enum snapshot_op {
    SNAPSHOT_CREATE,
    SNAPSHOT_APPLY,
    SNAPSHOT_DELETE,
    SNAPSHOT_LOAD,
};

/* Dirty bitmaps that live in the image, by name. */
enum bitmap_op {
    BITMAP_ADD,
    BITMAP_REMOVE,
    BITMAP_CLEAR,
    BITMAP_ENABLE,
    BITMAP_DISABLE,
    BITMAP_MERGE,
    BITMAP_COPY,   /* all that are not broken; needs no name */
    BITMAP_ASSIGN, /* becomes @bits */
    BITMAP_READ,   /* also of an image that is read-only */
};
struct bitmap_args {
    uint64_t granularity;         /* ADD: bytes, 0 = default */
    bool disabled;                /* ADD: does not record */
    struct node *from;            /* MERGE, COPY: the node that has it ... */
    const char *from_name;        /* ... and its name */
    const struct dirty_map *bits; /* MERGE without @from, ASSIGN: of the size of
                                   * the disk */
    struct dirty_map **ret_bits;  /* READ: the caller frees it */
};

/* What an image of a format takes, bytes. */
struct image_measure {
    uint64_t size;         /* the disk, in whole clusters */
    uint64_t metadata;     /* what comes to it */
    uint64_t cluster_size; /* unit of allocation; 0: always as large as @size */
    bool all;              /* every cluster is allocated at once */
    bool no_bitmaps;       /* its kind of image cannot have any */
    uint64_t data;         /* of those that a source holds; by the caller */
    /* By the caller: clusters for what is not the disk.  With what counts
     * them, afterwards. */
    uint64_t others;
};

/* What one may say when an image is made, as for "-o help". */
struct create_option {
    const char *name, *type, *help;
    const char *value; /* default that creation announces, or NULL */
};

/* Who is told what a snapshot shows of the backing chain. */
struct snapshot_gaps {
    const char *name; /* of the snapshot; set and kept by the driver */
    /* In order of @off; > 0: that is enough; -errno with a text of its own. */
    CO_FN_PTR int (*co_gap)(struct snapshot_gaps *g, uint64_t off,
                            uint64_t len);
};

/* What image_co_create() takes for @drv, up to one without a name; NULL: no
 * images of it can be made. */
const struct create_option *
driver_create_options(const struct node_driver *drv);
/* The same of the file that an image of any format is made in. */
const struct create_option *storage_create_options(void);
/* Can its images have a backing file? */
bool driver_has_backing(const struct node_driver *drv);
/* Is it no format and no filter, but storage: file, nbd, null-co ...? */
bool driver_is_storage(const struct node_driver *drv);
/* Is it storage that takes no addresses, such as files? */
bool driver_is_file_storage(const struct node_driver *drv);
/* Add to *@err, which says that no driver is called @name, which one was probably
 * meant, or which formats there are. */
void graph_hint_formats(struct graph *g, const char *name, GError **err);
/* How much space an image of @drv would take; @o as for image_co_create().
 * Makes nothing. Only where driver_can_measure(). @ret->others is set before,
 * in bytes. */
bool driver_can_measure(const struct node_driver *drv);
int driver_measure(const struct node_driver *drv, struct opts *o,
                   struct image_measure *ret, GError **err);

/* Make image @filename of format @drv; @options is what its co_create() takes
 * and is checked in full.  @filename may be a device or an address: then the
 * image goes into what is there.  An existing file is emptied, unless somebody
 * uses it.  Durable on success, its directory entry included (N4); on failure a
 * file that was made here is removed again. */
CO_FN int image_co_create(struct graph *g, const struct node_driver *drv,
                          const char *filename, const json_t *options,
                          GError **err);

/* The same in a node that is open: it is emptied, where it is a file, and
 * nobody else may use it meanwhile. Durable on success. */
CO_FN int image_co_create_in(struct node *storage,
                             const struct node_driver *drv,
                             const json_t *options, GError **err);

/* node_co_probe() of storage that is opened for it, read-only, with options
 * @storage and @flags; or of that of an image, whose options (without "driver")
 * are @options: "file" or "filename". */
CO_FN int storage_co_probe(struct graph *g, const json_t *storage,
                           unsigned flags, const char *say_raw,
                           const struct node_driver **ret_drv, GError **err);
CO_FN int image_co_probe(struct graph *g, const json_t *options, unsigned flags,
                         const char *say_raw,
                         const struct node_driver **ret_drv, GError **err);

/* New storage, for an image or for data that one keeps elsewhere: open it,
 * which makes the file if there is none and locks it as a writer does who
 * shares with nobody; empty the file there is; write to it; make it durable
 * with its directory entry; close. */
struct new_storage {
    struct node *node; /* writable */
    struct backend *backend;
    char *path;    /* of a file; NULL: other storage, which stays as
                 * long as it is */
    bool made;     /* there was no file */
    char *address; /* of what a driver has made, and how it is removed */
    CO_FN_PTR void (*unmake)(const char *name);
};
/* @filename may be a device or an address. After 0 close it. */
CO_FN int new_storage_co_open(struct graph *g, const char *filename,
                              struct new_storage *s, GError **err);
CO_FN int new_storage_co_empty(struct new_storage *s, GError **err);
CO_FN int new_storage_co_sync(struct new_storage *s, GError **err);
/* Not to @keep: a file that was made is removed again. */
CO_FN void new_storage_co_close(struct new_storage *s, bool keep);

/* What node_co_amend() takes for @drv, up to one without a name; NULL: its
 * images cannot be amended. */
const struct create_option *driver_amend_options(const struct node_driver *drv);
/* Change what kind of image @n is: node_driver.co_amend with requests held off,
 * then its size. -ENOTSUP when the format has none, -EACCES on a read-only
 * node. */
CO_FN int node_co_amend(struct node *n, const json_t *options, GError **err);

/* node_driver.co_check of @n, with requests held off when it is to fix.
 * -ENOTSUP when the format has none. */
CO_FN int node_co_check(struct node *n, unsigned fix, struct check_result *res,
                        GError **err);

/* node_driver.co_info of @n: format-specific members into *@info. */
CO_FN int node_co_info(struct node *n, json_t *info, GError **err);

/* Is the storage under @n, where it is read-only, still what was opened (S6)?
 * -ESTALE with a text that says what changed. */
CO_FN int node_co_check_identity(struct node *n, GError **err);

/* What tells the disk of @n, read-only, from all others and from any other
 * version of it: what is below it and how it is read. Owned; NULL: nothing tells
 * that for good. */
char *node_version(struct node *n);

/* node_driver.co_forget_base of @n, where it has one; a read-only node becomes
 * writable for it. */
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
/* Before and after SNAPSHOT_CREATE, without a drain: the first lets it be short,
 * the second gives back what it left, or what was prepared in vain. They wait for
 * other changes of the image. No effect on formats that need none. */
CO_FN void node_co_snapshot_prepare(struct node *n);
CO_FN void node_co_snapshot_tidy(struct node *n);
CO_FN int node_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                         const struct bitmap_args *args, GError **err);

/* Tell @g of each run that internal snapshot number @i of @n shows of the
 * backing chain, until it has enough. The result of the last call; 0: all were
 * told; -ENOENT without an error text: there is no snapshot of that number. */
CO_FN int node_co_snapshot_gaps(struct node *n, unsigned i,
                                struct snapshot_gaps *g, GError **err);
