/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files: transfers and syncs.  The rest of io.h is in loop/io-meta.c.
 *
 * A transfer is cut into pieces that one request can carry and goes on until
 * all of it moved.  Nothing is allocated unless a window has more than
 * FEW_VECS vectors.
 */
#include "loop/io.h"
#include <errno.h>
#include <limits.h>
#include "loop/io-priv.h"

#define SECTOR 512
#define FEW_VECS 16
#define MAX_VECS 1024 /* IOV_MAX of Linux */
/* Longest transfer of one request: entries of the ring have 32 bits, and Linux
 * itself stops short of 2 GiB. */
#define MAX_TRANSFER ((size_t)1 << 30)

/* What to do with a failed attempt: true = try again. */
CO_FN static bool co_retry(int64_t result)
{
    if (result == -EINTR) {
        return true;
    }
    if (result == -EAGAIN) {
        co_relax();
        return true;
    }
    return false;
}

/* Run one piece of @iov at @off, as long as fits into @vecs. Returns bytes. */
CO_FN static int64_t io_co_piece(struct io_req *r, struct io_file *f,
                                 uint64_t off, struct iov iov,
                                 struct iovec *vecs, unsigned max_vecs)
{
    size_t len;
    int64_t n;

    do {
        r->n_iov = iov_export(iov, vecs, max_vecs, &len);
        r->iov = vecs;
        r->fd = f->fd;
        r->direct = f->direct;
        r->off = off;
        r->len = len;
        n = io_req_co_run(r);
    } while (co_retry(n));
    return n;
}

/* A direct read that ends inside a block has met the end of the file; asking
 * for the rest at an odd offset would only earn EINVAL. */
static bool io_at_end(const struct io_file *f, int64_t n)
{
    return n == 0 || (f->direct && n % f->alignment != 0);
}

/* How far back a read that fell short at @pos begins again: a file that ends
 * inside a sector may be growing, and a sector comes from one read (G3). */
static size_t io_step_back(const struct io_req *r, uint64_t pos, size_t done)
{
    return r->op == IO_OP_READ ? MIN(done, pos % SECTOR) : 0;
}

CO_FN static int io_co_transfer(struct io_file *f, struct io_req *r,
                                uint64_t off, struct iov iov,
                                struct iovec *vecs, unsigned max_vecs)
{
    size_t done = 0, back = 0;

    while (done < iov.len) {
        size_t at = done - back;
        struct iov piece = iov_slice(iov, at, MIN(iov.len - at, MAX_TRANSFER));
        int64_t n = io_co_piece(r, f, off + at, piece, vecs, max_vecs);

        if (n < 0) {
            return (int)n;
        }
        if (r->op == IO_OP_WRITE && n == 0) {
            return -ENOSPC;
        }
        if (r->op == IO_OP_READ && (size_t)n <= back) {
            n = 0;
        } else {
            done = at + (size_t)n;
        }
        if (r->op == IO_OP_READ && done < iov.len && io_at_end(f, n)) {
            iov_memset(iov, done, 0, iov.len - done);
            return 0;
        }
        back = io_step_back(r, off + done, done);
    }
    return 0;
}

CO_FN static int io_co_rw(struct io_file *f, struct io_req *r, uint64_t off,
                          struct iov iov)
{
    struct iovec few[FEW_VECS];
    struct iovec *many;
    int res;

    if (off > INT64_MAX || iov.len > INT64_MAX - off) {
        return -EFBIG;
    }
    if (iov.n <= FEW_VECS) {
        return io_co_transfer(f, r, off, iov, few, FEW_VECS);
    }
    many = g_try_new(struct iovec, MIN(iov.n, MAX_VECS));
    if (!many) {
        return io_co_transfer(f, r, off, iov, few, FEW_VECS);
    }
    res = io_co_transfer(f, r, off, iov, many, MIN(iov.n, MAX_VECS));
    g_free(many);
    return res;
}

int io_co_preadv(struct io_file *f, uint64_t off, struct iov iov)
{
    struct io_req r = { .op = IO_OP_READ };

    return io_co_rw(f, &r, off, iov);
}

int io_co_pwritev(struct io_file *f, uint64_t off, struct iov iov,
                  enum io_tag tag)
{
    struct io_req r = { .op = IO_OP_WRITE, .tag = tag };

    return io_co_rw(f, &r, off, iov);
}

/* Run one sync for everybody who came before it started. */
CO_FN static int io_co_sync_lead(struct io_file *f)
{
    struct io_req r = {
        .op = f->sync_full ? IO_OP_FSYNC : IO_OP_FDATASYNC,
        .fd = f->fd,
    };
    uint64_t ticket = ++f->syncs_started;
    int64_t res;

    f->sync_running = true;
    f->sync_full = false;
    do {
        res = io_req_co_run(&r);
    } while (co_retry(res));
    f->sync_running = false;
    f->syncs_done = ticket;
    f->sync_failed |= res < 0;
    co_queue_wake_all(&f->sync_waiters);
    return (int)res;
}

/* Syncs of one file never overlap: the kernel reports a lost page to one of
 * them only, and a later one must not pass for a success. */
CO_FN static int io_co_sync(struct io_file *f, bool full)
{
    uint64_t ticket = f->syncs_started + 1;
    int res;

    f->sync_full |= full;
    while (f->syncs_done < ticket) {
        if (f->sync_failed) {
            return -EIO;
        }
        if (f->sync_running) {
            co_queue_co_wait(&f->sync_waiters);
            continue;
        }
        res = io_co_sync_lead(f);
        if (res < 0) {
            return res;
        }
    }
    return f->sync_failed ? -EIO : 0;
}

int io_co_fdatasync(struct io_file *f)
{
    return io_co_sync(f, false);
}

int io_co_fsync(struct io_file *f)
{
    return io_co_sync(f, true);
}
