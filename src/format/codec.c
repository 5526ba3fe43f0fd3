/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compression and decompression of clusters; codec.h has the rules.
 */
#include "format/codec.h"
#include <errno.h>
#include <glib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>
#include "format/offload.h"

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

/* zlib counts in unsigned int; a cluster is far below. */
static bool fits_zlib(size_t src_len, size_t dst_len)
{
    return src_len <= UINT_MAX && dst_len <= UINT_MAX;
}

static z_stream deflate_stream(const void *src, size_t src_len, void *dst,
                               size_t dst_len)
{
    return (z_stream) {
        .next_in = (Bytef *) src, .avail_in = (uInt) src_len,
        .next_out = dst, .avail_out = (uInt) dst_len,
    };
}

static int deflate_decompress(const void *src, size_t src_len, void *dst,
                              size_t dst_len)
{
    z_stream z = deflate_stream(src, src_len, dst, dst_len);
    int r;

    if (!fits_zlib(src_len, dst_len)) {
        return -EIO;
    }
    r = inflateInit2(&z, -CODEC_DEFLATE_WINDOW_BITS);
    if (r == Z_OK) {
        r = inflate(&z, Z_FINISH);
        inflateEnd(&z);
    }
    if (r == Z_MEM_ERROR) {
        return -ENOMEM;
    }
    /* A full buffer is enough, whatever the stream would say after it. */
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0
           ? 0 : -EIO;
}

static int deflate_compress(const void *src, size_t src_len, void *dst,
                            size_t dst_max, size_t *ret_len)
{
    enum { MEM_LEVEL = 9 };
    z_stream z = deflate_stream(src, src_len, dst, dst_max);
    int r;

    if (!fits_zlib(src_len, dst_max)) {
        return -ENOSPC;
    }
    r = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
                     -CODEC_DEFLATE_WINDOW_BITS, MEM_LEVEL,
                     Z_DEFAULT_STRATEGY);
    if (r != Z_OK) {
        return -ENOMEM;
    }
    r = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    if (r != Z_STREAM_END) {
        return -ENOSPC;
    }
    *ret_len = dst_max - z.avail_out;
    return 0;
}

static int zstd_decompress(const void *src, size_t src_len, void *dst,
                           size_t dst_len)
{
    ZSTD_outBuffer out = { dst, dst_len, 0 };
    ZSTD_inBuffer in = { src, src_len, 0 };
    ZSTD_DStream *d = ZSTD_createDStream();
    int ret = 0;

    if (!d) {
        return -ENOMEM;
    }
    ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, CODEC_ZSTD_WINDOW_MAX);
    while (out.pos < out.size && ret == 0) {
        size_t in_was = in.pos, out_was = out.pos;
        size_t r = ZSTD_decompressStream(d, &out, &in);

        if (ZSTD_isError(r)) {
            ret = ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation
                  ? -ENOMEM : -EIO;
        } else if (in.pos == in_was && out.pos == out_was) {
            ret = -EIO; /* it wants more than there is */
        }
    }
    ZSTD_freeDStream(d);
    return ret;
}

static int zstd_compress(const void *src, size_t src_len, void *dst,
                         size_t dst_max, size_t *ret_len)
{
    ZSTD_outBuffer out = { dst, dst_max, 0 };
    ZSTD_inBuffer in = { src, src_len, 0 };
    ZSTD_CCtx *c = ZSTD_createCCtx();
    size_t r;

    if (!c) {
        return -ENOMEM;
    }
    r = ZSTD_compressStream2(c, &out, &in, ZSTD_e_end);
    ZSTD_freeCCtx(c);
    if (r != 0) { /* an error, or bytes that did not fit */
        return ZSTD_isError(r) &&
               ZSTD_getErrorCode(r) == ZSTD_error_memory_allocation
               ? -ENOMEM : -ENOSPC;
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

    t->result = codec_compress(t->codec, t->src, t->src_len, t->dst,
                               t->dst_len, t->ret_len);
}

int codec_co_decompress(struct offload *o, enum codec c, const void *src,
                        size_t src_len, void *dst, size_t dst_len)
{
    struct task t = { c, src, src_len, dst, dst_len, NULL, 0 };

    offload_co_run(o, task_decompress, &t);
    return t.result;
}

int codec_co_compress(struct offload *o, enum codec c, const void *src,
                      size_t src_len, void *dst, size_t dst_max,
                      size_t *ret_len)
{
    struct task t = { c, src, src_len, dst, dst_max, ret_len, 0 };

    offload_co_run(o, task_compress, &t);
    return t.result;
}
