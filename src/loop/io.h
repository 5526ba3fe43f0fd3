/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File access, all of it.  Data, metadata, journal; open, rename, fsync of
 * files and of directories go through the engine of the caller's loop, so that
 * the crash simulator sees every one.  Opening a file any other way is a
 * defect.
 *
 * Every function runs in a coroutine and yields.  Results are 0 or -errno
 * unless stated.  Short transfers are finished here; a read past the end of
 * the file gives zeroes for the rest and counts as success.
 *
 * Paths that begin with /dev/fdset/ name descriptors that were handed to the
 * process: see loop/fdset.h.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include "base/annot.h"
#include "base/iov.h"

struct io_file;

/* Tag of a file's writes in the log of the sim engine; no effect elsewhere. */
enum io_tag { IO_TAG_DATA, IO_TAG_META, IO_TAG_HEADER, IO_TAG_JOURNAL };

/* open(2) flags; O_CLOEXEC is added. O_DIRECT callers align by io_alignment().
 * @ret_file is owned by the caller until io_co_close(). */
CO_FN int io_co_open(const char *path, int flags, mode_t mode,
                     struct io_file **ret_file);
/* Close; NULL is fine. Releases the locks taken through @f. */
CO_FN void io_co_close(struct io_file *f);

CO_FN int io_co_preadv(struct io_file *f, uint64_t off, struct iov iov);
CO_FN int io_co_pwritev(struct io_file *f, uint64_t off, struct iov iov,
                        enum io_tag tag);
/* fdatasync(2). Calls that overlap share one that begins after the last of
 * them came. After one failed every later one on @f fails too (-EIO): the
 * kernel may have dropped the pages (invariant G6). */
CO_FN int io_co_fdatasync(struct io_file *f);
CO_FN int io_co_fsync(struct io_file *f);
CO_FN int io_co_truncate(struct io_file *f, uint64_t size);
/* fallocate(2) with FALLOC_FL_* @mode. -ENOTSUP where the file system
 * cannot. */
CO_FN int io_co_fallocate(struct io_file *f, int mode, uint64_t off,
                          uint64_t len);
CO_FN int io_co_fstat(struct io_file *f, struct stat *ret_st);
/* Size in bytes of a file or block device. */
CO_FN int io_co_size(struct io_file *f, uint64_t *ret_size);

/* The path of the open file as the kernel tells it, without links: other than
 * any look before the open it cannot be deceived. Owned by the caller. -ENOTSUP
 * on the sim engine. */
CO_FN int io_co_real_path(struct io_file *f, char **ret_path);

/* Where the data or hole that holds @off ends. *@ret_data says which it is.
 * Without SEEK_DATA support everything is data to the end of the file.
 * -ENXIO at or past the end. */
CO_FN int io_co_extent(struct io_file *f, uint64_t off, bool *ret_data,
                       uint64_t *ret_end);

/* Open-file-description lock of bytes [@off, @off+@len), not waiting.
 * -EAGAIN when somebody else holds it. */
enum io_lock { IO_LOCK_NONE, IO_LOCK_SHARED, IO_LOCK_EXCLUSIVE };
CO_FN int io_co_lock(struct io_file *f, uint64_t off, uint64_t len,
                     enum io_lock how);
/* Could @how be taken? 0 or -EAGAIN. */
CO_FN int io_co_lock_test(struct io_file *f, uint64_t off, uint64_t len,
                          enum io_lock how);

/* copy_file_range(2) / FICLONERANGE. *@ret_done may be short. -ENOTSUP,
 * -EXDEV, -EINVAL: the caller copies by hand. */
CO_FN int io_co_copy_range(struct io_file *src, uint64_t src_off,
                           struct io_file *dst, uint64_t dst_off, uint64_t len,
                           uint64_t *ret_done);
CO_FN int io_co_clone_range(struct io_file *src, uint64_t src_off,
                            struct io_file *dst, uint64_t dst_off,
                            uint64_t len);

/* Attributes of a new file, before it holds anything: no copy on write (btrfs),
 * and bytes that the file system allocates at a time (XFS); 0: as it likes.
 * The first that could not be set: -errno. */
CO_FN int io_co_set_attributes(struct io_file *f, bool nocow,
                               uint32_t extent_size);

/* BLKDISCARD / BLKZEROOUT on a block device. */
CO_FN int io_co_blk_discard(struct io_file *f, uint64_t off, uint64_t len);
CO_FN int io_co_blk_zeroout(struct io_file *f, uint64_t off, uint64_t len);

/* By path. */
CO_FN int io_co_stat(const char *path, struct stat *ret_st);
CO_FN int io_co_rename(const char *from, const char *to);
/* -EEXIST when there is a @to. */
CO_FN int io_co_rename_new(const char *from, const char *to);
CO_FN int io_co_unlink(const char *path);
/* fsync of the directory that holds @path: makes a create, rename or unlink of
 * @path durable. */
CO_FN int io_co_fsync_parent(const char *path);

/* Alignment of memory and offsets that O_DIRECT on @f asks for; 1 if none. */
uint32_t io_alignment(const struct io_file *f);

/* Buffers from the loop's pool, aligned for direct I/O (4096). Never NULL up to
 * 1 MiB; larger: NULL when memory is short. */
void *io_buf_get(size_t len);
void io_buf_put(void *buf, size_t len);
/* Give what this loop keeps for reuse back to the system, if it is much. May take
 * some milliseconds. */
void io_buf_trim(void);
