/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads of what the graph cannot read by the map alone: compressed and
 * encrypted clusters; and, for this format's own copies, of any run.
 */
#include "base/math.h"
#include "format/alloc/backing.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/data/data.h"

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
    case QCOW2_DATA: return qcow2_co_read_data(img, off, run->host, iov, flags);
    case QCOW2_RUN_COMPRESSED:
        return qcow2_co_read_compressed(img, run, off, iov, flags);
    case QCOW2_ZERO: iov_memset(iov, 0, 0, iov.len); return 0;
    default: return format_co_read_backing(img->node, off, iov, flags);
    }
}

int qcow2_co_decode(struct node *n, uint64_t off, struct iov iov,
                    const struct mapping *m, unsigned flags)
{
    struct qcow2_run run = {
        .kind = m->info ? QCOW2_RUN_COMPRESSED : QCOW2_DATA,
        .len = iov.len,
        .host = m->host,
        .entry = m->info,
    };

    return qcow2_co_read_run(qcow2_image(n), &run, off, iov, flags);
}
