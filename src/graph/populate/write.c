/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Absent clusters of the overlay are written: S1 and S2 stand here.
 *
 * The base was read with nothing locked.  populate_co_write() takes the clusters
 * with TRACK_ALLOC, asks again which of them the overlay lacks, and writes those
 * alone.  A guest write that came in between has allocated its cluster, so the
 * copy of it is dropped.  Clusters never lose their allocation (S3, G8), so a
 * cluster found allocated stays so.
 *
 * The overlay is not asked again where nothing has changed it since it was
 * asked first: ->write_gen counts all changes, and each has counted before the
 * range that it held is let go.  So a read of a disk at rest asks once.
 */
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/populate/populate-int.h"
#include "graph/trace.h"
#include "graph/track.h"
#include "loop/io.h"

static bool bytes_are_zero(const uint8_t *buf, size_t len)
{
    return buf[0] == 0 && !memcmp(buf, buf + 1, len - 1);
}

/* Where the zeroes (or the other bytes) that begin at @buf end, in whole
 * clusters; the last cluster may be short. */
static size_t same_run(const uint8_t *buf, size_t len, size_t cluster,
                       bool *ret_zero)
{
    size_t at = MIN(cluster, len);

    *ret_zero = bytes_are_zero(buf, at);
    while (at < len) {
        size_t step = MIN(cluster, len - at);

        if (bytes_are_zero(buf + at, step) != *ret_zero) {
            break;
        }
        at += step;
    }
    return at;
}

/* Write zeroes where the overlay has no zero clusters. */
static CO_FN int write_co_zeroes_as_data(struct populate_work *w, uint64_t off,
                                         uint64_t len)
{
    size_t size = MIN(len, w->piece_max);
    void *buf = io_buf_get(size);
    int r = 0;

    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, size);
    while (len > 0 && r == 0) {
        struct iovec store;
        size_t step = MIN(len, size);

        r = node_co_pwritev(w->n, off, iov_one(&store, buf, step),
                            w->io_flags | IO_POPULATE);
        off += step;
        len -= step;
    }
    io_buf_put(buf, size);
    return r;
}

static CO_FN int write_co_zero(struct populate_work *w, uint64_t off,
                               uint64_t len)
{
    int r = node_co_zero(w->n, off, len,
                         w->io_flags | IO_POPULATE | IO_MAY_UNMAP);

    if (r == -ENOTSUP) {
        r = write_co_zeroes_as_data(w, off, len);
    }
    if (r == 0) {
        w->res.zeroed += len;
    }
    return r;
}

/* Map clusters that the overlay lacks; the range is held. @buf: their bytes,
 * NULL: zeroes. */
static CO_FN int absent_co_write(struct populate_work *w, uint64_t off,
                                 uint64_t len, uint8_t *buf)
{
    size_t at = 0;
    int r = 0;

    if (!buf) {
        return write_co_zero(w, off, len);
    }
    while (at < len && r == 0) {
        bool zero;
        size_t step = same_run(buf + at, len - at, w->cluster, &zero);

        if (zero) {
            r = write_co_zero(w, off + at, step);
        } else {
            struct iovec store;

            node_co_debug_event(node_file(w->n), DEBUG_COR_WRITE);
            r = node_co_pwritev(w->n, off + at, iov_one(&store, buf + at, step),
                                w->io_flags | IO_POPULATE);
            w->res.copied += r == 0 ? step : 0;
        }
        at += step;
    }
    return r;
}

int populate_co_ask_again(const struct populate_work *w, uint64_t gen,
                          uint64_t pos, uint64_t end, struct mapping *ret_map)
{
    if (w->n->priv->write_gen == gen) {
        *ret_map = (struct mapping) { .kind = MAP_ABSENT, .len = end - pos };
        return 0;
    }
    return node_co_map(w->n, pos, end - pos, ret_map);
}

int populate_co_write(struct populate_work *w, uint64_t off, uint64_t len,
                      uint8_t *buf, uint64_t gen)
{
    struct tracked t;
    uint64_t pos = off, end;
    int r = 0;

    track_co_begin(&t, w->n, off, len, TRACK_ALLOC);
    end = MIN(off + len, w->n->size);
    if (!node_is_writable(w->n)) {
        r = -EPERM;
    }
    while (pos < end && r == 0) {
        struct mapping m;

        r = populate_co_ask_again(w, gen, pos, end, &m);
        if (r < 0) {
            break;
        }
        if (m.kind == MAP_ABSENT) {
            r = absent_co_write(w, pos, m.len, buf ? buf + (pos - off) : NULL);
        }
        pos += m.len;
    }
    track_end(&t);
    trace_populate_map(w->n->name, off, len, r);
    return r;
}
