/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests as blocking system calls, for threads of the pool.  A table by
 * operation; nothing here knows loops or coroutines.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "loop/engine.h"

static int64_t result_of(int64_t r)
{
    return r < 0 ? -errno : r;
}

static int64_t exec_read(struct io_req *r)
{
    return result_of(preadv(r->fd, r->iov, (int)r->n_iov, (off_t)r->off));
}

static int64_t exec_write(struct io_req *r)
{
    return result_of(pwritev(r->fd, r->iov, (int)r->n_iov, (off_t)r->off));
}

static int64_t exec_fdatasync(struct io_req *r)
{
    return result_of(fdatasync(r->fd));
}

static int64_t exec_fsync(struct io_req *r)
{
    return result_of(fsync(r->fd));
}

static int64_t exec_fallocate(struct io_req *r)
{
    return result_of(fallocate(r->fd, r->flags, (off_t)r->off, (off_t)r->len));
}

static int64_t exec_open(struct io_req *r)
{
    return result_of(open(r->path, r->flags | O_CLOEXEC, r->mode));
}

static int64_t exec_close(struct io_req *r)
{
    return result_of(close(r->fd));
}

static int64_t exec_truncate(struct io_req *r)
{
    return result_of(ftruncate(r->fd, (off_t)r->off));
}

static int64_t exec_fstat(struct io_req *r)
{
    return result_of(fstat(r->fd, r->ret_stat));
}

static int64_t exec_stat(struct io_req *r)
{
    return result_of(stat(r->path, r->ret_stat));
}

static int64_t exec_size(struct io_req *r)
{
    struct stat st;

    if (fstat(r->fd, &st) < 0) {
        return -errno;
    }
    r->ret_off = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode)) {
        return result_of(ioctl(r->fd, BLKGETSIZE64, &r->ret_off));
    }
    return 0;
}

/* The whole rest is data: no SEEK_DATA here, or the file changed meanwhile. */
static int64_t extent_all_data(struct io_req *r)
{
    off_t end = lseek(r->fd, 0, SEEK_END);

    if (end < 0) {
        return -errno;
    }
    r->ret_data = true;
    r->ret_off = (uint64_t)end;
    return r->off < r->ret_off ? 0 : -ENXIO;
}

static int64_t exec_extent(struct io_req *r)
{
    off_t off = (off_t)r->off;
    off_t data = lseek(r->fd, off, SEEK_DATA);
    off_t hole;

    if (data < 0 && errno == ENXIO) {
        /* Past the end, or in the hole that ends the file. */
        int64_t res = extent_all_data(r);

        r->ret_data = false;
        return res;
    }
    if (data < 0) {
        return extent_all_data(r);
    }
    r->ret_data = data == off;
    r->ret_off = (uint64_t)data;
    if (r->ret_data) {
        hole = lseek(r->fd, off, SEEK_HOLE);
        if (hole <= off) {
            return extent_all_data(r);
        }
        r->ret_off = (uint64_t)hole;
    }
    return 0;
}

static struct flock req_flock(const struct io_req *r)
{
    return (struct flock) {
        .l_type = (short)r->flags,
        .l_whence = SEEK_SET,
        .l_start = (off_t)r->off,
        .l_len = (off_t)r->len,
    };
}

static int64_t exec_lock(struct io_req *r)
{
    struct flock fl = req_flock(r);
    int64_t res = result_of(fcntl(r->fd, F_OFD_SETLK, &fl));

    return res == -EACCES ? -EAGAIN : res;
}

static int64_t exec_lock_test(struct io_req *r)
{
    struct flock fl = req_flock(r);

    if (fcntl(r->fd, F_OFD_GETLK, &fl) < 0) {
        return -errno;
    }
    return fl.l_type == F_UNLCK ? 0 : -EAGAIN;
}

static int64_t exec_copy(struct io_req *r)
{
    off_t in = (off_t)r->off, out = (off_t)r->off2;

    return result_of(copy_file_range(r->fd, &in, r->fd2, &out, r->len, 0));
}

static int64_t exec_clone(struct io_req *r)
{
    struct file_clone_range range = {
        .src_fd = r->fd,
        .src_offset = r->off,
        .src_length = r->len,
        .dest_offset = r->off2,
    };

    return result_of(ioctl(r->fd2, FICLONERANGE, &range));
}

static int64_t exec_discard(struct io_req *r)
{
    uint64_t range[2] = { r->off, r->len };

    return result_of(ioctl(r->fd, BLKDISCARD, range));
}

static int64_t exec_zeroout(struct io_req *r)
{
    uint64_t range[2] = { r->off, r->len };

    return result_of(ioctl(r->fd, BLKZEROOUT, range));
}

/* Ask the kernel, else try what it takes. */
static int64_t exec_alignment(struct io_req *r)
{
    void *buf;
    int64_t found = 4096;

#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(r->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align) {
        return MAX(stx.stx_dio_offset_align, stx.stx_dio_mem_align);
    }
#endif
    if (posix_memalign(&buf, 8192, 8192)) {
        return found;
    }
    for (unsigned a = 512; a < 4096; a *= 2) {
        if (pread(r->fd, (char *)buf + a, a, 0) >= 0) {
            found = a;
            break;
        }
    }
    free(buf);
    return found;
}

static int64_t exec_rename(struct io_req *r)
{
    int ret;

    if (!r->flags) {
        return result_of(rename(r->path, r->path2));
    }
    ret = renameat2(AT_FDCWD, r->path, AT_FDCWD, r->path2, (unsigned)r->flags);
    if (ret < 0 && errno == EINVAL) {
        /* A file system that does not know the flag: as good as it gets. */
        if (access(r->path2, F_OK) == 0) {
            return -EEXIST;
        }
        ret = rename(r->path, r->path2);
    }
    return result_of(ret);
}

static int64_t exec_unlink(struct io_req *r)
{
    return result_of(unlink(r->path));
}

static int64_t exec_fsync_dir(struct io_req *r)
{
    int fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int64_t res;

    if (fd < 0) {
        return -errno;
    }
    res = result_of(fsync(fd));
    close(fd);
    return res;
}

static int64_t exec_call(struct io_req *r)
{
    r->fn(r->arg);
    return 0;
}

static int64_t (*const execute_table[])(struct io_req *r) = {
    [IO_OP_READ] = exec_read,           [IO_OP_WRITE] = exec_write,
    [IO_OP_FDATASYNC] = exec_fdatasync, [IO_OP_FSYNC] = exec_fsync,
    [IO_OP_FALLOCATE] = exec_fallocate, [IO_OP_OPEN] = exec_open,
    [IO_OP_CLOSE] = exec_close,         [IO_OP_TRUNCATE] = exec_truncate,
    [IO_OP_FSTAT] = exec_fstat,         [IO_OP_SIZE] = exec_size,
    [IO_OP_EXTENT] = exec_extent,       [IO_OP_LOCK] = exec_lock,
    [IO_OP_LOCK_TEST] = exec_lock_test, [IO_OP_COPY] = exec_copy,
    [IO_OP_CLONE] = exec_clone,         [IO_OP_DISCARD] = exec_discard,
    [IO_OP_ZEROOUT] = exec_zeroout,     [IO_OP_ALIGNMENT] = exec_alignment,
    [IO_OP_STAT] = exec_stat,           [IO_OP_RENAME] = exec_rename,
    [IO_OP_UNLINK] = exec_unlink,       [IO_OP_FSYNC_DIR] = exec_fsync_dir,
    [IO_OP_CALL] = exec_call,
};
G_STATIC_ASSERT(G_N_ELEMENTS(execute_table) == IO_OP_COUNT);

int64_t io_req_execute(struct io_req *r)
{
    return execute_table[r->op](r);
}
