/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters against zlib and zstd themselves, hostile streams, and
 * the promise that the loop goes on meanwhile, a few computations at a time.
 */
#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include "format/alloc/codec.h"
#include "format/alloc/cpu-pool.h"
#include "loop/loop.h"

enum { CLUSTER = 65536, CANARY = 0x5a, GUARD = 64 };

static const enum codec codecs[] = { CODEC_DEFLATE, CODEC_ZSTD };

static GRand *rng;

/* Text-like: compresses to about a third. */
static void fill_text(uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)("etaoin shrdlu"[g_rand_int_range(rng, 0, 13)]);
    }
}

static void fill_noise(uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)g_rand_int(rng);
    }
}

/* What the library itself makes of @src. */
static size_t reference_compress(enum codec c, const uint8_t *src, size_t len,
                                 uint8_t *dst, size_t max)
{
    z_stream z = { .next_in = (Bytef *)src,
                   .avail_in = (uInt)len,
                   .next_out = dst,
                   .avail_out = (uInt)max };

    if (c == CODEC_ZSTD) {
        size_t r = ZSTD_compress(dst, max, src, len, 7);

        g_assert_false(ZSTD_isError(r));
        return r;
    }
    g_assert_cmpint(deflateInit2(&z, 9, Z_DEFLATED, -12, 8, Z_DEFAULT_STRATEGY),
                    ==, Z_OK);
    g_assert_cmpint(deflate(&z, Z_FINISH), ==, Z_STREAM_END);
    deflateEnd(&z);
    return max - z.avail_out;
}

static void reference_decompress(enum codec c, const uint8_t *src, size_t len,
                                 uint8_t *dst, size_t want)
{
    z_stream z = { .next_in = (Bytef *)src,
                   .avail_in = (uInt)len,
                   .next_out = dst,
                   .avail_out = (uInt)want };

    if (c == CODEC_ZSTD) {
        g_assert_cmpuint(ZSTD_decompress(dst, want, src, len), ==, want);
        return;
    }
    g_assert_cmpint(inflateInit2(&z, -12), ==, Z_OK);
    g_assert_cmpint(inflate(&z, Z_FINISH), ==, Z_STREAM_END);
    g_assert_cmpuint(z.avail_out, ==, 0);
    inflateEnd(&z);
}

struct bufs {
    uint8_t *plain, *small, *out; /* @out has GUARD bytes after CLUSTER */
};

static struct bufs bufs_new(void)
{
    struct bufs b = { g_malloc(CLUSTER), g_malloc(2 * CLUSTER),
                      g_malloc(CLUSTER + GUARD) };

    fill_text(b.plain, CLUSTER);
    memset(b.small, 0xee, 2 * CLUSTER);
    memset(b.out, CANARY, CLUSTER + GUARD);
    return b;
}

static void bufs_free(struct bufs *b)
{
    for (unsigned i = 0; i < GUARD; i++) {
        g_assert_cmpuint(b->out[CLUSTER + i], ==, CANARY);
    }
    g_free(b->plain);
    g_free(b->small);
    g_free(b->out);
}

static void test_libraries(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len = 0;

        g_assert_cmpint(codec_compress(codecs[i], b.plain, CLUSTER, b.small,
                                       CLUSTER - 1, &len),
                        ==, 0);
        g_assert_cmpuint(len, <, CLUSTER * 2 / 3);
        reference_decompress(codecs[i], b.small, len, b.out, CLUSTER);
        g_assert_cmpmem(b.out, CLUSTER, b.plain, CLUSTER);

        fill_text(b.plain, CLUSTER);
        len = reference_compress(codecs[i], b.plain, CLUSTER, b.small,
                                 2 * CLUSTER);
        g_assert_cmpint(
            codec_decompress(codecs[i], b.small, len, b.out, CLUSTER), ==, 0);
        g_assert_cmpmem(b.out, CLUSTER, b.plain, CLUSTER);
        bufs_free(&b);
    }
}

/* Lengths are rounded up in images: what follows the stream does not count. */
static void test_trailing(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len = 0;

        g_assert_cmpint(codec_compress(codecs[i], b.plain, CLUSTER, b.small,
                                       CLUSTER - 1, &len),
                        ==, 0);
        fill_noise(b.small + len, 511);
        g_assert_cmpint(
            codec_decompress(codecs[i], b.small, len + 511, b.out, CLUSTER), ==,
            0);
        g_assert_cmpmem(b.out, CLUSTER, b.plain, CLUSTER);
        bufs_free(&b);
    }
}

static void test_does_not_fit(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len = 77;

        fill_noise(b.plain, CLUSTER);
        g_assert_cmpint(codec_compress(codecs[i], b.plain, CLUSTER, b.out,
                                       CLUSTER - 1, &len),
                        ==, -ENOSPC);
        g_assert_cmpuint(len, ==, 77);
        g_assert_cmpint(
            codec_compress(codecs[i], b.plain, CLUSTER, b.out, 0, &len), ==,
            -ENOSPC);
        bufs_free(&b);
    }
}

static void test_truncated(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len = 0;

        g_assert_cmpint(codec_compress(codecs[i], b.plain, CLUSTER, b.small,
                                       CLUSTER - 1, &len),
                        ==, 0);
        for (size_t cut = 0; cut < len - 64; cut += cut < 300 ? 1 : 511) {
            g_assert_cmpint(
                codec_decompress(codecs[i], b.small, cut, b.out, CLUSTER), ==,
                -EIO);
        }
        bufs_free(&b);
    }
}

/* The stream holds less than a cluster, or more. */
static void test_wrong_length(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len;

        len = reference_compress(codecs[i], b.plain, CLUSTER - 1, b.small,
                                 2 * CLUSTER);
        g_assert_cmpint(
            codec_decompress(codecs[i], b.small, len, b.out, CLUSTER), ==,
            -EIO);
        len = reference_compress(codecs[i], b.plain, CLUSTER, b.small,
                                 2 * CLUSTER);
        memset(b.out, CANARY, CLUSTER);
        codec_decompress(codecs[i], b.small, len, b.out, CLUSTER / 2);
        for (unsigned at = CLUSTER / 2; at < CLUSTER; at++) {
            g_assert_cmpuint(b.out[at], ==, CANARY);
        }
        bufs_free(&b);
    }
}

static void test_hostile(void)
{
    for (unsigned round = 0; round < 400; round++) {
        enum codec c = codecs[round % G_N_ELEMENTS(codecs)];
        struct bufs b = bufs_new();
        size_t len = 0;
        int r;

        codec_compress(c, b.plain, CLUSTER, b.small, CLUSTER - 1, &len);
        if (round % 4 == 3) {
            fill_noise(b.small, len);
        }
        for (unsigned i = 0; i < 1 + round % 8; i++) {
            b.small[g_rand_int_range(rng, 0, (gint32)len)] ^= (uint8_t)
                g_rand_int_range(rng, 1, 256);
        }
        r = codec_decompress(c, b.small, len, b.out, CLUSTER);
        g_assert_true(r == 0 || r == -EIO);
        bufs_free(&b);
    }
}

/* A frame that asks for a window of 128 MiB gets nothing. */
static void test_zstd_window(void)
{
    struct bufs b = bufs_new();
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_outBuffer out = { b.small, 2 * CLUSTER, 0 };
    ZSTD_inBuffer in = { b.plain, CLUSTER, 0 };

    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, 27);
    /* Of unknown length, or the library would shrink the window. */
    ZSTD_compressStream2(c, &out, &in, ZSTD_e_flush);
    g_assert_cmpuint(ZSTD_compressStream2(c, &out, &in, ZSTD_e_end), ==, 0);
    g_assert_cmpint(
        codec_decompress(CODEC_ZSTD, b.small, out.pos, b.out, CLUSTER), ==,
        -EIO);
    ZSTD_freeCCtx(c);
    bufs_free(&b);
}

/* --- off the loop --- */

static void on_loop(void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = { .engine = IO_ENGINE_THREADS };
    GError *err = NULL;
    struct loop *l;

    loop_new(&opts, &l, &err);
    g_assert_no_error(err);
    co_start(l, fn, arg);
    while (co_count(l)) {
        loop_turn(l, true);
    }
    loop_free(l);
}

struct crowd {
    struct cpu_pool cpu_pool;
    pthread_mutex_t lock; /* one that the sanitizers know */
    pthread_cond_t cond;
    unsigned now, most, done;
    bool go;
};

static void crowd_compute(void *arg)
{
    struct crowd *w = arg;

    pthread_mutex_lock(&w->lock);
    w->now++;
    w->most = MAX(w->most, w->now);
    while (!w->go) { /* set by a coroutine of the loop */
        pthread_cond_wait(&w->cond, &w->lock);
    }
    w->now--;
    w->done++;
    pthread_mutex_unlock(&w->lock);
}

static CO_FN void crowd_member_entry(void *arg)
{
    struct crowd *w = arg;

    cpu_pool_co_run(&w->cpu_pool, crowd_compute, w);
}

static CO_FN void crowd_entry(void *arg)
{
    struct crowd *w = arg;
    unsigned now = 0;

    for (unsigned i = 0; i < 40; i++) {
        co_start(co_loop(co_self()), crowd_member_entry, w);
    }
    while (now < 2) {
        co_sleep(1000000);
        pthread_mutex_lock(&w->lock);
        now = w->now;
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_lock(&w->lock);
    w->go = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void test_pool(void)
{
    struct crowd w = { .now = 0 };

    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.cond, NULL);
    on_loop(crowd_entry, &w);
    g_assert_cmpuint(w.done, ==, 40);
    g_assert_cmpuint(w.most, >=, 2);
    g_assert_cmpuint(w.most, <=, 8);
    g_assert_cmpuint(w.cpu_pool.running, ==, 0);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.cond);
}

static CO_FN void codec_entry(void *arg)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(codecs); i++) {
        struct bufs b = bufs_new();
        size_t len = 0;

        g_assert_cmpint(codec_co_compress(arg, codecs[i], b.plain, CLUSTER,
                                          b.small, CLUSTER - 1, &len),
                        ==, 0);
        g_assert_cmpint(
            codec_co_decompress(arg, codecs[i], b.small, len, b.out, CLUSTER),
            ==, 0);
        g_assert_cmpmem(b.out, CLUSTER, b.plain, CLUSTER);
        g_assert_cmpint(codec_co_decompress(arg, codecs[i], b.small, len / 2,
                                            b.out, CLUSTER),
                        ==, -EIO);
        bufs_free(&b);
    }
}

static void test_off_loop(void)
{
    struct cpu_pool o = { 0 };

    on_loop(codec_entry, &o);
}

int main(int argc, char **argv)
{
    guint32 seed;
    int ret;

    g_test_init(&argc, &argv, NULL);
    seed = g_test_rand_int_range(0, INT32_MAX);
    rng = g_rand_new_with_seed(seed);
    g_test_message("seed %u", seed);
    g_test_add_func("/codec/libraries", test_libraries);
    g_test_add_func("/codec/trailing", test_trailing);
    g_test_add_func("/codec/does-not-fit", test_does_not_fit);
    g_test_add_func("/codec/truncated", test_truncated);
    g_test_add_func("/codec/wrong-length", test_wrong_length);
    g_test_add_func("/codec/hostile", test_hostile);
    g_test_add_func("/codec/zstd-window", test_zstd_window);
    g_test_add_func("/codec/pool", test_pool);
    g_test_add_func("/codec/off-loop", test_off_loop);
    ret = g_test_run();
    g_rand_free(rng);
    return ret;
}
