/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy engine for one command; see copy-run.h. */
#include "cli/copy-run.h"

#include <inttypes.h>

#include "base/err.h"
#include "base/iov.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/copy/copy.h"

void copy_run_progress(void *arg, uint64_t offset)
{
    struct copy_run *p = arg;

    percent_update(&p->percent, offset, p->total);
}

CO_FN int copy_run_co_error(void *arg, uint64_t off, bool is_read, int errnum)
{
    struct copy_run *p = arg;

    p->error = -errnum;
    p->error_offset = off;
    p->error_is_read = is_read;
    return -errnum;
}

CO_FN int copy_run_co_pause_point(void *arg)
{
    return 0;
}

CO_FN int copy_run_co_run(struct copy_run *p, const struct copy_ops *ops,
                          struct graph *g, GError **err)
{
    struct copy_params params = {
        .end = p->total,
        .chunk = COPY_RUN_CHUNK,
        .cluster = CLAMP(p->cluster, 4096, COPY_RUN_CHUNK),
        .speed = p->speed,
    };
    struct copy *c;
    int r;

    p->cluster = params.cluster;
    c = copy_new(graph_loop(g), ops, p, &params);
    r = copy_co_run(c);
    copy_free(c);
    if (r < 0) {
        err_set_errno(err, -r, "error while %s at byte %" PRIu64,
                      p->error_is_read ? "reading" : "writing",
                      p->error_offset);
    }
    return r;
}

CO_FN int copy_run_co_read(struct backend *u, uint64_t off, void *buf,
                           uint64_t len)
{
    struct iovec v;

    return backend_co_preadv(u, off, iov_one(&v, buf, len), 0);
}

CO_FN int copy_run_co_write(struct backend *u, uint64_t off, void *buf,
                            uint64_t len)
{
    struct iovec v;

    return backend_co_pwritev(u, off, iov_one(&v, buf, len), 0);
}
