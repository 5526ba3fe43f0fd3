/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * librbd and librados, loaded when the first image is opened: they are large,
 * and most who run these programs have no Ceph.
 */
#pragma once
#include <glib.h>
#include <rados/librados.h>
#include <rbd/librbd.h>

/* What is used of them. */
#define RBD_LIB_FUNCTIONS(F) \
    F(rados_create) \
    F(rados_conf_read_file) \
    F(rados_conf_set) \
    F(rados_conf_get) \
    F(rados_connect) \
    F(rados_shutdown) \
    F(rados_cluster_fsid) \
    F(rados_ioctx_create) \
    F(rados_ioctx_destroy) \
    F(rados_ioctx_get_id) \
    F(rados_ioctx_set_namespace) \
    F(rbd_open) \
    F(rbd_open_read_only) \
    F(rbd_close) \
    F(rbd_create) \
    F(rbd_remove) \
    F(rbd_stat) \
    F(rbd_get_size) \
    F(rbd_get_id) \
    F(rbd_get_features) \
    F(rbd_get_flags) \
    F(rbd_get_overlap) \
    F(rbd_get_stripe_count) \
    F(rbd_get_modify_timestamp) \
    F(rbd_snap_get_id) \
    F(rbd_resize2) \
    F(rbd_lock_acquire) \
    F(rbd_lock_release) \
    F(rbd_lock_get_owners) \
    F(rbd_lock_get_owners_cleanup) \
    F(rbd_is_exclusive_lock_owner) \
    F(rbd_watchers_list) \
    F(rbd_watchers_list_cleanup) \
    F(rbd_diff_iterate2) \
    F(rbd_read) \
    F(rbd_aio_create_completion) \
    F(rbd_aio_get_return_value) \
    F(rbd_aio_release) \
    F(rbd_aio_read) \
    F(rbd_aio_write) \
    F(rbd_aio_discard) \
    F(rbd_aio_write_zeroes) \
    F(rbd_aio_flush)

#define RBD_LIB_MEMBER(name) typeof(&name) name;
struct rbd_lib {
    RBD_LIB_FUNCTIONS(RBD_LIB_MEMBER)
};

/* They stay loaded. 0; -ENOENT with a text: not installed. Any thread;
 * blocks. */
int rbd_lib_load(const struct rbd_lib **ret, GError **err);
