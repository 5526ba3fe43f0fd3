/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of a cache on the simulated machine: whatever a power loss, a fault
 * or damage makes of it, it gives the bytes of the version that is asked for,
 * or none.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "filter/cache/cache-store.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "sim/sim.h"
#include "wire/cache-file.h"

#define BITS 12u
#define BLOCK (1u << BITS)
#define BLOCKS 40u
/* The last one is short. */
#define SIZE ((BLOCKS - 1) * BLOCK + 1000)
#define SLOTS 16u
#define LIMIT (2 * CACHE_HEADER_BYTES + SLOTS * (BLOCK + CACHE_ENTRY_BYTES))
#define STATES 300u
#define SECTOR 512u

static GRand *rnd;
static unsigned damaged, full;

static void count_damaged(void *arg, uint64_t block)
{
    g_assert_cmpuint(block, <, BLOCKS);
    damaged++;
}

static void count_full(void *arg, int error)
{
    full++;
}

static CO_FN struct cache_store *store_co_open(const char *version)
{
    struct cache_store_options o = {
        .path = "/cache",
        .limit = LIMIT,
        .block_bits = BITS,
        .base_size = SIZE,
        .version = version,
        .full = count_full,
        .damaged = count_damaged,
    };
    struct cache_store *s = NULL;
    GError *err = NULL;

    cache_store_co_open(&o, &s, &err);
    g_assert_no_error(err);
    return s;
}

/* What version @version of the base has at @block. */
static void fill(uint8_t *buf, char version, uint64_t block, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        for (unsigned k = 0; k < BLOCK; k += 8) {
            g_snprintf((char *)buf + k, 8, "%c%02u%04u", version,
                       (unsigned)(block + i), k);
        }
        buf += BLOCK;
    }
}

/* All that it has is of @version; how many blocks. */
static CO_FN unsigned store_co_verify(struct cache_store *s, char version)
{
    uint8_t *got = g_malloc(BLOCK * SLOTS), *want = g_malloc(BLOCK * SLOTS);
    unsigned found = 0;

    for (uint64_t block = 0; block < BLOCKS;) {
        unsigned n = cache_store_run(s, block, SLOTS), good = 0;

        if (n > 0) {
            cache_store_co_read(s, block, n, got, &good);
            g_assert_cmpuint(good, <=, n);
            fill(want, version, block, good);
            for (unsigned i = 0; i < good; i++) {
                size_t len = MIN(BLOCK, SIZE - (block + i) * BLOCK);

                g_assert_cmpmem(got + (size_t)i * BLOCK, len,
                                want + (size_t)i * BLOCK, len);
            }
            found += good;
        }
        block += MAX(n, 1);
    }
    g_free(got);
    g_free(want);
    return found;
}

static CO_FN void store_co_put(struct cache_store *s, char version,
                               uint64_t block, unsigned n)
{
    uint8_t *buf = g_malloc(BLOCK * SLOTS);

    /* A block that it has is not written again. */
    for (unsigned i = 0; i < n; i++) {
        if (cache_store_run(s, block + i, 1) > 0) {
            n = i;
        }
    }
    fill(buf, version, block, n);
    if (n > 0) {
        cache_store_co_write(s, block, n, buf);
    }
    g_free(buf);
}

/* A life of one version. */
static CO_FN void life_co_run(char version)
{
    const char name[2] = { version, 0 };
    struct cache_store *s = store_co_open(name);

    for (unsigned i = 0; i < 30; i++) {
        unsigned n = (unsigned)g_rand_int_range(rnd, 1, 5);

        store_co_put(s, version,
                     (uint64_t)g_rand_int_range(rnd, 0, (int)(BLOCKS - n + 1)),
                     n);
        if (i % 5 == 0) {
            store_co_verify(s, version);
        }
    }
    g_assert_cmpuint(store_co_verify(s, version), ==, SLOTS);
    cache_store_co_close(s);
}

/* --- power loss --- */

/* Nothing is ever flushed: any part of what was written may be there. */
static void apply(struct sim_image *img, const struct sim_record *r,
                  unsigned percent)
{
    bool lucky = (unsigned)g_rand_int_range(rnd, 0, 100) < percent;

    if (r->op == SIM_TRUNCATE && lucky) {
        sim_image_truncate(img, r->file, r->off);
    }
    if (r->op != SIM_WRITE || r->result < 0) {
        return;
    }
    for (uint64_t pos = 0; pos < r->len;) {
        uint64_t end = MIN(r->len,
                           ((r->off + pos) / SECTOR + 1) * SECTOR - r->off);

        if ((unsigned)g_rand_int_range(rnd, 0, 100) < percent) {
            sim_image_write(img, r->file, r->off + pos, r->data + pos,
                            end - pos);
        }
        pos = end;
    }
}

/* A copy of the log, which is lost when the loop runs on. */
static GArray *log_take(struct sim *sim)
{
    GArray *copy = g_array_new(FALSE, FALSE, sizeof(struct sim_record));
    size_t n;
    const struct sim_record *const *log = sim_log(sim, &n);

    for (size_t i = 0; i < n; i++) {
        struct sim_record r = *log[i];

        r.data = r.data ? g_memdup2(r.data, r.len) : NULL;
        g_array_append_val(copy, r);
    }
    return copy;
}

static void log_free(GArray *log)
{
    for (guint i = 0; i < log->len; i++) {
        g_free(g_array_index(log, struct sim_record, i).data);
    }
    g_array_unref(log);
}

static CO_FN void power_loss_entry(void *arg)
{
    static const unsigned percents[] = { 0, 100, 50, 8, 92 };
    struct sim *sim = loop_sim(loop_current());
    struct sim_image *start;
    unsigned found[2] = { 0, 0 };
    GArray *log;

    cache_store_co_close(store_co_open("a")); /* the file has a name */
    start = sim_image_copy(sim_live(sim));
    sim_log_reset(sim, true);
    life_co_run('a');
    life_co_run('b');
    life_co_run('a');
    log = log_take(sim);
    sim_log_reset(sim, false);
    for (unsigned i = 0; i < STATES; i++) {
        struct sim_image *img = sim_image_copy(start);
        guint until = (guint)g_rand_int_range(rnd, 0, (int)log->len + 1);
        char version = i % 2 ? 'a' : 'b';
        const char name[2] = { version, 0 };
        struct cache_store *s;

        for (guint k = 0; k < until; k++) {
            apply(img, &g_array_index(log, struct sim_record, k),
                  percents[i % G_N_ELEMENTS(percents)]);
        }
        sim_restore(sim, img);
        sim_image_free(img);
        s = store_co_open(name);
        found[i % 2] += store_co_verify(s, version);
        /* It goes on to work. */
        store_co_put(s, version, 7, 4);
        g_assert_cmpuint(store_co_verify(s, version), >, 0);
        cache_store_co_close(s);
    }
    /* Else it finds nothing, and proves nothing. */
    g_assert_cmpuint(found[0], >, 0);
    g_assert_cmpuint(found[1], >, 0);
    g_assert_cmpuint(damaged, >, 0);
    log_free(log);
    sim_image_free(start);
}

/* --- damage --- */

/* One byte of the file after the other. */
static CO_FN void damage_entry(void *arg)
{
    struct sim *sim = loop_sim(loop_current());
    struct sim_image *good;
    uint64_t id;
    unsigned whole = 0;

    life_co_run('a');
    good = sim_image_copy(sim_live(sim));
    id = sim_image_find(good, "/cache");
    for (uint64_t at = 0; at < sim_image_size(good, id); at += 61) {
        struct sim_image *img = sim_image_copy(good);
        struct cache_store *s;
        uint8_t byte;

        sim_image_read(img, id, at, &byte, 1);
        byte ^= (uint8_t)(1u << g_rand_int_range(rnd, 0, 8));
        sim_image_write(img, id, at, &byte, 1);
        sim_restore(sim, img);
        sim_image_free(img);
        s = store_co_open("a");
        whole += store_co_verify(s, 'a') == SLOTS;
        cache_store_co_close(s);
    }
    /* Only bytes that mean nothing do no harm. */
    g_assert_cmpuint(whole, <, sim_image_size(good, id) / 61 / 4);
    sim_image_free(good);
}

/* --- faults --- */

static CO_FN void fault_entry(void *arg)
{
    struct sim *sim = loop_sim(loop_current());
    struct sim_fault no_space = { SIM_WRITE, 3, "/cache", true, ENOSPC };
    struct sim_fault bad_read = { SIM_READ, 1, "/cache", false, EIO };
    struct cache_store *s = store_co_open("a");

    full = damaged = 0;
    store_co_put(s, 'a', 0, 4);
    sim_inject(sim, &no_space);
    store_co_put(s, 'a', 4, 4);
    g_assert_false(cache_store_is_off(s));
    store_co_put(s, 'a', 8, 4);
    g_assert_true(cache_store_is_off(s));
    store_co_put(s, 'a', 12, 4);
    g_assert_cmpuint(full, ==, 1);
    sim_faults_clear(sim);
    g_assert_cmpuint(store_co_verify(s, 'a'), ==, 8);
    sim_inject(sim, &bad_read);
    g_assert_cmpuint(store_co_verify(s, 'a'), <, 8);
    g_assert_cmpuint(damaged, >, 0);
    sim_faults_clear(sim);
    cache_store_co_close(s);
    s = store_co_open("a");
    g_assert_cmpuint(store_co_verify(s, 'a'), ==, 8);
    cache_store_co_close(s);
    /* Nobody knows the version: nothing is kept. */
    s = store_co_open(NULL);
    g_assert_cmpuint(store_co_verify(s, 'a'), ==, 0);
    store_co_put(s, 'a', 0, 4);
    cache_store_co_close(s);
    s = store_co_open(NULL);
    g_assert_cmpuint(store_co_verify(s, 'a'), ==, 0);
    cache_store_co_close(s);
}

/* --- use --- */

/* The order of use outlives the store. */
static CO_FN void use_entry(void *arg)
{
    struct cache_store *s = store_co_open("a");
    uint8_t buf[BLOCK];
    unsigned good;

    for (uint64_t block = 0; block < SLOTS; block++) {
        store_co_put(s, 'a', block, 1);
    }
    cache_store_co_read(s, 2, 1, buf, &good);
    g_assert_cmpuint(good, ==, 1);
    cache_store_co_close(s);
    s = store_co_open("a");
    for (uint64_t block = SLOTS; block < 2 * SLOTS - 1; block++) {
        store_co_put(s, 'a', block, 1);
    }
    for (uint64_t block = 0; block < SLOTS; block++) {
        g_assert_cmpuint(cache_store_run(s, block, 1), ==, block == 2);
    }
    g_assert_cmpuint(store_co_verify(s, 'a'), ==, SLOTS);
    cache_store_co_close(s);
}

/* --- the frame --- */

struct frame {
    void (*entry)(void *arg);
};

static CO_FN void frame_entry(void *arg)
{
    struct frame *f = arg;

    f->entry(NULL);
    loop_stop(loop_current());
}

static void run(gconstpointer entry)
{
    uint64_t seed = (uint64_t)g_test_rand_int() & 0x7fffffff;
    struct loop_options o = SIM_OPTIONS(seed);
    struct frame f = { (void (*)(void *))entry };
    struct loop *l;

    g_test_message("seed %u", (unsigned)seed);
    rnd = g_rand_new_with_seed((guint32)seed);
    damaged = full = 0;
    g_assert_cmpint(loop_new(&o, &l, NULL), ==, 0);
    co_start(l, frame_entry, &f);
    loop_run(l);
    loop_free(l);
    g_rand_free(rnd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/cache-store/power-loss", power_loss_entry, run);
    g_test_add_data_func("/cache-store/damage", damage_entry, run);
    g_test_add_data_func("/cache-store/faults", fault_entry, run);
    g_test_add_data_func("/cache-store/use", use_entry, run);
    return g_test_run();
}
