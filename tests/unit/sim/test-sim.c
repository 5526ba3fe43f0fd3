/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated machine: files, clock, log, faults, images. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <time.h>
#include "loop/channel.h"
#include "loop/io.h"
#include "sim/sim.h"
#include "run.h"

#define KIB ((size_t)1024)

static void run_on_sim(uint64_t seed, void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = SIM_OPTIONS(seed);

    run_with(&opts, fn, arg);
}

CO_FN static struct io_file *file_co_new(const char *path)
{
    struct io_file *f = NULL;

    g_assert_cmpint(io_co_open(path, O_RDWR | O_CREAT, 0600, &f), ==, 0);
    return f;
}

CO_FN static int file_co_write(struct io_file *f, uint64_t off, int byte,
                               size_t len)
{
    char *buf = g_malloc(len);
    struct iovec v;
    int r;

    memset(buf, byte, len);
    r = io_co_pwritev(f, off, iov_one(&v, buf, len), IO_TAG_META);
    g_free(buf);
    return r;
}

CO_FN static int file_co_byte(struct io_file *f, uint64_t off)
{
    unsigned char byte = 0xee;
    struct iovec v;
    int r = io_co_preadv(f, off, iov_one(&v, &byte, 1));

    return r < 0 ? r : byte;
}

/* Files behave like files. */

CO_FN static void files_entry(void *arg)
{
    struct io_file *f, *g;
    uint64_t end;
    bool data;
    struct stat st;

    g_assert_cmpint(io_co_open("/a", O_RDWR, 0, &f), ==, -ENOENT);
    f = file_co_new("/a");
    g_assert_cmpint(io_co_open("/a", O_RDWR | O_CREAT | O_EXCL, 0, &g), ==,
                    -EEXIST);
    g_assert_cmpint(file_co_write(f, 100 * KIB, 3, 8 * KIB), ==, 0);
    g_assert_cmpint(file_co_byte(f, 100 * KIB + 5), ==, 3);
    g_assert_cmpint(file_co_byte(f, 5), ==, 0);
    g_assert_cmpint(file_co_byte(f, 500 * KIB), ==, 0);
    g_assert_cmpint(io_co_extent(f, 7, &data, &end), ==, 0);
    g_assert_false(data);
    g_assert_cmpuint(end, ==, 100 * KIB);
    g_assert_cmpint(io_co_extent(f, 100 * KIB, &data, &end), ==, 0);
    g_assert_true(data);
    g_assert_cmpuint(end, ==, 108 * KIB);
    g_assert_cmpint(io_co_extent(f, 108 * KIB, &data, &end), ==, -ENXIO);

    g_assert_cmpint(io_co_fallocate(f,
                                    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    98 * KIB, 7 * KIB),
                    ==, 0);
    g_assert_cmpint(file_co_byte(f, 105 * KIB - 1), ==, 0);
    g_assert_cmpint(file_co_byte(f, 105 * KIB), ==, 3);
    g_assert_cmpint(io_co_extent(f, 0, &data, &end), ==, 0);
    g_assert_cmpuint(end, ==, 104 * KIB);
    g_assert_cmpint(io_co_fallocate(f, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), ==,
                    -ENOTSUP);

    /* Cut and grown again: what was cut is gone. */
    g_assert_cmpint(io_co_truncate(f, 106 * KIB), ==, 0);
    g_assert_cmpint(io_co_truncate(f, 200 * KIB), ==, 0);
    g_assert_cmpint(file_co_byte(f, 106 * KIB - 1), ==, 3);
    g_assert_cmpint(file_co_byte(f, 106 * KIB), ==, 0);
    g_assert_cmpint(io_co_stat("a", &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 200 * KIB);

    /* An open file outlives its name. */
    g_assert_cmpint(io_co_rename("/a", "/d/b"), ==, 0);
    g_assert_cmpint(io_co_stat("/a", &st), ==, -ENOENT);
    g_assert_cmpint(io_co_unlink("/d/b"), ==, 0);
    g_assert_cmpint(file_co_byte(f, 105 * KIB), ==, 3);
    g_assert_cmpint(io_co_fsync_parent("/d/b"), ==, 0);
    io_co_close(f);
    g_assert_cmpuint(sim_image_last_id(sim_live(loop_sim(loop_current()))), ==,
                     0);
    g_assert_cmpint(channel_co_poll_fd(0, 1, 0), ==, -ENOTSUP);
}

CO_FN static void locks_entry(void *arg)
{
    struct io_file *a = file_co_new("/l"), *b = file_co_new("/l");

    g_assert_cmpint(io_co_lock(a, 100, 10, IO_LOCK_EXCLUSIVE), ==, 0);
    g_assert_cmpint(io_co_lock(b, 109, 10, IO_LOCK_SHARED), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock(a, 105, 2, IO_LOCK_NONE), ==, 0);
    g_assert_cmpint(io_co_lock(b, 105, 2, IO_LOCK_EXCLUSIVE), ==, 0);
    g_assert_cmpint(io_co_lock_test(b, 107, 1, IO_LOCK_SHARED), ==, -EAGAIN);
    g_assert_cmpint(io_co_lock_test(b, 104, 1, IO_LOCK_SHARED), ==, -EAGAIN);
    io_co_close(a);
    g_assert_cmpint(io_co_lock(b, 100, 10, IO_LOCK_EXCLUSIVE), ==, 0);
    io_co_close(b);
}

CO_FN static void copy_entry(void *arg)
{
    struct io_file *a = file_co_new("/a"), *b = file_co_new("/b");
    struct sim *s = loop_sim(loop_current());
    const struct sim_record *const *log;
    uint64_t done;
    size_t n;

    file_co_write(a, 0, 5, 10000);
    g_assert_cmpint(io_co_copy_range(a, 1000, b, 10, 20000, &done), ==, 0);
    g_assert_cmpuint(done, ==, 9000);
    g_assert_cmpint(file_co_byte(b, 9), ==, 0);
    g_assert_cmpint(file_co_byte(b, 9009), ==, 5);
    sim_log_reset(s, true);
    g_assert_cmpint(io_co_clone_range(a, 0, b, 8192, 4096), ==, -ENOTSUP);
    sim_log(s, &n);
    g_assert_cmpuint(n, ==, 0);
    sim_set_shares(s, true);
    g_assert_cmpint(io_co_clone_range(a, 0, b, 8192, 4096), ==, 0);
    g_assert_cmpint(file_co_byte(b, 12287), ==, 5);
    /* To a crash it is a write of the target. */
    log = sim_log(s, &n);
    g_assert_cmpuint(n, ==, 1);
    g_assert_cmpint(log[0]->op, ==, SIM_WRITE);
    g_assert_cmpstr(log[0]->path, ==, "/b");
    g_assert_cmpuint(log[0]->off, ==, 8192);
    g_assert_cmpuint(log[0]->len, ==, 4096);
    g_assert_cmpint(log[0]->data[4095], ==, 5);
    g_assert_cmpint(io_co_clone_range(a, 1, b, 8192, 4096), ==, -EINVAL);
    io_co_close(a);
    io_co_close(b);
}

static void test_files(void)
{
    run_on_sim(1, files_entry, NULL);
    run_on_sim(2, locks_entry, NULL);
    run_on_sim(3, copy_entry, NULL);
}

/* The clock. */

CO_FN static void clock_entry(void *arg)
{
    struct loop *l = loop_current();
    uint64_t start = loop_clock_ns(l);
    clock_t real = clock();

    co_sleep(3600 * UINT64_C(1000000000));
    g_assert_cmpuint(loop_clock_ns(l) - start, ==, 3600 * UINT64_C(1000000000));
    g_assert_cmpint(clock() - real, <, 10 * CLOCKS_PER_SEC);

    /* Relaxing for ever does not stop the world. */
    start = loop_clock_ns(l);
    while (loop_clock_ns(l) < start + 1000000) {
        co_relax();
    }
}

static void test_clock(void)
{
    run_on_sim(1, clock_entry, NULL);
}

/* Same seed, same log; other seed, other order. */

struct worker {
    struct io_file *f;
    unsigned nr;
    struct co_latch *latch;
};

CO_FN static void worker_entry(void *arg)
{
    struct worker *w = arg;

    for (unsigned i = 0; i < 10; i++) {
        file_co_write(w->f, (w->nr * 10 + i) * KIB, (int)w->nr, KIB);
        if (i % 4 == 3) {
            io_co_fdatasync(w->f);
        }
        if (i % 5 == 4) {
            co_sleep(w->nr * 1000);
        }
    }
    co_latch_done(w->latch);
}

CO_FN static void work_entry(void *arg)
{
    struct worker workers[8];
    struct co_latch latch = { 0 };
    struct io_file *f = file_co_new("/f");

    for (unsigned i = 0; i < 8; i++) {
        workers[i] = (struct worker) { f, i, &latch };
        co_latch_add(&latch);
        co_start(loop_current(), worker_entry, &workers[i]);
    }
    co_latch_co_wait(&latch);
    io_co_close(f);
    *(uint64_t *)arg = sim_log_hash(loop_sim(loop_current()));
}

static uint64_t work_hash(uint64_t seed)
{
    uint64_t hash;

    run_on_sim(seed, work_entry, &hash);
    return hash;
}

static void test_seed(void)
{
    GHashTable *seen = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                             g_free, NULL);

    for (uint64_t seed = 0; seed < 20; seed++) {
        uint64_t hash = work_hash(seed);

        g_assert_cmpuint(work_hash(seed), ==, hash);
        g_assert_true(g_hash_table_add(seen, g_memdup2(&hash, sizeof(hash))));
    }
    g_hash_table_destroy(seen);
}

/* The log says what happened, in order, and replays to the same bytes. */

static void replay(struct sim_image *img, const struct sim_record *r)
{
    if (r->result < 0) {
        return;
    }
    switch (r->op) {
    case SIM_CREATE:
        sim_image_create(img, r->file);
        sim_image_link(img, r->path, r->file);
        break;
    case SIM_WRITE:
        sim_image_write(img, r->file, r->off, r->data, (size_t)r->len);
        break;
    case SIM_TRUNCATE: sim_image_truncate(img, r->file, r->off); break;
    case SIM_FALLOCATE:
        sim_image_fallocate(img, r->file, r->mode, r->off, r->len);
        break;
    case SIM_RENAME:
        sim_image_link(img, r->path2, r->file);
        sim_image_link(img, r->path, 0);
        break;
    case SIM_UNLINK: sim_image_link(img, r->path, 0); break;
    default: break;
    }
}

static int by_completion(const void *a, const void *b)
{
    const struct sim_record *ra = *(const struct sim_record *const *)a;
    const struct sim_record *rb = *(const struct sim_record *const *)b;

    return ra->completed < rb->completed ? -1 : ra->completed > rb->completed;
}

struct compare {
    const struct sim_image *other;
    unsigned n;
};

static void compare_file(const char *path, uint64_t id, void *arg)
{
    struct compare *c = arg;
    struct sim *s = loop_sim(loop_current());
    size_t size = (size_t)sim_image_size(sim_live(s), id);
    void *a = g_malloc(size + 1), *b = g_malloc(size + 1);

    g_assert_cmpuint(sim_image_find(c->other, path), ==, id);
    g_assert_cmpuint(sim_image_size(c->other, id), ==, size);
    sim_image_read(sim_live(s), id, 0, a, size);
    sim_image_read(c->other, id, 0, b, size);
    g_assert_cmpmem(a, size, b, size);
    g_free(a);
    g_free(b);
    c->n++;
}

CO_FN static void log_entry(void *arg)
{
    struct sim *s = loop_sim(loop_current());
    struct sim_image *img = sim_image_new();
    struct compare c = { .other = img };
    const struct sim_record *const *log;
    const struct sim_record **sorted;
    uint64_t hash, mark, before, counts[SIM_OP_COUNT] = { 0 };
    struct io_file *f;
    size_t n;

    work_entry(&hash);
    before = sim_instant(s);
    mark = sim_mark(s, "halfway", 77);
    g_assert_cmpuint(mark, ==, before + 1);
    f = file_co_new("/g");
    file_co_write(f, 3 * KIB, 9, 9000);
    io_co_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096);
    io_co_truncate(f, 11000);
    io_co_close(f);
    io_co_rename("/g", "/h");
    io_co_close(file_co_new("/gone"));
    io_co_unlink("/gone");
    io_co_unlink("/never");
    io_co_fsync_parent("/h");

    log = sim_log(s, &n);
    for (size_t i = 0; i < n; i++) {
        g_assert_cmpuint(log[i]->submitted, >, i ? log[i - 1]->submitted : 0);
        g_assert_cmpuint(log[i]->completed, >=, log[i]->submitted);
        counts[log[i]->op]++;
        if (log[i]->op == SIM_MARK) {
            g_assert_cmpstr(log[i]->path, ==, "halfway");
            g_assert_cmpuint(log[i]->off, ==, 77);
        }
        if (log[i]->op == SIM_WRITE) {
            g_assert_cmpint(log[i]->tag, ==, IO_TAG_META);
            g_assert_cmpint(log[i]->result, ==, (int64_t)log[i]->len);
        }
    }
    g_assert_cmpuint(counts[SIM_CREATE], ==, 3);
    g_assert_cmpuint(counts[SIM_WRITE], ==, 81);
    g_assert_cmpuint(counts[SIM_FALLOCATE], ==, 1);
    g_assert_cmpuint(counts[SIM_TRUNCATE], ==, 1);
    g_assert_cmpuint(counts[SIM_RENAME], ==, 1);
    g_assert_cmpuint(counts[SIM_UNLINK], ==, 2);
    g_assert_cmpuint(counts[SIM_FSYNC_DIR], ==, 1);
    g_assert_cmpuint(counts[SIM_MARK], ==, 1);

    sorted = g_memdup2(log, n * sizeof(*log));
    qsort(sorted, n, sizeof(*sorted), by_completion);
    for (size_t i = 0; i < n; i++) {
        replay(img, sorted[i]);
    }
    sim_image_foreach(sim_live(s), compare_file, &c);
    g_assert_cmpuint(c.n, ==, 2);
    g_free(sorted);
    sim_image_free(img);
    sim_log_reset(s, false);
    sim_mark(s, "unseen", 0);
    sim_log(s, &n);
    g_assert_cmpuint(n, ==, 0);
}

static void test_log(void)
{
    run_on_sim(5, log_entry, NULL);
}

/* Writes of one coroutine each reach the disk in some other order. */
static void test_order(void)
{
    unsigned swapped = 0;

    for (uint64_t seed = 0; seed < 5; seed++) {
        struct loop_options opts = SIM_OPTIONS(seed);
        uint64_t hash;
        struct loop *l;
        const struct sim_record *const *log;
        size_t n;

        g_assert_cmpint(loop_new(&opts, &l, NULL), ==, 0);
        co_start(l, work_entry, &hash);
        while (co_count(l)) {
            loop_turn(l, true);
        }
        log = sim_log(loop_sim(l), &n);
        for (size_t i = 1; i < n; i++) {
            swapped += log[i]->completed < log[i - 1]->completed;
        }
        loop_free(l);
    }
    g_assert_cmpuint(swapped, >, 50);
}

/* Images: copies are independent; a machine goes on from one. */

struct image_step {
    struct sim_image *image;
    bool second;
};

CO_FN static void image_entry(void *arg)
{
    struct image_step *step = arg;
    struct sim *s = loop_sim(loop_current());
    struct io_file *f;
    uint64_t id;

    if (step->second) {
        sim_restore(s, step->image);
    }
    f = file_co_new("/x");
    if (!step->second) {
        file_co_write(f, 0, 1, 20000);
        io_co_close(f);
        step->image = sim_image_copy(sim_live(s));
        f = file_co_new("/x");
        file_co_write(f, 5000, 2, 100);
        g_assert_cmpint(io_co_truncate(f, 6000), ==, 0);
    }
    g_assert_cmpint(file_co_byte(f, 4999), ==, 1);
    g_assert_cmpint(file_co_byte(f, 5000), ==, step->second ? 1 : 2);
    g_assert_cmpint(file_co_byte(f, 10000), ==, step->second ? 1 : 0);
    io_co_close(f);

    id = sim_image_find(step->image, "/x");
    g_assert_cmpuint(sim_image_size(step->image, id), ==, 20000);
    f = file_co_new("/y");
    g_assert_cmpuint(sim_image_find(sim_live(s), "/y"), >, id);
    io_co_close(f);
}

static void test_images(void)
{
    struct image_step step = { 0 };

    run_on_sim(1, image_entry, &step);
    step.second = true;
    run_on_sim(2, image_entry, &step);
    sim_image_free(step.image);
}

/* Faults. */

CO_FN static void faults_entry(void *arg)
{
    struct sim *s = loop_sim(loop_current());
    struct io_file *f = file_co_new("/f"), *g = file_co_new("/g");
    uint64_t writes = sim_count(s, SIM_WRITE);

    sim_inject(s, &(struct sim_fault) {
                      .op = SIM_WRITE, .nth = 2, .path = "/f", .err = ENOSPC });
    g_assert_cmpint(file_co_write(f, 0, 1, 10), ==, 0);
    g_assert_cmpint(file_co_write(g, 0, 1, 10), ==, 0);
    g_assert_cmpint(file_co_write(f, 0, 2, 10), ==, -ENOSPC);
    g_assert_cmpint(file_co_byte(f, 0), ==, 1);
    g_assert_cmpint(file_co_write(f, 0, 3, 10), ==, 0);
    g_assert_cmpuint(sim_count(s, SIM_WRITE), ==, writes + 4);

    /* Short transfers and interruptions are nobody else's business. */
    sim_inject(s,
               &(struct sim_fault) {
                   .op = SIM_WRITE, .nth = 1, .short_len = 3, .sticky = true });
    g_assert_cmpint(file_co_write(f, 0, 4, 10), ==, 0);
    g_assert_cmpint(file_co_byte(f, 9), ==, 4);
    g_assert_cmpuint(sim_count(s, SIM_WRITE), ==, writes + 8);
    sim_faults_clear(s);
    sim_inject(s,
               &(struct sim_fault) { .op = SIM_READ, .nth = 1, .err = EINTR });
    sim_inject(s,
               &(struct sim_fault) { .op = SIM_READ, .nth = 2, .err = EAGAIN });
    g_assert_cmpint(file_co_byte(f, 9), ==, 4);

    /* A sync that failed once fails for ever, on that file. */
    sim_inject(s, &(struct sim_fault) {
                      .op = SIM_FDATASYNC, .nth = 1, .err = ENOSPC });
    g_assert_cmpint(io_co_fdatasync(f), ==, -ENOSPC);
    g_assert_cmpint(io_co_fdatasync(f), ==, -EIO);
    g_assert_cmpint(io_co_fsync(f), ==, -EIO);
    g_assert_cmpint(io_co_fdatasync(g), ==, 0);
    io_co_close(f);
    io_co_close(g);
}

static void test_faults(void)
{
    run_on_sim(1, faults_entry, NULL);
}

/* Syncs that come together share one, begun after the last of them came. */

struct syncer {
    struct io_file *f;
    int result;
    uint64_t asked;
    struct co_latch *latch;
};

CO_FN static void syncer_entry(void *arg)
{
    struct syncer *s = arg;

    s->asked = sim_mark(loop_sim(loop_current()), "asked", 0);
    s->result = io_co_fdatasync(s->f);
    co_latch_done(s->latch);
}

CO_FN static void shared_sync_entry(void *arg)
{
    struct sim *s = loop_sim(loop_current());
    struct syncer syncers[20];
    struct co_latch latch = { 0 };
    struct io_file *f = file_co_new("/f");
    bool fail = arg;
    const struct sim_record *const *log;
    uint64_t last = 0;
    size_t n;

    if (fail) {
        sim_inject(s, &(struct sim_fault) {
                          .op = SIM_FDATASYNC, .nth = 1, .err = ENOSPC });
    }
    for (int i = 0; i < 20; i++) {
        syncers[i] = (struct syncer) { .f = f, .latch = &latch };
        co_latch_add(&latch);
        co_start(loop_current(), syncer_entry, &syncers[i]);
    }
    co_latch_co_wait(&latch);
    g_assert_cmpuint(sim_count(s, SIM_FDATASYNC), ==, fail ? 1 : 2);
    log = sim_log(s, &n);
    for (size_t i = 0; i < n; i++) {
        if (log[i]->op == SIM_FDATASYNC) {
            last = log[i]->submitted;
        }
    }
    for (int i = 0; i < 20; i++) {
        g_assert_cmpint(syncers[i].result, ==, !fail ? 0 : i ? -EIO : -ENOSPC);
        g_assert_true(fail || syncers[i].asked < last);
    }
    io_co_close(f);
}

static void test_shared_sync(void)
{
    run_on_sim(1, shared_sync_entry, NULL);
    run_on_sim(1, shared_sync_entry, GINT_TO_POINTER(1));
}

/* A file that ends inside a sector grows while it is read: the sector is old
 * or new as a whole, however many reads it takes to find the end. */

enum { END = 219, WHOLE = 512 };

CO_FN static void grow_entry(void *arg)
{
    struct io_file *f = arg;

    co_sleep((uint64_t)g_test_rand_int_range(0, 200000));
    g_assert_cmpint(file_co_write(f, 0, 2, WHOLE), ==, 0);
}

CO_FN static void growing_entry(void *arg)
{
    unsigned char buf[2 * WHOLE];
    struct iovec v;

    for (unsigned i = 0; i < 300; i++) {
        struct io_file *f = file_co_new("/grows");

        g_assert_cmpint(io_co_truncate(f, 0), ==, 0);
        g_assert_cmpint(file_co_write(f, 0, 1, END), ==, 0);
        co_start(loop_current(), grow_entry, f);
        g_assert_cmpint(io_co_preadv(f, 0, iov_one(&v, buf, sizeof(buf))), ==,
                        0);
        g_assert_cmpint(buf[0], ==, buf[END - 1]);
        g_assert_cmpint(buf[END], ==, buf[0] == 1 ? 0 : 2);
        g_assert_cmpint(buf[WHOLE], ==, 0);
        co_sleep(2000000);
        io_co_close(f);
    }
}

static void test_growing(void)
{
    run_on_sim(1, growing_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/loop/sim/files", test_files);
    g_test_add_func("/loop/sim/clock", test_clock);
    g_test_add_func("/loop/sim/seed", test_seed);
    g_test_add_func("/loop/sim/log", test_log);
    g_test_add_func("/loop/sim/order", test_order);
    g_test_add_func("/loop/sim/images", test_images);
    g_test_add_func("/loop/sim/faults", test_faults);
    g_test_add_func("/loop/sim/shared-sync", test_shared_sync);
    g_test_add_func("/loop/sim/growing", test_growing);
    return g_test_run();
}
