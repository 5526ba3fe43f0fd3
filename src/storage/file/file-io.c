/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads, writes, zeroes, discards and status of a file or block device.
 *
 * What a file system turned out not to support is remembered per node, so
 * that it is asked once.  The file grows by writes only, never by ftruncate(2)
 * on the side, which could race with a write further out and cut it off.
 */
#include "storage/file/file-int.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "graph/driver.h"
#include "loop/io.h"
#include "storage/trace.h"

#define PUNCH_MODE (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO_MODE (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

/* File systems say "cannot" in several ways; some say EINVAL to a range that
 * does not suit them, others EBUSY while a swap file or such is in use. */
static bool is_unsupported(int ret)
{
    return ret == -ENOTSUP || ret == -ENOSYS || ret == -ENODEV ||
           ret == -ENOTTY;
}

int file_io_co_preadv(struct node *n, uint64_t off, struct iov iov,
                      unsigned flags)
{
    struct file_state *s = n->state;
    int ret = io_co_preadv(s->io, off, iov);
    if (ret < 0) {
        trace_file_io_error(n->filename, "read", off, iov.len, ret);
    }
    return ret;
}

int file_io_co_flush(struct node *n)
{
    struct file_state *s = n->state;
    if (s->opt.no_flush || !s->writable) {
        return 0;
    }
    int ret = node_failure(n);
    if (ret == 0) {
        ret = io_co_fdatasync(s->io);
    }
    if (ret < 0) {
        node_fail(n);
        trace_file_io_error(n->filename, "flush", 0, 0, ret);
    }
    return ret;
}

static uint64_t round_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) / alignment * alignment;
}

/* Common end of what changes the file. */
static CO_FN int file_co_changed(struct node *n, const char *what, uint64_t off,
                                 uint64_t len, unsigned flags, int ret)
{
    if (ret < 0) {
        trace_file_io_error(n->filename, what, off, len, ret);
        return ret;
    }
    return (flags & IO_FUA) ? BARRIER(FILE_FUA, file_io_co_flush(n)) : 0;
}

int file_io_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                       unsigned flags)
{
    struct file_state *s = n->state;

    file_holes_wrote(&s->holes, off, iov.len);
    int ret = io_co_pwritev(s->io, off, iov, IO_TAG_DATA);
    file_holes_wrote(&s->holes, off, iov.len);
    return file_co_changed(n, "write", off, iov.len, flags, ret);
}

/* Both ends must be files, and different ones: within one file ranges could
 * overlap. */
CO_FN_LOOKS bool file_io_can_copy_in(struct node *n, struct node *src)
{
    const struct file_state *s = n->state, *from = src->state;

    return src->drv->can_copy_in == file_io_can_copy_in && !s->is_block &&
           !from->is_block && !s->no_share &&
           (s->identity.st_dev != from->identity.st_dev ||
            s->identity.st_ino != from->identity.st_ino);
}

/* The kernel writes back what its cache holds of the source and drops what it
 * holds of the target, so cached and direct I/O may meet here. */
int file_io_co_copy_in(struct node *n, uint64_t off, struct node *src,
                       uint64_t src_off, uint64_t len, unsigned flags)
{
    struct file_state *s = n->state;

    if (!file_io_can_copy_in(n, src)) {
        return -ENOTSUP;
    }
    const struct file_state *from = src->state;
    file_holes_wrote(&s->holes, off, len);
    int ret = io_co_clone_range(from->io, src_off, s->io, off, len);
    file_holes_wrote(&s->holes, off, len);
    if (ret < 0) {
        /* File systems refuse in many ways, and what really stands in the way
         * of the data shows when it is written. One that has shared before may
         * do it again. */
        trace_file_io_error(n->filename, "share", off, len, ret);
        s->no_share = !s->shared;
        return -ENOTSUP;
    }
    s->shared = true;
    return file_co_changed(n, "share", off, len, flags, ret);
}

/* fallocate() with memory: *@never is set when the file system cannot. */
static CO_FN int file_co_fallocate(struct file_state *s, int mode, uint64_t off,
                                   uint64_t len, bool *never)
{
    if (*never) {
        return -ENOTSUP;
    }
    int ret = io_co_fallocate(s->io, mode, off, len);
    if (is_unsupported(ret)) {
        *never = true;
        return -ENOTSUP;
    }
    /* This range only. */
    return ret == -EINVAL || ret == -EBUSY ? -ENOTSUP : ret;
}

static CO_FN int file_co_punch(struct file_state *s, uint64_t off, uint64_t len)
{
    return file_co_fallocate(s, PUNCH_MODE, off, len, &s->no_punch);
}

/* Where the file system can. */
static CO_FN int file_co_take_space(struct file_state *s, uint64_t off,
                                    uint64_t len)
{
    int ret = io_co_fallocate(s->io, FALLOC_FL_KEEP_SIZE, off, len);

    return ret == -ENOSPC ? ret : 0;
}

/* Zero what lies inside the file. */
static CO_FN int file_co_zero_inside(struct file_state *s, uint64_t off,
                                     uint64_t len, unsigned flags)
{
    int ret;
    if (flags & IO_MAY_UNMAP) {
        ret = file_co_punch(s, off, len);
        if (ret != -ENOTSUP) {
            return ret;
        }
    }
    ret = file_co_fallocate(s, ZERO_MODE, off, len, &s->no_zero_range);
    if (ret != -ENOTSUP || (flags & IO_MAY_UNMAP)) {
        return ret;
    }
    /* Without unmap the caller wants the space kept: take it again. */
    ret = file_co_punch(s, off, len);
    return ret == 0 ? file_co_take_space(s, off, len) : ret;
}

/* Zero [@off, @end), which lies past the end of the file: drop what a failed
 * write may have left there, then set the size by writing the last block. */
static CO_FN int file_co_zero_past_end(struct file_state *s, uint64_t off,
                                       uint64_t end)
{
    int ret = file_co_punch(s, off, end - off);
    if (ret < 0) {
        return ret;
    }
    size_t len = s->alignment;
    if (end - off < len || end % len) {
        return -ENOTSUP;
    }
    void *buf = io_buf_get(len);
    memset(buf, 0, len);
    struct iovec v;
    ret = io_co_pwritev(s->io, end - len, iov_one(&v, buf, len), IO_TAG_DATA);
    io_buf_put(buf, len);
    return ret;
}

static CO_FN int file_co_zero_file(struct node *n, uint64_t off, uint64_t len,
                                   unsigned flags)
{
    struct file_state *s = n->state;
    uint64_t end = off + len;
    /* A block that straddles the end counts as inside. */
    uint64_t size = round_up(n->size, s->alignment);

    if (end <= size) {
        return file_co_zero_inside(s, off, len, flags);
    }
    int ret = 0;
    if (off < size) {
        ret = file_co_zero_inside(s, off, size - off, flags);
    }
    if (ret == 0) {
        ret = file_co_zero_past_end(s, MAX(off, size), end);
    }
    if (ret == 0 && (flags & IO_ALLOCATE) && !(flags & IO_MAY_UNMAP)) {
        ret = file_co_take_space(s, off, len);
    }
    return ret;
}

static CO_FN int file_co_zero_block(struct file_state *s, uint64_t off,
                                    uint64_t len, unsigned flags)
{
    /* fallocate() on a block device is the newer way: it keeps the page cache
     * right and can tell "unmap" from "keep". */
    int ret = file_co_zero_inside(s, off, len, flags);
    if (ret != -ENOTSUP || s->no_blk_zero || (flags & IO_FAST)) {
        return ret;
    }
    ret = io_co_blk_zeroout(s->io, off, len);
    if (is_unsupported(ret)) {
        s->no_blk_zero = true;
        ret = -ENOTSUP;
    }
    return ret;
}

int file_io_co_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct file_state *s = n->state;
    file_holes_punched(&s->holes, off, len);
    int ret = s->is_block ? file_co_zero_block(s, off, len, flags)
                          : file_co_zero_file(n, off, len, flags);
    file_holes_punched(&s->holes, off, len);
    if (ret == -ENOTSUP) {
        return ret;
    }
    return file_co_changed(n, "zero", off, len, flags, ret);
}

int file_io_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct file_state *s = n->state;
    int ret;

    file_holes_punched(&s->holes, off, len);
    ret = file_co_punch(s, off, len);
    if (ret == -ENOTSUP && s->is_block && !s->no_blk_discard) {
        ret = io_co_blk_discard(s->io, off, len);
        if (is_unsupported(ret)) {
            s->no_blk_discard = true;
            ret = -ENOTSUP;
        }
    }
    file_holes_punched(&s->holes, off, len);
    if (ret == -ENOTSUP) {
        return 0;
    }
    if (ret < 0) {
        trace_file_io_error(n->filename, "discard", off, len, ret);
    }
    return ret;
}

int file_io_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
                   struct mapping *ret_map)
{
    struct file_state *s = n->state;
    const struct file_run *run = file_holes_find(&s->holes, off);
    bool data = true;
    uint64_t end = off + len;

    if (run) {
        data = run->data;
        end = run->end;
    } else if (!s->is_block) {
        uint64_t generation = s->holes.generation;
        int ret = io_co_extent(s->io, off, &data, &end);
        if (ret == -ENXIO || (ret == 0 && end <= off)) {
            /* Past the end of the file, inside the node: its padding. */
            data = false;
            end = off + len;
        } else if (ret < 0) {
            trace_file_io_error(n->filename, "status", off, len, ret);
            data = true;
            end = off + len;
        } else {
            file_holes_add(&s->holes, generation, off, end, data);
        }
    }
    ret_map->kind = data ? MAP_DATA : MAP_ZERO;
    ret_map->len = MIN(end - off, len);
    return 0;
}

int file_io_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct file_state *s = n->state;
    uint64_t now;
    int ret;

    if (s->is_block) {
        ret = io_co_size(s->io, &now);
        if (ret < 0) {
            return err_set_errno(err, -ret, "Could not get the size of '%s'",
                                 s->opt.path);
        }
        if (size > now) {
            return err_set(err, EINVAL, "Cannot grow device files");
        }
        return 0;
    }
    file_holes_punched(&s->holes, 0, UINT64_MAX);
    ret = io_co_truncate(s->io, size);
    file_holes_punched(&s->holes, 0, UINT64_MAX);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Failed to resize the file '%s'",
                             s->opt.path);
    }
    n->size = size;
    return 0;
}

int file_io_co_refresh_size(struct node *n)
{
    struct file_state *s = n->state;
    uint64_t size;
    int ret = io_co_size(s->io, &size);
    if (ret < 0) {
        return ret;
    }
    if (size != n->size) {
        file_holes_punched(&s->holes, 0, UINT64_MAX);
        n->size = size;
    }
    return 0;
}
