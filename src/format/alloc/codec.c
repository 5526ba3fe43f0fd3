/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression and decompression of clusters; codec.h has the rules.
 */
#include "format/alloc/codec.h"
#include <errno.h>
#include <glib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>
#include "format/alloc/cpu-pool.h"

/* One cluster of work; which members count depends on the direction. */
struct task {
    enum codec codec;
    const void *src;
    size_t src_len;
    void *dst;
    size_t dst_len;
    size_t *ret_len;
    int result;
};

/* What a thread keeps from one cluster to the next: to make a context takes as
 * long as to use it. All are NULL or as good as new between two uses. */
struct contexts {
    ZSTD_CCtx *zstd_c;
    ZSTD_DCtx *zstd_d;
    z_stream *deflate, *inflate;
};

static void contexts_free(void *arg)
{
    struct contexts *c = arg;

    ZSTD_freeCCtx(c->zstd_c);
    ZSTD_freeDCtx(c->zstd_d);
    if (c->deflate) {
        deflateEnd(c->deflate);
    }
    if (c->inflate) {
        inflateEnd(c->inflate);
    }
    g_free(c->deflate);
    g_free(c->inflate);
    g_free(c);
}

static struct contexts *contexts_get(void)
{
    static GPrivate key = G_PRIVATE_INIT(contexts_free);
    struct contexts *c = g_private_get(&key);

    if (!c) {
        c = g_new0(struct contexts, 1);
        g_private_set(&key, c);
    }
    return c;
}

/* zlib counts in unsigned int; a cluster is far below. */
static bool fits_zlib(size_t src_len, size_t dst_len)
{
    return src_len <= UINT_MAX && dst_len <= UINT_MAX;
}

static void stream_set(z_stream *z, const void *src, size_t src_len, void *dst,
                       size_t dst_len)
{
    z->next_in = (Bytef *)src;
    z->avail_in = (uInt)src_len;
    z->next_out = dst;
    z->avail_out = (uInt)dst_len;
}

/* NULL: memory is short. */
static z_stream *inflater_get(void)
{
    struct contexts *c = contexts_get();
    z_stream *z;

    if (!c->inflate) {
        z = g_new0(z_stream, 1);
        if (inflateInit2(z, -CODEC_DEFLATE_WINDOW_BITS) != Z_OK) {
            g_free(z);
            return NULL;
        }
        c->inflate = z;
    }
    return c->inflate;
}

static z_stream *deflater_get(void)
{
    enum { MEM_LEVEL = 9 };
    struct contexts *c = contexts_get();
    z_stream *z;

    if (!c->deflate) {
        z = g_new0(z_stream, 1);
        if (deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
                         -CODEC_DEFLATE_WINDOW_BITS, MEM_LEVEL,
                         Z_DEFAULT_STRATEGY) != Z_OK) {
            g_free(z);
            return NULL;
        }
        c->deflate = z;
    }
    return c->deflate;
}

static int deflate_decompress(const void *src, size_t src_len, void *dst,
                              size_t dst_len)
{
    z_stream *z = inflater_get();
    bool full;
    int r;

    if (!fits_zlib(src_len, dst_len)) {
        return -EIO;
    }
    if (!z) {
        return -ENOMEM;
    }
    stream_set(z, src, src_len, dst, dst_len);
    r = inflate(z, Z_FINISH);
    full = z->avail_out == 0;
    inflateReset(z);
    if (r == Z_MEM_ERROR) {
        return -ENOMEM;
    }
    /* A full buffer is enough, whatever the stream would say after it. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && full ? 0 : -EIO;
}

static int deflate_compress(const void *src, size_t src_len, void *dst,
                            size_t dst_max, size_t *ret_len)
{
    z_stream *z = deflater_get();
    size_t left;
    int r;

    if (!fits_zlib(src_len, dst_max)) {
        return -ENOSPC;
    }
    if (!z) {
        return -ENOMEM;
    }
    stream_set(z, src, src_len, dst, dst_max);
    r = deflate(z, Z_FINISH);
    left = z->avail_out;
    deflateReset(z);
    if (r != Z_STREAM_END) {
        return -ENOSPC;
    }
    *ret_len = dst_max - left;
    return 0;
}

static int zstd_decompress(const void *src, size_t src_len, void *dst,
                           size_t dst_len)
{
    ZSTD_outBuffer out = { dst, dst_len, 0 };
    ZSTD_inBuffer in = { src, src_len, 0 };
    struct contexts *c = contexts_get();
    ZSTD_DCtx *d = c->zstd_d ? c->zstd_d : ZSTD_createDCtx();
    int ret = 0;

    if (!d) {
        return -ENOMEM;
    }
    c->zstd_d = d;
    ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, CODEC_ZSTD_WINDOW_MAX);
    while (out.pos < out.size && ret == 0) {
        size_t in_was = in.pos, out_was = out.pos;
        size_t r = ZSTD_decompressStream(d, &out, &in);

        if (ZSTD_isError(r)) {
            ret = ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation ? -ENOMEM
                                                                       : -EIO;
        } else if (in.pos == in_was && out.pos == out_was) {
            ret = -EIO; /* it wants more than there is */
        }
    }
    ZSTD_DCtx_reset(d, ZSTD_reset_session_only);
    return ret;
}

static int zstd_compress(const void *src, size_t src_len, void *dst,
                         size_t dst_max, size_t *ret_len)
{
    ZSTD_outBuffer out = { dst, dst_max, 0 };
    ZSTD_inBuffer in = { src, src_len, 0 };
    struct contexts *kept = contexts_get();
    ZSTD_CCtx *c = kept->zstd_c ? kept->zstd_c : ZSTD_createCCtx();
    size_t r;

    if (!c) {
        return -ENOMEM;
    }
    kept->zstd_c = c;
    r = ZSTD_compressStream2(c, &out, &in, ZSTD_e_end);
    ZSTD_CCtx_reset(c, ZSTD_reset_session_only);
    if (r != 0) { /* an error, or bytes that did not fit */
        return ZSTD_isError(r) &&
                       ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation
                   ? -ENOMEM
                   : -ENOSPC;
    }
    *ret_len = out.pos;
    return 0;
}

int codec_decompress(enum codec c, const void *src, size_t src_len, void *dst,
                     size_t dst_len)
{
    return c == CODEC_ZSTD ? zstd_decompress(src, src_len, dst, dst_len)
                           : deflate_decompress(src, src_len, dst, dst_len);
}

int codec_compress(enum codec c, const void *src, size_t src_len, void *dst,
                   size_t dst_max, size_t *ret_len)
{
    return c == CODEC_ZSTD
               ? zstd_compress(src, src_len, dst, dst_max, ret_len)
               : deflate_compress(src, src_len, dst, dst_max, ret_len);
}

static void task_decompress(void *arg)
{
    struct task *t = arg;

    t->result = codec_decompress(t->codec, t->src, t->src_len, t->dst,
                                 t->dst_len);
}

static void task_compress(void *arg)
{
    struct task *t = arg;

    t->result = codec_compress(t->codec, t->src, t->src_len, t->dst, t->dst_len,
                               t->ret_len);
}

int codec_co_decompress(struct cpu_pool *o, enum codec c, const void *src,
                        size_t src_len, void *dst, size_t dst_len)
{
    struct task t = { c, src, src_len, dst, dst_len, NULL, 0 };

    cpu_pool_co_run(o, task_decompress, &t);
    return t.result;
}

int codec_co_compress(struct cpu_pool *o, enum codec c, const void *src,
                      size_t src_len, void *dst, size_t dst_max,
                      size_t *ret_len)
{
    struct task t = { c, src, src_len, dst, dst_max, ret_len, 0 };

    cpu_pool_co_run(o, task_compress, &t);
    return t.result;
}
