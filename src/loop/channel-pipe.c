/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel pair in memory: two rings of bytes, one for each direction.
 *
 * Each end owns the ring that it reads from.  An end that is freed or shut
 * down leaves the other with its bytes and then the end of the stream; writes
 * of the other end give EPIPE.  Waiting is on queues of the loop, so a pair
 * works without descriptors, under the virtual clock too.
 */
#include <errno.h>
#include <string.h>
#include "loop/channel-int.h"
#include "loop/co.h"
#include "loop/loop.h"

struct channel_pipe {
    struct channel c;
    struct channel_pipe *peer; /* NULL once that was freed */
    char *ring;                /* what the peer wrote */
    size_t capacity, start, used;
    bool ended;               /* the peer writes no more */
    struct co_queue readable; /* this end's reader waits for bytes */
    struct co_queue writable; /* this end's writer, for the peer's room */
};

/* Wait on @q, up to the deadline if there is one. */
static CO_FN bool pipe_co_wait(struct co_queue *q, uint64_t deadline_ns)
{
    if (deadline_ns) {
        return co_queue_co_wait_until(q, deadline_ns);
    }
    co_queue_co_wait(q);
    return true;
}

static uint64_t pipe_deadline(struct channel *c, uint64_t timeout_ns)
{
    return timeout_ns ? loop_clock_ns(c->loop) + timeout_ns : 0;
}

static CO_FN ssize_t pipe_co_recv(struct channel *c, void *buf, size_t len,
                                  uint64_t timeout_ns)
{
    struct channel_pipe *p = (struct channel_pipe *)c;
    uint64_t deadline = pipe_deadline(c, timeout_ns);
    size_t n, first;

    while (p->used == 0) {
        if (c->shut) {
            return -ESHUTDOWN;
        }
        if (p->ended) {
            return 0;
        }
        if (!pipe_co_wait(&p->readable, deadline) && p->used == 0) {
            return -ETIMEDOUT;
        }
    }
    n = MIN(len, p->used);
    first = MIN(n, p->capacity - p->start);
    memcpy(buf, p->ring + p->start, first);
    memcpy((char *)buf + first, p->ring, n - first);
    p->start = (p->start + n) % p->capacity;
    p->used -= n;
    if (p->peer) {
        co_queue_wake_all(&p->peer->writable);
    }
    return (ssize_t)n;
}

static CO_FN ssize_t pipe_co_send(struct channel *c, struct iov iov,
                                  uint64_t timeout_ns)
{
    struct channel_pipe *p = (struct channel_pipe *)c;
    uint64_t deadline = pipe_deadline(c, timeout_ns);
    struct channel_pipe *to;
    bool timed_out = false;
    size_t n, end, first;

    for (;;) {
        to = p->peer;
        if (c->shut) {
            return -ESHUTDOWN;
        }
        if (!to || to->c.shut) {
            return -EPIPE;
        }
        if (to->used < to->capacity) {
            break;
        }
        if (timed_out) {
            return -ETIMEDOUT;
        }
        if (!pipe_co_wait(&p->writable, deadline)) {
            timed_out = true;
        }
    }
    n = MIN(iov.len, to->capacity - to->used);
    end = (to->start + to->used) % to->capacity;
    first = MIN(n, to->capacity - end);
    iov_to_buf(iov, 0, to->ring + end, first);
    if (n > first) {
        iov_to_buf(iov, first, to->ring, n - first);
    }
    to->used += n;
    co_queue_wake_all(&to->readable);
    return (ssize_t)n;
}

static void pipe_shutdown(struct channel *c)
{
    struct channel_pipe *p = (struct channel_pipe *)c;

    co_queue_wake_all(&p->readable);
    co_queue_wake_all(&p->writable);
    if (p->peer) {
        p->peer->ended = true;
        co_queue_wake_all(&p->peer->readable);
        co_queue_wake_all(&p->peer->writable);
    }
}

static void pipe_shutdown_write(struct channel *c)
{
    struct channel_pipe *peer = ((struct channel_pipe *)c)->peer;

    if (peer) {
        peer->ended = true;
        co_queue_wake_all(&peer->readable);
    }
}

static bool pipe_peer_has_ended(const struct channel *c)
{
    return ((const struct channel_pipe *)c)->ended;
}

static void pipe_free(struct channel *c)
{
    struct channel_pipe *p = (struct channel_pipe *)c;

    /* Whoever of the peer waits does so on the peer's own queues. */
    pipe_shutdown(c);
    if (p->peer) {
        p->peer->peer = NULL;
    }
    g_free(p->ring);
    g_free(p);
}

static const struct channel_ops pipe_ops = {
    .co_recv = pipe_co_recv,
    .co_send = pipe_co_send,
    .shutdown = pipe_shutdown,
    .shutdown_write = pipe_shutdown_write,
    .peer_has_ended = pipe_peer_has_ended,
    .free = pipe_free,
};

void channel_new_pair(struct loop *l, size_t capacity,
                      struct channel *ret_ends[2])
{
    struct channel_pipe *ends[2];

    g_assert(capacity > 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = g_new0(struct channel_pipe, 1);
        channel_init(&ends[i]->c, &pipe_ops, l,
                     g_strdup_printf("memory pipe, end %d", i));
        ends[i]->capacity = capacity;
        ends[i]->ring = g_malloc(capacity);
    }
    ends[0]->peer = ends[1];
    ends[1]->peer = ends[0];
    ret_ends[0] = &ends[0]->c;
    ret_ends[1] = &ends[1]->c;
}
