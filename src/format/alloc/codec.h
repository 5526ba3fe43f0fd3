/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: raw deflate with a window of 4 KiB, and zstd.
 *
 * What is decompressed is foreign: whatever the bytes, memory is bounded (the
 * window a zstd frame may ask for is CODEC_ZSTD_WINDOW_MAX), the output never
 * exceeds its buffer, and a stream that yields less than the buffer is an
 * error.  Bytes after the end of the stream are ignored: what stores it rounds
 * its length up.
 */
#pragma once
#include <stddef.h>
#include "base/annot.h"

struct cpu_pool;

enum codec { CODEC_DEFLATE, CODEC_ZSTD };

enum {
    CODEC_DEFLATE_WINDOW_BITS = 12,
    CODEC_ZSTD_WINDOW_MAX = 23, /* log2 of bytes */
};

/* Fill all of @dst from @src. 0; -EIO the stream is damaged, ends too early or
 * asks for too much; -ENOMEM. Any thread; takes up to milliseconds. */
int codec_decompress(enum codec c, const void *src, size_t src_len, void *dst,
                     size_t dst_len);
/* Into at most @dst_max bytes. 0; -ENOSPC it does not fit, *@ret_len untouched;
 * -ENOMEM. Any thread. */
int codec_compress(enum codec c, const void *src, size_t src_len, void *dst,
                   size_t dst_max, size_t *ret_len);

/* The same off the loop. */
CO_FN int codec_co_decompress(struct cpu_pool *o, enum codec c, const void *src,
                              size_t src_len, void *dst, size_t dst_len);
CO_FN int codec_co_compress(struct cpu_pool *o, enum codec c, const void *src,
                            size_t src_len, void *dst, size_t dst_max,
                            size_t *ret_len);
