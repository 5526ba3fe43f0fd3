/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters: writing.
 *
 * Whole clusters are compressed off the loop, several at once; streams stand
 * one behind another in clusters that they share, each with a reference to
 * every cluster that it touches.  Nothing is ever written over a stream: a
 * later write to the guest cluster gives it a host cluster of its own.
 */
#include <errno.h>
#include <string.h>
#include "base/math.h"
#include "format/qcow2/data/compress.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"
#include "loop/parallel.h"

enum { COMPRESS_AT_ONCE = 16 };

struct compress_write {
    struct qcow2_image *img;
    uint64_t off; /* a cluster boundary */
    struct iov iov;
};

/* An earlier stream at the same offset may still be cached. */
static void cache_forget(struct qcow2_image *img, uint64_t entry)
{
    struct metadata_cache *cache = &img->codec->clusters;
    struct table *t = metadata_cache_peek(cache, entry);

    if (t && t->refs == 0) {
        metadata_cache_forget(cache, entry);
    }
}

/* Put the stream of @len bytes somewhere and let cluster @idx be it. */
static CO_FN int stream_co_store(struct qcow2_image *img, uint64_t idx,
                                 void *buf, uint32_t len)
{
    uint64_t gen = group_join(img->group, len), host;
    struct qcow2_delta d = { .whole = true };
    struct qcow2_desc old;
    struct iovec v;
    int ret = qcow2_co_desc(img, idx, &old);

    if (ret == 0) {
        ret = qcow2_co_alloc_compressed(img, gen, len, &host);
    }
    if (ret != 0) {
        group_data_done(img->group, gen);
        return ret;
    }
    d.entry = qcow2_compressed_entry(&img->shape, host, len);
    ret = d.entry ? qcow2_co_check_overlap(img, QCOW2_META_DATA, host, len)
                  : -EFBIG;
    if (ret == 0) {
        node_co_debug_event(qcow2_file(img), DEBUG_L2_UPDATE_COMPRESSED);
        node_co_debug_event(qcow2_file(img), DEBUG_WRITE_COMPRESSED);
        ret = node_co_pwritev(qcow2_file(img), host, iov_one(&v, buf, len), 0);
    }
    if (ret == 0) {
        cache_forget(img, d.entry);
        qcow2_pending_add(img, gen, idx, &d);
        qcow2_free_desc(img, gen, old);
    } else {
        qcow2_unalloc(img, gen, host, len);
    }
    group_data_done(img->group, gen);
    return ret;
}

static CO_FN int stream_co_write(struct qcow2_image *img, uint64_t off,
                                 void *buf, uint32_t len)
{
    uint64_t idx = off >> img->cluster_bits;
    uint64_t epoch = qcow2_access_begin(img);
    struct qcow2_cluster_lock *c = qcow2_cluster_lock_co_get(img, idx, true);
    int ret = stream_co_store(img, idx, buf, len);

    qcow2_cluster_lock_put(img, c);
    qcow2_access_end(img, epoch);
    return ret;
}

/* -ENOSPC: it does not shrink. */
static CO_FN int cluster_co_compress(struct qcow2_image *img, struct iov part,
                                     void *out, size_t *ret_len)
{
    struct qcow2_codec *c = qcow2_codec_get(img);
    size_t cluster = qcow2_cluster_size(img);
    void *plain = part.len == cluster ? iov_contiguous(part) : NULL;
    uint8_t *copy = NULL;
    int ret;

    if (!plain) { /* the disk may end in the middle of a cluster */
        plain = copy = io_buf_get(cluster);
        if (!copy) {
            return -ENOMEM;
        }
        iov_to_buf(part, 0, copy, part.len);
        memset(copy + part.len, 0, cluster - part.len);
    }
    ret = codec_co_compress(&c->cpu_pool, c->codec, plain, cluster, out,
                            cluster - 1, ret_len);
    if (copy) {
        io_buf_put(copy, cluster);
    }
    return ret;
}

static CO_FN int cluster_co_write_compressed(void *arg, unsigned i)
{
    struct compress_write *p = arg;
    struct qcow2_image *img = p->img;
    size_t cluster = qcow2_cluster_size(img), at = i * cluster, len = 0;
    struct iov part = iov_slice(p->iov, at, min_u64(cluster, p->iov.len - at));
    uint8_t *out = io_buf_get(cluster);
    int ret;

    if (!out) {
        return -ENOMEM;
    }
    ret = cluster_co_compress(img, part, out, &len);
    if (ret == 0) {
        ret = stream_co_write(img, p->off + at, out, (uint32_t)len);
    } else if (ret == -ENOSPC) {
        ret = qcow2_co_write_plain(img, p->off + at, part);
    }
    io_buf_put(out, cluster);
    return ret;
}

int qcow2_co_write_compressed(struct qcow2_image *img, uint64_t off,
                              struct iov iov, unsigned flags)
{
    uint64_t mask = qcow2_cluster_size(img) - 1, end = off + iov.len;
    struct compress_write p = { img, off, iov };

    /* The dispatcher may have cut a request at parts that are allocated. */
    if (off & mask || (end & mask && end != img->node->size)) {
        return qcow2_co_write_plain(img, off, iov);
    }
    return parallel_co_for(img->loop,
                           (unsigned)((iov.len + mask) >> img->cluster_bits),
                           COMPRESS_AT_ONCE, cluster_co_write_compressed, &p);
}
