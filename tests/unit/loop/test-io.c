/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every call of io.h, the same on both real engines. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>
#include "loop/channel.h"
#include "loop/io.h"
#include "run.h"
#include "scratch.h"

#define KIB ((size_t)1024)

CO_FN static struct io_file *file_co_new(const char *name, int flags)
{
    struct io_file *f = NULL;

    g_assert_cmpint(
        io_co_open(scratch(name), O_RDWR | O_CREAT | O_TRUNC | flags, 0600, &f),
        ==, 0);
    return f;
}

CO_FN static void file_co_fill(struct io_file *f, uint64_t off, int byte,
                               size_t len)
{
    char *buf = io_buf_get(len);
    struct iovec v;

    memset(buf, byte, len);
    g_assert_cmpint(io_co_pwritev(f, off, iov_one(&v, buf, len), IO_TAG_DATA),
                    ==, 0);
    io_buf_put(buf, len);
}

CO_FN static void file_co_expect(struct io_file *f, uint64_t off, int byte,
                                 size_t len)
{
    char *buf = io_buf_get(len);
    struct iovec v;

    memset(buf, ~byte, len);
    g_assert_cmpint(io_co_preadv(f, off, iov_one(&v, buf, len)), ==, 0);
    for (size_t i = 0; i < len; i++) {
        g_assert_cmpint((unsigned char)buf[i], ==, byte);
    }
    io_buf_put(buf, len);
}

CO_FN static void rw_entry(void *arg)
{
    struct io_file *f = file_co_new("rw", 0);
    struct iovec v;
    char one = 'x';

    file_co_fill(f, 1000, 0x5a, 5000);
    file_co_expect(f, 0, 0, 1000);
    file_co_expect(f, 1000, 0x5a, 5000);
    file_co_fill(f, 3000, 0x11, 10);
    file_co_expect(f, 2000, 0x5a, 1000);
    file_co_expect(f, 3000, 0x11, 10);
    g_assert_cmpint(io_alignment(f), ==, 1);

    /* Past the end: zeroes, and success. */
    file_co_expect(f, 6000, 0, 100);
    file_co_expect(f, 1 << 30, 0, 100);

    g_assert_cmpint(
        io_co_preadv(f, (uint64_t)INT64_MAX + 1, iov_one(&v, &one, 1)), ==,
        -EFBIG);
    g_assert_cmpint(io_co_preadv(f, INT64_MAX, iov_one(&v, &one, 1)), ==,
                    -EFBIG);
    g_assert_cmpint(io_co_preadv(f, 5, iov_one(&v, &one, 0)), ==, 0);
    io_co_close(f);
    io_co_close(NULL);
}

/* More vectors than one request takes, beginning inside the first. */
CO_FN static void vectors_entry(void *arg)
{
    enum { N = 3000, EACH = 7 };
    struct io_file *f = file_co_new("vectors", 0);
    unsigned char *out = g_malloc(N * EACH), *in = g_malloc0(N * EACH);
    struct iovec *vo = g_new(struct iovec, N), *vi = g_new(struct iovec, N);
    struct iov w;

    for (int i = 0; i < N * EACH; i++) {
        out[i] = (unsigned char)(i * 31 + i / 256);
    }
    for (int i = 0; i < N; i++) {
        vo[i] = (struct iovec) { out + i * EACH, EACH };
        vi[i] = (struct iovec) { in + i * EACH, EACH };
    }
    w = iov_slice((struct iov) { .v = vo, .n = N, .len = N * EACH }, 3,
                  N * EACH - 5);
    g_assert_cmpint(io_co_pwritev(f, 12, w, IO_TAG_META), ==, 0);
    w = iov_slice((struct iov) { .v = vi, .n = N, .len = N * EACH }, 3,
                  N * EACH - 5);
    g_assert_cmpint(io_co_preadv(f, 12, w), ==, 0);
    g_assert_cmpmem(in + 3, N * EACH - 5, out + 3, N * EACH - 5);
    g_assert_cmpint(in[2], ==, 0);
    g_assert_cmpint(in[N * EACH - 2], ==, 0);
    io_co_close(f);
    g_free(out);
    g_free(in);
    g_free(vo);
    g_free(vi);
}

/* Many coroutines on one file at once. */

struct stripe {
    struct io_file *f;
    unsigned nr;
    struct co_latch *latch;
};

CO_FN static void stripe_entry(void *arg)
{
    struct stripe *s = arg;

    for (int round = 1; round < 4; round++) {
        int byte = (int)(s->nr + (unsigned)round) & 0xff;

        file_co_fill(s->f, s->nr * 4 * KIB, byte, 4 * KIB);
        g_assert_cmpint(io_co_fdatasync(s->f), ==, 0);
        file_co_expect(s->f, s->nr * 4 * KIB, byte, 4 * KIB);
    }
    co_latch_done(s->latch);
}

CO_FN static void parallel_entry(void *arg)
{
    enum { N = 400 }; /* more than the ring has entries */
    struct stripe *stripes = g_new(struct stripe, N);
    struct co_latch latch = { 0 };
    struct io_file *f = file_co_new("parallel", 0);

    for (unsigned i = 0; i < N; i++) {
        stripes[i] = (struct stripe) { f, i, &latch };
        co_latch_add(&latch);
        co_start(loop_current(), stripe_entry, &stripes[i]);
    }
    co_latch_co_wait(&latch);
    g_assert_cmpint(io_co_fsync(f), ==, 0);
    io_co_close(f);
    g_free(stripes);
}

CO_FN static void errors_entry(void *arg)
{
    struct io_file *f = NULL;
    struct iovec v;
    char buf[16] = "";

    g_assert_cmpint(io_co_open(scratch("absent"), O_RDONLY, 0, &f), ==,
                    -ENOENT);
    g_assert_null(f);
    f = file_co_new("errors", 0);
    io_co_close(f);
    g_assert_cmpint(
        io_co_open(scratch("errors"), O_RDWR | O_CREAT | O_EXCL, 0600, &f), ==,
        -EEXIST);
    g_assert_cmpint(io_co_open(scratch("errors"), O_RDONLY, 0, &f), ==, 0);
    g_assert_cmpint(io_co_pwritev(f, 0, iov_one(&v, buf, 16), IO_TAG_DATA), ==,
                    -EBADF);
    io_co_close(f);
}

CO_FN static void sticky_entry(void *arg)
{
    struct io_file *f;

    /* A descriptor that cannot be synced fails, then goes on failing. */
    g_assert_cmpint(io_co_open("/dev/null", O_RDWR, 0, &f), ==, 0);
    g_assert_cmpint(io_co_fdatasync(f), ==, -EINVAL);
    g_assert_cmpint(io_co_fdatasync(f), ==, -EIO);
    g_assert_cmpint(io_co_fsync(f), ==, -EIO);
    io_co_close(f);
}

CO_FN static void size_entry(void *arg)
{
    struct io_file *f = file_co_new("size", 0);
    struct stat st;
    uint64_t size;

    g_assert_cmpint(io_co_truncate(f, 123456), ==, 0);
    g_assert_cmpint(io_co_size(f, &size), ==, 0);
    g_assert_cmpuint(size, ==, 123456);
    g_assert_cmpint(io_co_fstat(f, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 123456);
    g_assert_true(S_ISREG(st.st_mode));
    g_assert_cmpint(io_co_stat(scratch("size"), &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 123456);
    g_assert_cmpint(io_co_stat(scratch("absent"), &st), ==, -ENOENT);
    g_assert_cmpint(io_co_truncate(f, UINT64_MAX), ==, -EFBIG);
    io_co_close(f);
}

CO_FN static void extents_entry(void *arg)
{
    struct io_file *f = file_co_new("extents", 0);
    bool data;
    uint64_t end;
    int r;

    g_assert_cmpint(io_co_extent(f, 0, &data, &end), ==, -ENXIO);
    g_assert_cmpint(io_co_truncate(f, 1024 * KIB), ==, 0);
    file_co_fill(f, 256 * KIB, 1, 128 * KIB);

    g_assert_cmpint(io_co_extent(f, 0, &data, &end), ==, 0);
    if (data) {
        io_co_close(f);
        g_test_message("no holes on this file system");
        return;
    }
    g_assert_cmpuint(end, ==, 256 * KIB);
    g_assert_cmpint(io_co_extent(f, 300 * KIB, &data, &end), ==, 0);
    g_assert_true(data);
    g_assert_cmpuint(end, ==, 384 * KIB);
    g_assert_cmpint(io_co_extent(f, 500 * KIB, &data, &end), ==, 0);
    g_assert_false(data);
    g_assert_cmpuint(end, ==, 1024 * KIB);
    g_assert_cmpint(io_co_extent(f, 1024 * KIB, &data, &end), ==, -ENXIO);
    g_assert_cmpint(io_co_extent(f, UINT64_MAX, &data, &end), ==, -ENXIO);

    r = io_co_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        320 * KIB, 64 * KIB);
    if (r != -ENOTSUP) {
        g_assert_cmpint(r, ==, 0);
        file_co_expect(f, 320 * KIB, 0, 64 * KIB);
        g_assert_cmpint(io_co_extent(f, 256 * KIB, &data, &end), ==, 0);
        g_assert_true(data);
        g_assert_cmpuint(end, ==, 320 * KIB);
    }
    g_assert_cmpint(io_co_fallocate(f, 0, 0, UINT64_MAX), ==, -EFBIG);
    g_assert_cmpint(io_co_fallocate(f, 0, 0, 2048 * KIB), ==, 0);
    g_assert_cmpint(io_co_size(f, &end), ==, 0);
    g_assert_cmpuint(end, ==, 2048 * KIB);
    io_co_close(f);
}

CO_FN static void locks_entry(void *arg)
{
    struct io_file *a = file_co_new("locks", 0), *b;

    g_assert_cmpint(io_co_open(scratch("locks"), O_RDWR, 0, &b), ==, 0);
    g_assert_cmpint(io_co_lock(a, 100, 10, IO_LOCK_SHARED), ==, 0);
    g_assert_cmpint(io_co_lock_test(b, 100, 1, IO_LOCK_SHARED), ==, 0);
    g_assert_cmpint(io_co_lock_test(b, 109, 1, IO_LOCK_EXCLUSIVE), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock_test(b, 110, 1, IO_LOCK_EXCLUSIVE), ==, 0);
    g_assert_cmpint(io_co_lock_test(a, 100, 10, IO_LOCK_EXCLUSIVE), ==, 0);
    g_assert_cmpint(io_co_lock(b, 100, 1, IO_LOCK_EXCLUSIVE), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock(b, 105, 1, IO_LOCK_SHARED), ==, 0);
    g_assert_cmpint(io_co_lock(a, 100, 10, IO_LOCK_EXCLUSIVE), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock(b, 105, 1, IO_LOCK_NONE), ==, 0);
    g_assert_cmpint(io_co_lock(a, 100, 10, IO_LOCK_EXCLUSIVE), ==, 0);
    g_assert_cmpint(io_co_lock_test(b, 100, 1, IO_LOCK_SHARED), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock(b, 0, 0, IO_LOCK_SHARED), ==, -EINVAL);
    io_co_close(a);
    g_assert_cmpint(io_co_lock(b, 100, 10, IO_LOCK_EXCLUSIVE), ==, 0);
    io_co_close(b);
}

CO_FN static void copy_entry(void *arg)
{
    struct io_file *a = file_co_new("copy-a", 0);
    struct io_file *b = file_co_new("copy-b", 0);
    uint64_t done, off = 0;
    int r;

    file_co_fill(a, 0, 7, 200 * KIB);
    while (off < 100 * KIB) {
        r = io_co_copy_range(a, 50 * KIB + off, b, off, 100 * KIB - off, &done);
        if (r == -ENOTSUP || r == -EXDEV || r == -EINVAL) {
            break;
        }
        g_assert_cmpint(r, ==, 0);
        g_assert_cmpuint(done, >, 0);
        off += done;
    }
    if (off) {
        file_co_expect(b, 0, 7, 100 * KIB);
        file_co_expect(b, 100 * KIB, 0, 1 * KIB);
    }
    r = io_co_clone_range(a, 0, b, 0, 64 * KIB);
    if (r == 0) {
        file_co_expect(b, 0, 7, 64 * KIB);
    } else {
        g_assert_cmpint(r, ==, -ENOTSUP);
    }
    g_assert_cmpint(io_co_blk_discard(a, 0, 4096), ==, -ENOTSUP);
    g_assert_cmpint(io_co_blk_zeroout(a, 0, 4096), ==, -ENOTSUP);
    io_co_close(a);
    io_co_close(b);
}

CO_FN static void names_entry(void *arg)
{
    struct io_file *f = file_co_new("name-a", 0);
    char *a = g_strdup(scratch("name-a"));
    struct stat st;

    io_co_close(f);
    g_assert_cmpint(io_co_rename(a, scratch("name-b")), ==, 0);
    g_assert_cmpint(io_co_stat(a, &st), ==, -ENOENT);
    g_assert_cmpint(io_co_fsync_parent(a), ==, 0);
    g_assert_cmpint(io_co_stat(scratch("name-b"), &st), ==, 0);
    g_assert_cmpint(io_co_unlink(scratch("name-b")), ==, 0);
    g_assert_cmpint(io_co_unlink(scratch("name-b")), ==, -ENOENT);
    g_assert_cmpint(io_co_rename(a, scratch("name-b")), ==, -ENOENT);
    g_assert_cmpint(io_co_fsync_parent(scratch("no-such-dir/x")), ==, -ENOENT);
    g_free(a);
}

CO_FN static void direct_entry(void *arg)
{
    struct io_file *f = NULL;
    uint32_t align;
    struct iovec v;
    char *buf;
    int r = io_co_open(scratch("direct"), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT,
                       0600, &f);

    if (r == -EINVAL) {
        g_test_skip("no O_DIRECT on this file system");
        return;
    }
    g_assert_cmpint(r, ==, 0);
    align = io_alignment(f);
    g_assert_cmpuint(align, >=, 512);
    g_assert_cmpuint(align, <=, 4096);
    file_co_fill(f, 0, 9, 64 * KIB);
    file_co_expect(f, 4 * KIB, 9, 8 * KIB);
    /* A file that ends inside a block. */
    g_assert_cmpint(io_co_truncate(f, 64 * KIB - 100), ==, 0);
    buf = io_buf_get(16 * KIB);
    g_assert_cmpuint((uintptr_t)buf % 4096, ==, 0);
    memset(buf, 1, 16 * KIB);
    g_assert_cmpint(io_co_preadv(f, 56 * KIB, iov_one(&v, buf, 16 * KIB)), ==,
                    0);
    for (size_t i = 0; i < 16 * KIB; i++) {
        g_assert_cmpint(buf[i], ==, i < 8 * KIB - 100 ? 9 : 0);
    }
    io_buf_put(buf, 16 * KIB);
    io_co_close(f);
}

CO_FN static void buffers_entry(void *arg)
{
    void *a = io_buf_get(5000), *b, *big;

    memset(a, 1, 8192);
    io_buf_put(a, 5000);
    b = io_buf_get(8000);
    g_assert_true(a == b); /* one class, taken from the pool */
    io_buf_put(b, 8000);
    for (size_t len = 1; len <= 1024 * KIB; len = len * 3 + 1) {
        b = io_buf_get(len);
        g_assert_cmpuint((uintptr_t)b % 4096, ==, 0);
        memset(b, 0, len);
        io_buf_put(b, len);
    }
    big = io_buf_get(5 * 1024 * KIB);
    g_assert_nonnull(big);
    io_buf_put(big, 5 * 1024 * KIB);
    io_buf_put(NULL, 7);
}

/* Readiness. */

struct poller {
    int fd;
    short events;
    int result;
    struct co_latch *latch;
};

CO_FN static void poller_entry(void *arg)
{
    struct poller *p = arg;

    p->result = channel_co_poll_fd(p->fd, p->events, 5000000000);
    co_latch_done(p->latch);
}

CO_FN static void poll_entry(void *arg)
{
    struct loop *l = loop_current();
    struct co_latch latch = { 0 };
    struct poller readers[2];
    uint64_t start = loop_clock_ns(l);
    int fds[2];
    char byte = 'x';

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLOUT, 0), ==, POLLOUT);
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLIN, 5000000), ==,
                    -ETIMEDOUT);
    g_assert_cmpuint(loop_clock_ns(l) - start, >=, 5000000);

    /* Two wait for the same descriptor, one of them with a writer's poll. */
    for (int i = 0; i < 2; i++) {
        readers[i] = (struct poller) { fds[0], POLLIN, 0, &latch };
        co_latch_add(&latch);
        co_start(l, poller_entry, &readers[i]);
    }
    co_sleep(1000000);
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLOUT | POLLIN, 0), ==,
                    POLLOUT);
    g_assert_cmpuint(latch.count, ==, 2);
    g_assert_cmpint(write(fds[1], &byte, 1), ==, 1);
    co_latch_co_wait(&latch);
    g_assert_cmpint(readers[0].result, ==, POLLIN);
    g_assert_cmpint(readers[1].result, ==, POLLIN);
    g_assert_cmpint(read(fds[0], &byte, 1), ==, 1);

    /* The number comes to mean another socket. */
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLIN, 1000000), ==,
                    -ETIMEDOUT);
    close(fds[0]);
    close(fds[1]);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLIN, 1000000), ==,
                    -ETIMEDOUT);
    close(fds[1]);
    g_assert_cmpint(channel_co_poll_fd(fds[0], POLLIN, 0) & POLLHUP, ==,
                    POLLHUP);
    close(fds[0]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_real_engines("/loop/io/rw", rw_entry);
    add_for_real_engines("/loop/io/vectors", vectors_entry);
    add_for_real_engines("/loop/io/parallel", parallel_entry);
    add_for_real_engines("/loop/io/errors", errors_entry);
    add_for_real_engines("/loop/io/sticky", sticky_entry);
    add_for_real_engines("/loop/io/size", size_entry);
    add_for_real_engines("/loop/io/extents", extents_entry);
    add_for_real_engines("/loop/io/locks", locks_entry);
    add_for_real_engines("/loop/io/copy", copy_entry);
    add_for_real_engines("/loop/io/names", names_entry);
    add_for_real_engines("/loop/io/direct", direct_entry);
    add_for_real_engines("/loop/io/buffers", buffers_entry);
    add_for_real_engines("/loop/io/poll", poll_entry);
    return g_test_run();
}
