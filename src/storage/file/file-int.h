/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private to the file and host_device drivers: file.c opens, closes and
 * answers for the node, file-io.c does its I/O.
 *
 * A node has one open description (io), used by all its requests, and keeps
 * what the file looked like when it was opened (S6: a base that changes under
 * an overlay must be noticed).
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include "base/annot.h"
#include "base/iov.h"
#include "graph/map.h"
#include "storage/file/file-holes.h"
#include "storage/file/file-lock.h"

struct extent;
struct io_file;
struct node;

/* What options say; replaced as a whole by a reopen. */
struct file_options {
    char *path;
    enum file_locking locking;
    bool direct, no_flush; /* cache.* */
};

/* What a reopen has replaced, until it is final. */
struct file_before {
    struct file_options opt;
    struct io_file *io; /* NULL: the description stays */
    bool writable;
    uint32_t alignment;
};

struct file_state {
    struct file_options opt;
    struct file_before *before; /* NULL: no reopen is under way */
    struct io_file *io;
    bool writable; /* how @io is open */
    bool is_block;
    uint32_t alignment; /* of direct I/O; 1 if none */
    struct stat identity;
    struct file_lock lock;
    struct file_holes holes;
    bool no_zero_range, no_punch, no_blk_zero, no_blk_discard;
    bool shared, no_share; /* has taken over extents; cannot */
    bool unlinked;         /* has no name any more */
};

/* file-name.c */
CO_FN int file_name_co_rename(struct node *n, const char *path, GError **err);
CO_FN int file_name_co_unlink(struct node *n, GError **err);

CO_FN int file_io_co_preadv(struct node *n, uint64_t off, struct iov iov,
                            unsigned flags);
CO_FN int file_io_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                             unsigned flags);
CO_FN int file_io_co_copy_in(struct node *n, uint64_t off, struct node *src,
                             uint64_t src_off, uint64_t len, unsigned flags);
bool file_io_can_copy_in(struct node *n, struct node *src);
CO_FN int file_io_co_zero(struct node *n, uint64_t off, uint64_t len,
                          unsigned flags);
CO_FN int file_io_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int file_io_co_flush(struct node *n);
CO_FN int file_io_co_map(struct node *n, uint64_t off, uint64_t len,
                         unsigned flags, struct mapping *ret_map);
CO_FN int file_io_co_truncate(struct node *n, uint64_t size, GError **err);
CO_FN int file_io_co_refresh_size(struct node *n);
