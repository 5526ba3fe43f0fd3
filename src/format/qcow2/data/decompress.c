/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: reading.
 *
 * A stream is decompressed off the loop (format/alloc/codec.h).  A request for
 * a whole cluster gets it straight into its buffer; smaller ones go by a cache
 * of clusters, keyed by the L2 entry, so that a sequence of small reads, or
 * many at once, decompress a cluster once.  An entry means the same bytes for
 * as long as anything points to it; whoever writes a stream drops its key.
 *
 * The length of a stream is bounded by its entry: two clusters at most.
 */
#include <inttypes.h>
#include "base/math.h"
#include "format/alloc/codec.h"
#include "format/qcow2/data/compress.h"
#include "format/qcow2/data/data.h"
#include "format/qcow2/meta/meta.h"
#include "graph/memory.h"
#include "loop/io.h"

enum { CACHE_BYTES = 4 << 20, CACHE_CLUSTERS_MIN = 4 };

/* Fill @dst, one cluster, from the stream of @entry. */
static CO_FN int entry_co_decompress(struct qcow2_image *img, uint64_t entry,
                                     void *dst)
{
    struct qcow2_codec *c = img->codec;
    struct node *file = qcow2_file(img);
    struct iovec v;
    uint64_t host;
    uint32_t len;
    uint8_t *buf;
    int ret;

    qcow2_compressed_get(&img->shape, entry, &host, &len);
    if (host >= file->size) {
        return qcow2_co_corrupt(img, host,
                                "compressed data of %u bytes begins "
                                "behind the end of the file (run a check)",
                                len);
    }
    buf = io_buf_get(len);
    if (!buf) {
        return -ENOMEM;
    }
    node_co_debug_event(file, DEBUG_READ_COMPRESSED);
    ret = node_co_preadv(file, host, iov_one(&v, buf, len), 0);
    if (ret == 0) {
        ret = codec_co_decompress(&c->cpu_pool, c->codec, buf, len, dst,
                                  qcow2_cluster_size(img));
        if (ret == -EIO) {
            node_corrupt(img->node, NULL, host,
                         "compressed data of at most %u "
                         "bytes cannot be decompressed",
                         len);
        }
    }
    io_buf_put(buf, len);
    return ret;
}

static CO_FN int cluster_co_load(void *arg, struct table *t)
{
    return entry_co_decompress(arg, t->key, t->data);
}

struct qcow2_codec *qcow2_codec_get(struct qcow2_image *img)
{
    uint64_t cluster = qcow2_cluster_size(img);

    if (!img->codec) {
        img->codec = g_new0(struct qcow2_codec, 1);
        img->codec->codec = img->hdr.compression_type == QCOW2_ZSTD
                                ? CODEC_ZSTD
                                : CODEC_DEFLATE;
        metadata_cache_init(&img->codec->clusters, cluster,
                            max_u64(CACHE_BYTES, CACHE_CLUSTERS_MIN * cluster),
                            cluster_co_load, img);
        metadata_cache_set_budget(&img->codec->clusters,
                                  graph_memory(img->node->graph),
                                  img->opts.cache_idle_s);
    }
    return img->codec;
}

void qcow2_codec_close(struct qcow2_image *img)
{
    if (img->codec) {
        metadata_cache_done(&img->codec->clusters);
        g_clear_pointer(&img->codec, g_free);
    }
}

int qcow2_co_read_compressed(struct qcow2_image *img,
                             const struct qcow2_run *run, uint64_t off,
                             struct iov iov, unsigned flags)
{
    struct qcow2_codec *c = qcow2_codec_get(img);
    uint64_t cluster = qcow2_cluster_size(img);
    void *whole = iov.len == cluster ? iov_contiguous(iov) : NULL;
    struct table *t;
    int ret;

    if (whole && !metadata_cache_peek(&c->clusters, run->entry)) {
        return entry_co_decompress(img, run->entry, whole);
    }
    ret = metadata_cache_co_get(&c->clusters, run->entry, &t);
    if (ret == 0) {
        iov_from_buf(iov, 0, (uint8_t *)t->data + (off & (cluster - 1)),
                     iov.len);
        metadata_cache_put(&c->clusters, t);
    }
    return ret;
}
