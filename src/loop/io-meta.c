/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files: everything but transfers and syncs (loop/io.c).  Each call is one
 * request; what file systems and devices say when they cannot do something is
 * brought to one spelling, -ENOTSUP.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include "loop/fdset.h"
#include "loop/io-priv.h"
#include "loop/io.h"
#include "loop/loop-priv.h"

CO_FN static int io_co_simple(struct io_req *r)
{
    int64_t res;

    do {
        res = io_req_co_run(r);
    } while (res == -EINTR);
    return res < 0 ? (int)res : 0;
}

/* EOPNOTSUPP is ENOTSUP on Linux. */
static int not_supported(int r)
{
    return r == -ENOSYS || r == -ENOTTY ? -ENOTSUP : r;
}

int io_co_open(const char *path, int flags, mode_t mode,
               struct io_file **ret_file)
{
    struct io_req open = {
        .op = IO_OP_OPEN,
        .path = path,
        .flags = flags | O_CLOEXEC,
        .mode = mode,
    };
    struct io_req align = { .op = IO_OP_ALIGNMENT };
    struct io_file *f;
    int r;

    if (fdset_is_name(path)) {
        open.result = r = fdset_open(path, flags);
    } else {
        r = io_co_simple(&open);
    }
    if (r < 0) {
        return r;
    }
    f = g_new0(struct io_file, 1);
    f->fd = (int)open.result;
    f->direct = flags & O_DIRECT;
    f->alignment = 1;
    if (f->direct) {
        align.fd = f->fd;
        r = io_co_simple(&align);
        f->alignment = r < 0 ? 4096 : (uint32_t)align.result;
    }
    *ret_file = f;
    return 0;
}

void io_co_close(struct io_file *f)
{
    struct io_req r = { .op = IO_OP_CLOSE };

    if (!f) {
        return;
    }
    g_assert(!f->sync_running);
    r.fd = f->fd;
    io_req_co_run(&r); /* after EINTR the descriptor is gone, too */
    g_free(f);
}

uint32_t io_alignment(const struct io_file *f)
{
    return f->alignment;
}

int io_co_truncate(struct io_file *f, uint64_t size)
{
    struct io_req r = { .op = IO_OP_TRUNCATE, .fd = f->fd, .off = size };

    return size > INT64_MAX ? -EFBIG : io_co_simple(&r);
}

int io_co_fallocate(struct io_file *f, int mode, uint64_t off, uint64_t len)
{
    struct io_req r = {
        .op = IO_OP_FALLOCATE,
        .fd = f->fd,
        .flags = mode,
        .off = off,
        .len = len,
    };

    if (off > INT64_MAX || len > INT64_MAX - off) {
        return -EFBIG;
    }
    return not_supported(io_co_simple(&r));
}

int io_co_fstat(struct io_file *f, struct stat *ret_st)
{
    struct io_req r = { .op = IO_OP_FSTAT, .fd = f->fd, .ret_stat = ret_st };

    return io_co_simple(&r);
}

int io_co_size(struct io_file *f, uint64_t *ret_size)
{
    struct io_req r = { .op = IO_OP_SIZE, .fd = f->fd };
    int res = io_co_simple(&r);

    *ret_size = r.ret_off;
    return res;
}

int io_co_extent(struct io_file *f, uint64_t off, bool *ret_data,
                 uint64_t *ret_end)
{
    struct io_req r = { .op = IO_OP_EXTENT, .fd = f->fd, .off = off };
    int res = off > INT64_MAX ? -ENXIO : io_co_simple(&r);

    *ret_data = r.ret_data;
    *ret_end = r.ret_off;
    return res;
}

CO_FN static int io_co_lock_op(struct io_file *f, enum io_op op, uint64_t off,
                               uint64_t len, enum io_lock how)
{
    static const short types[] = {
        [IO_LOCK_NONE] = F_UNLCK,
        [IO_LOCK_SHARED] = F_RDLCK,
        [IO_LOCK_EXCLUSIVE] = F_WRLCK,
    };
    struct io_req r = {
        .op = op,
        .fd = f->fd,
        .flags = types[how],
        .off = off,
        .len = len,
    };

    if (!len || off > INT64_MAX || len > INT64_MAX - off) {
        return -EINVAL; /* fcntl(2) would take 0 for "to the end" */
    }
    return io_co_simple(&r);
}

int io_co_lock(struct io_file *f, uint64_t off, uint64_t len, enum io_lock how)
{
    return io_co_lock_op(f, IO_OP_LOCK, off, len, how);
}

int io_co_lock_test(struct io_file *f, uint64_t off, uint64_t len,
                    enum io_lock how)
{
    return io_co_lock_op(f, IO_OP_LOCK_TEST, off, len, how);
}

int io_co_copy_range(struct io_file *src, uint64_t src_off, struct io_file *dst,
                     uint64_t dst_off, uint64_t len, uint64_t *ret_done)
{
    struct io_req r = {
        .op = IO_OP_COPY,
        .fd = src->fd,
        .off = src_off,
        .fd2 = dst->fd,
        .off2 = dst_off,
        .len = MIN(len, (uint64_t)1 << 30),
    };
    int res = not_supported(io_co_simple(&r));

    *ret_done = res < 0 ? 0 : (uint64_t)r.result;
    return res;
}

int io_co_clone_range(struct io_file *src, uint64_t src_off,
                      struct io_file *dst, uint64_t dst_off, uint64_t len)
{
    struct io_req r = {
        .op = IO_OP_CLONE,
        .fd = src->fd,
        .off = src_off,
        .fd2 = dst->fd,
        .off2 = dst_off,
        .len = len,
    };

    /* Length 0 would mean "to the end". */
    return len ? not_supported(io_co_simple(&r)) : 0;
}

CO_FN static int io_co_blk_op(struct io_file *f, enum io_op op, uint64_t off,
                              uint64_t len)
{
    struct io_req r = { .op = op, .fd = f->fd, .off = off, .len = len };

    return len ? not_supported(io_co_simple(&r)) : 0;
}

int io_co_blk_discard(struct io_file *f, uint64_t off, uint64_t len)
{
    return io_co_blk_op(f, IO_OP_DISCARD, off, len);
}

int io_co_blk_zeroout(struct io_file *f, uint64_t off, uint64_t len)
{
    return io_co_blk_op(f, IO_OP_ZEROOUT, off, len);
}

int io_co_stat(const char *path, struct stat *ret_st)
{
    struct io_req r = { .op = IO_OP_STAT, .path = path, .ret_stat = ret_st };

    return fdset_is_name(path) ? fdset_stat(path, ret_st) : io_co_simple(&r);
}

int io_co_rename(const char *from, const char *to)
{
    struct io_req r = { .op = IO_OP_RENAME, .path = from, .path2 = to };

    return io_co_simple(&r);
}

int io_co_rename_new(const char *from, const char *to)
{
    struct io_req r = {
        .op = IO_OP_RENAME,
        .path = from,
        .path2 = to,
        .flags = RENAME_NOREPLACE,
    };

    return io_co_simple(&r);
}

int io_co_unlink(const char *path)
{
    struct io_req r = { .op = IO_OP_UNLINK, .path = path };

    return io_co_simple(&r);
}

int io_co_fsync_parent(const char *path)
{
    if (fdset_is_name(path)) {
        return 0; /* whoever handed it in knows where it stands */
    }
    char *dir = g_path_get_dirname(path);
    struct io_req r = { .op = IO_OP_FSYNC_DIR, .path = dir };
    int res = io_co_simple(&r);

    g_free(dir);
    return res;
}

static void real_path_in_pool(void *arg)
{
    char **path = arg;
    char *link = *path;

    *path = g_file_read_link(link, NULL);
    g_free(link);
}

int io_co_real_path(struct io_file *f, char **ret_path)
{
    char *path;

    if (loop_current()->engine->has_own_files) {
        return -ENOTSUP;
    }
    path = g_strdup_printf("/proc/self/fd/%d", f->fd);
    co_in_pool(real_path_in_pool, &path);
    if (!path) {
        return -EIO;
    }
    *ret_path = path;
    return 0;
}

struct attributes {
    int fd;
    bool nocow;
    uint32_t extent_size;
    int result;
};

static int set_nocow(int fd)
{
    int flags;

    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) {
        return -errno;
    }
    flags |= FS_NOCOW_FL;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

static int set_extent_size(int fd, uint32_t size)
{
    struct fsxattr attr;

    if (ioctl(fd, FS_IOC_FSGETXATTR, &attr) < 0) {
        return -errno;
    }
    attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
    attr.fsx_extsize = size;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attr) < 0 ? -errno : 0;
}

static void attributes_in_pool(void *arg)
{
    struct attributes *a = arg;
    int second = 0;

    a->result = a->nocow ? set_nocow(a->fd) : 0;
    if (a->extent_size) {
        second = set_extent_size(a->fd, a->extent_size);
    }
    a->result = a->result < 0 ? a->result : second;
}

int io_co_set_attributes(struct io_file *f, bool nocow, uint32_t extent_size)
{
    struct attributes a = { f->fd, nocow, extent_size, 0 };

    if (loop_current()->engine->has_own_files) {
        return -ENOTSUP;
    }
    co_in_pool(attributes_in_pool, &a);
    return a.result;
}
