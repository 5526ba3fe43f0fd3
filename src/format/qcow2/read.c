/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads: each run from where it is. */
#include "base/math.h"
#include "format/backing.h"
#include "format/each.h"
#include "format/qcow2/qcow2.h"

int qcow2_co_read_data(struct qcow2_image *img, uint64_t off, uint64_t host,
                       struct iov iov, unsigned flags)
{
    node_co_debug_event(qcow2_file(img), DEBUG_READ_AIO);
    return img->crypt ? qcow2_co_crypt_read(img, off, host, iov, flags)
                      : qcow2_co_data_read(img, host, iov, flags);
}

int qcow2_co_read_run(struct qcow2_image *img, const struct qcow2_run *run,
                      uint64_t off, struct iov iov, unsigned flags)
{
    switch (run->kind) {
    case QCOW2_DATA:
        return qcow2_co_read_data(img, off, run->host, iov, flags);
    case QCOW2_PACKED:
        return qcow2_co_read_packed(img, run, off, iov, flags);
    case QCOW2_ZERO:
        iov_memset(iov, 0, 0, iov.len);
        return 0;
    default:
        return format_co_read_backing(img->node, off, iov, flags);
    }
}

/* Runs of one request that are read at once: fragments of a cluster or more
 * each, compressed clusters on several processors. */
enum { RUNS_AT_ONCE = 16 };

struct batch {
    struct qcow2_image *img;
    uint64_t off;                  /* of the request */
    struct iov iov;
    unsigned flags, n;
    size_t at[RUNS_AT_ONCE];       /* in @iov */
    struct qcow2_run runs[RUNS_AT_ONCE];
};

static CO_FN int batch_co_lookup(struct batch *b, size_t *done)
{
    int ret = 0;

    for (b->n = 0; b->n < RUNS_AT_ONCE && *done < b->iov.len && ret == 0;
         b->n++) {
        struct qcow2_run *run = &b->runs[b->n];

        ret = qcow2_co_lookup(b->img, b->off + *done, b->iov.len - *done, run);
        b->at[b->n] = *done;
        *done += ret == 0 ? run->len : 0;
    }
    return ret;
}

static CO_FN int batch_co_read(void *arg, unsigned i)
{
    struct batch *b = arg;

    return qcow2_co_read_run(b->img, &b->runs[i], b->off + b->at[i],
                             iov_slice(b->iov, b->at[i], b->runs[i].len),
                             b->flags);
}

int qcow2_co_preadv(struct node *n, uint64_t off, struct iov iov,
                    unsigned flags)
{
    struct batch b = {
        .img = qcow2_image(n), .off = off, .iov = iov, .flags = flags,
    };
    uint64_t epoch = qcow2_access_begin(b.img);
    size_t done = 0;
    int ret = 0;

    while (done < iov.len && ret == 0) {
        ret = batch_co_lookup(&b, &done);
        if (ret == 0) {
            ret = b.n == 1 ? batch_co_read(&b, 0)
                : each_co_run(b.img->loop, b.n, b.n, batch_co_read, &b);
        }
    }
    qcow2_access_end(b.img, epoch);
    return ret;
}
