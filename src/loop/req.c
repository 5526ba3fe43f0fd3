/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests: from the coroutine to the engine and back. */
#include "loop/loop-priv.h"

/* Requests in a row that an engine may complete at once before their coroutine
 * has to let others run. */
#define MAX_INLINE 32

int64_t io_req_co_run(struct io_req *r)
{
    r->co = co_self();
    g_assert(r->co);
    r->loop = r->co->loop;
    r->done = false;
    r->loop->engine->submit(r->loop, r);
    if (!r->done) {
        r->loop->n_inline = 0;
    } else if (++r->loop->n_inline >= MAX_INLINE) {
        r->loop->n_inline = 0;
        co_relax();
    }
    while (!r->done) {
        co_block();
    }
    return r->result;
}

void io_req_complete(struct io_req *r, int64_t result)
{
    g_assert(!r->done);
    r->result = result;
    r->done = true;
    co_unblock(r->co);
}
