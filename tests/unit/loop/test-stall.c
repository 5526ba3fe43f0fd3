/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk that does not answer stops its own requests, nobody else's.
 *
 * The linker leads the reads of the thread engine here (--wrap).  Reads of the
 * file that is stalled wait until they are let go; one that would make the
 * loop's own thread wait is counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "loop/io.h"
#include "run.h"
#include "scratch.h"

enum { LEN = 4096, STALLED = 40, OTHERS = 30 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t let_go;
    ino_t ino;        /* of the file that is stalled; 0: none */
    unsigned waiting; /* reads of it */
    unsigned on_loop; /* ... that the loop's thread would wait for */
} stall = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0 };

ssize_t __real_preadv64(int fd, const struct iovec *v, int n, off_t off);
ssize_t __real_preadv64v2(int fd, const struct iovec *v, int n, off_t off,
                          int flags);
ssize_t __wrap_preadv64(int fd, const struct iovec *v, int n, off_t off);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t off,
                          int flags);

static bool is_stalled(int fd)
{
    struct stat st;

    return stall.ino && fstat(fd, &st) == 0 && st.st_ino == stall.ino;
}

ssize_t __wrap_preadv64(int fd, const struct iovec *v, int n, off_t off)
{
    pthread_mutex_lock(&stall.lock);
    if (is_stalled(fd)) {
        stall.waiting++;
        while (stall.ino) {
            pthread_cond_wait(&stall.let_go, &stall.lock);
        }
    }
    pthread_mutex_unlock(&stall.lock);
    return __real_preadv64(fd, v, n, off);
}

/* As the kernel does it: what is not in the page cache is refused, but a direct
 * read is started and waited for. */
ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t off,
                          int flags)
{
    bool direct = fcntl(fd, F_GETFL) & O_DIRECT;

    pthread_mutex_lock(&stall.lock);
    if (direct && is_stalled(fd)) {
        stall.on_loop++;
    }
    pthread_mutex_unlock(&stall.lock);
    if (!direct) {
        errno = EAGAIN;
        return -1;
    }
    return __real_preadv64v2(fd, v, n, off, flags);
}

static void stall_begin(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    pthread_mutex_lock(&stall.lock);
    stall.ino = st.st_ino;
    stall.waiting = 0;
    pthread_mutex_unlock(&stall.lock);
}

static void stall_end(void)
{
    pthread_mutex_lock(&stall.lock);
    stall.ino = 0;
    pthread_cond_broadcast(&stall.let_go);
    pthread_mutex_unlock(&stall.lock);
}

static unsigned stall_waiting(void)
{
    unsigned n;

    pthread_mutex_lock(&stall.lock);
    n = stall.waiting;
    pthread_mutex_unlock(&stall.lock);
    return n;
}

struct reader {
    struct io_file *f;
    struct co_latch *latch;
};

static CO_FN void reader_entry(void *arg)
{
    struct reader *r = arg;
    void *buf = io_buf_get(LEN);
    struct iovec v;

    memset(buf, 0xff, LEN);
    g_assert_cmpint(io_co_preadv(r->f, 0, iov_one(&v, buf, LEN)), ==, 0);
    g_assert_cmpint(*(char *)buf, ==, 0);
    io_buf_put(buf, LEN);
    co_latch_done(r->latch);
}

static void readers_start(struct reader *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        co_latch_add(r->latch);
        co_start(loop_current(), reader_entry, r);
    }
}

/* -EINVAL: no direct I/O here. */
static CO_FN int file_co_new(const char *name, int flags,
                             struct io_file **ret_file)
{
    int ret;

    g_assert_true(g_file_set_contents(scratch(name), "", 0, NULL));
    ret = io_co_open(scratch(name), O_RDWR | flags, 0, ret_file);
    if (ret == 0) {
        g_assert_cmpint(io_co_truncate(*ret_file, LEN), ==, 0);
    }
    return ret;
}

static void called(void *arg)
{
    *(bool *)arg = true;
}

/* Everything that does not need the disk @stalled goes on beside its reads. */
static CO_FN void others_co_go_on(struct io_file *other)
{
    struct co_latch latch = { 0 };
    struct reader r = { other, &latch };
    struct stat st;
    bool was_called = false;

    readers_start(&r, OTHERS);
    co_latch_co_wait(&latch);
    g_assert_cmpint(io_co_stat(scratch("other"), &st), ==, 0);
    g_assert_cmpint(io_co_fdatasync(other), ==, 0);
    co_in_pool(called, &was_called);
    g_assert_true(was_called);
}

static CO_FN void stall_co_run(int flags)
{
    struct co_latch latch = { 0 };
    struct reader r = { .latch = &latch };
    struct io_file *other;

    g_assert_cmpint(file_co_new("other", 0, &other), ==, 0);
    if (file_co_new("stalled", flags, &r.f) < 0) {
        g_test_skip("no direct I/O in this folder");
        io_co_close(other);
        return;
    }
    stall_begin(scratch("stalled"));
    readers_start(&r, STALLED);
    /* All that may wait for the disk do. */
    while (stall_waiting() == 0 && stall.on_loop == 0) {
        co_sleep(100000);
    }
    others_co_go_on(other);
    stall_end();
    co_latch_co_wait(&latch);
    g_assert_cmpuint(stall.on_loop, ==, 0);
    io_co_close(r.f);
    io_co_close(other);
}

static CO_FN void cached_entry(void *arg)
{
    stall_co_run(0);
}

static CO_FN void direct_entry(void *arg)
{
    stall_co_run(O_DIRECT);
}

static void test_cached(void)
{
    run_on(IO_ENGINE_THREADS, cached_entry, NULL);
}

static void test_direct(void)
{
    run_on(IO_ENGINE_THREADS, direct_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/loop/stall/cached", test_cached);
    g_test_add_func("/loop/stall/direct", test_direct);
    return g_test_run();
}
