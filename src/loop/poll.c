/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for a descriptor, with a time limit. */
#include <errno.h>
#include "loop/channel.h"
#include "loop/loop-priv.h"

struct poll_limit {
    struct io_req *req;
    bool hit;
};

static void poll_expire(void *arg)
{
    struct poll_limit *limit = arg;
    struct io_req *r = limit->req;

    limit->hit = true;
    r->loop->engine->cancel(r->loop, r);
}

int64_t io_req_co_run_for(struct io_req *r, uint64_t timeout_ns)
{
    struct loop *l = loop_current();
    struct poll_limit limit = { .req = r };
    struct loop_timer t;
    int64_t res;

    if (timeout_ns) {
        loop_timer_init(&t, l, poll_expire, &limit);
        loop_timer_arm(&t, loop_clock_ns(l) + timeout_ns);
    }
    res = io_req_co_run(r);
    if (timeout_ns) {
        loop_timer_cancel(&t);
    }
    if (res == -ECANCELED && limit.hit) {
        return -ETIMEDOUT;
    }
    return res;
}

int channel_co_poll_fd(int fd, short events, uint64_t timeout_ns)
{
    struct io_req r = { .op = IO_OP_POLL, .fd = fd, .flags = events };

    return (int)io_req_co_run_for(&r, timeout_ns);
}
