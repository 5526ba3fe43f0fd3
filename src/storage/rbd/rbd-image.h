/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An RBD image: the connection to its cluster, its pool, and itself.
 *
 * All functions block until the cluster has answered and touch nothing of a
 * loop: they are for rbd_co_call().
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include "storage/rbd/rbd-lib.h"
#include "wire/rbd-name.h"

/* Where it is and who we are. */
struct rbd_target {
    struct rbd_name name;
    GBytes *key;   /* of the user; NULL: as configured */
    char *auth;    /* auth_client_required; NULL: as configured */
    bool no_cache; /* of librbd */
};

void rbd_target_clear(struct rbd_target *t);
/* A copy that another thread may keep. */
struct rbd_target *rbd_target_copy(const struct rbd_target *t);
void rbd_target_free(struct rbd_target *t);

/* What tells an image from all others, and its states that were written. */
struct rbd_version {
    char id[64];
    uint64_t size, snap_id;   /* 0: no snapshot */
    struct timespec modified; /* about: Ceph writes it down once a minute */
};

struct rbd_image {
    int refs; /* atomic */
    const struct rbd_lib *lib;
    rados_t cluster;
    rados_ioctx_t pool;
    rbd_image_t image;    /* NULL: only the pool is open */
    char osd_timeout[32]; /* as configured */
    char fsid[64];
    int64_t pool_id;
    struct rbd_version version; /* when it was opened */
    uint64_t features, object_size;
    bool has_parent, is_striped;
    bool has_lock; /* by rbd_image_lock() */
};

/* The pool of @t alone; everything that needs the cluster ends within
 * @timeout_s. NULL with a text that says which part of @t was wrong, and never
 * the key. */
struct rbd_image *rbd_image_connect(const struct rbd_target *t,
                                    unsigned timeout_s, GError **err);
/* ... and the image. */
struct rbd_image *rbd_image_open(const struct rbd_target *t, bool writable,
                                 unsigned timeout_s, GError **err);
/* Every thread that uses it has a reference.  The last one closes it, and waits
 * for what is under way. */
struct rbd_image *rbd_image_ref(struct rbd_image *im);
void rbd_image_unref(struct rbd_image *im);
/* Take the exclusive lock, where the image has such; others cannot have it
 * until rbd_image_unlock(). -EAGAIN: somebody has it. */
int rbd_image_lock(struct rbd_image *im, GError **err);
void rbd_image_unlock(struct rbd_image *im);
/* Does @name still lead to what was opened? -ESTALE with a text. */
int rbd_image_check(struct rbd_image *im, const struct rbd_name *name,
                    GError **err);
/* Make the image that @t names, of no length; or remove it, which nobody has
 * open. */
int rbd_image_create(const struct rbd_target *t, unsigned timeout_s,
                     GError **err);
int rbd_image_remove(const struct rbd_target *t, unsigned timeout_s,
                     GError **err);
