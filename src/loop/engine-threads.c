/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine for hosts that refuse io_uring: requests run on the thread pool,
 * readiness and wake-ups come from one epoll descriptor.
 *
 * A read that the page cache can answer is answered on the loop's thread; only
 * the others pay for a thread.  RWF_NOWAIT makes sure of that for reads through
 * the page cache alone: a direct read that it can start is also waited for, so
 * direct reads go to the pool at once.
 *
 * epoll knows a descriptor once, while any number of coroutines may wait for
 * it: struct watch holds them, armed one-shot for the union of their events.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/err.h"
#include "loop/loop-priv.h"
#include "loop/pool.h"

/* Longest read worth copying on the loop's thread. */
#define NOWAIT_MAX (256u << 10)
#define MAX_EVENTS 64

struct watch {
    int fd;
    struct io_req *reqs; /* the polls that wait for @fd */
};

struct engine {
    int epoll_fd;
    int wake_fd;
    bool no_pwait2;
    GHashTable *watches; /* fd -> struct watch, those with waiters */
};

static int threads_init(struct loop *l, const struct loop_options *opts,
                        GError **err)
{
    struct engine *e = g_new0(struct engine, 1);
    struct epoll_event ev = { .events = EPOLLIN };

    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ev.data.fd = e->wake_fd;
    if (e->epoll_fd < 0 || e->wake_fd < 0 ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->wake_fd, &ev) < 0) {
        int r = err_set_errno(err, errno, "Cannot set up the I/O engine");

        close(e->epoll_fd);
        close(e->wake_fd);
        g_free(e);
        return r;
    }
    e->watches = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    l->engine_state = e;
    return 0;
}

static void threads_done(struct loop *l)
{
    struct engine *e = l->engine_state;

    g_assert(g_hash_table_size(e->watches) == 0);
    g_hash_table_destroy(e->watches);
    close(e->epoll_fd);
    close(e->wake_fd);
    g_free(e);
}

static void threads_wake(struct loop *l)
{
    struct engine *e = l->engine_state;
    uint64_t one = 1;

    if (write(e->wake_fd, &one, sizeof(one)) < 0) {
        g_assert(errno == EAGAIN); /* wakes enough have piled up */
    }
}

/* Tell epoll what the waiters of @w want. 0 or -errno. */
static int engine_watch_arm(struct engine *e, struct watch *w)
{
    struct epoll_event ev = { .events = EPOLLONESHOT, .data.fd = w->fd };

    for (struct io_req *r = w->reqs; r; r = r->next) {
        ev.events |= (uint32_t)r->flags;
    }
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) == 0) {
        return 0;
    }
    if (errno == ENOENT &&
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) == 0) {
        return 0;
    }
    return -errno;
}

/* What epoll still holds of @w is disarmed or fires once into nothing: events
 * carry the descriptor, not @w. Leaving it there saves a system call a poll. */
static void watch_drop(struct engine *e, struct watch *w)
{
    if (!w->reqs) {
        g_hash_table_remove(e->watches, GINT_TO_POINTER(w->fd));
    }
}

static void threads_poll(struct engine *e, struct io_req *r)
{
    struct watch *w = g_hash_table_lookup(e->watches, GINT_TO_POINTER(r->fd));
    int err;

    if (!w) {
        w = g_new0(struct watch, 1);
        w->fd = r->fd;
        g_hash_table_insert(e->watches, GINT_TO_POINTER(r->fd), w);
    }
    r->next = w->reqs;
    w->reqs = r;
    err = engine_watch_arm(e, w);
    if (err < 0) {
        w->reqs = r->next;
        watch_drop(e, w);
        /* Files that epoll does not take are always ready, as in poll(2). */
        io_req_complete(r, err == -EPERM ? r->flags : err);
    }
}

static void threads_cancel(struct loop *l, struct io_req *r)
{
    struct engine *e = l->engine_state;
    struct watch *w = g_hash_table_lookup(e->watches, GINT_TO_POINTER(r->fd));

    for (struct io_req **p = w ? &w->reqs : NULL; p && *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            watch_drop(e, w);
            io_req_complete(r, -ECANCELED);
            return;
        }
    }
}

/* Complete the waiters for @fd that @revents concerns, arm for the others. */
static void watch_fire(struct engine *e, int fd, uint32_t revents)
{
    struct watch *w = g_hash_table_lookup(e->watches, GINT_TO_POINTER(fd));
    struct io_req **p = w ? &w->reqs : NULL;

    while (p && *p) {
        struct io_req *r = *p;
        uint32_t hit = revents & ((uint32_t)r->flags | EPOLLERR | EPOLLHUP);

        if (hit) {
            *p = r->next;
            io_req_complete(r, hit);
        } else {
            p = &r->next;
        }
    }
    if (w && w->reqs) {
        engine_watch_arm(e, w);
    } else if (w) {
        watch_drop(e, w);
    }
}

static void threads_submit(struct loop *l, struct io_req *r)
{
    if (r->op == IO_OP_POLL) {
        threads_poll(l->engine_state, r);
        return;
    }
    if (r->op == IO_OP_READ && !r->direct && r->len <= NOWAIT_MAX) {
        ssize_t n = preadv2(r->fd, r->iov, (int)r->n_iov, (off_t)r->off,
                            RWF_NOWAIT);

        if (n >= 0) {
            io_req_complete(r, n);
            return;
        }
    }
    io_req_to_pool(l, r);
}

static int epoll_wait_ns(struct engine *e, struct epoll_event *ev, int max,
                         int64_t timeout_ns)
{
    struct timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    int64_t ms;
    int n;

    if (!e->no_pwait2) {
        n = epoll_pwait2(e->epoll_fd, ev, max, timeout_ns < 0 ? NULL : &ts,
                         NULL);
        if (n >= 0 || errno != ENOSYS) {
            return n;
        }
        e->no_pwait2 = true;
    }
    ms = timeout_ns < 0
             ? -1
             : MIN(timeout_ns / 1000000 + (timeout_ns > 0), 3600 * 1000);
    return epoll_wait(e->epoll_fd, ev, max, (int)ms);
}

static void threads_wait(struct loop *l, int64_t timeout_ns)
{
    struct engine *e = l->engine_state;
    struct epoll_event ev[MAX_EVENTS];
    uint64_t count;
    int n;

    if (timeout_ns == 0 && g_hash_table_size(e->watches) == 0) {
        return;
    }
    n = epoll_wait_ns(e, ev, MAX_EVENTS, timeout_ns);
    for (int i = 0; i < n; i++) {
        if (ev[i].data.fd != e->wake_fd) {
            watch_fire(e, ev[i].data.fd, ev[i].events);
        } else if (read(e->wake_fd, &count, sizeof(count)) < 0) {
            g_assert(errno == EAGAIN);
        }
    }
}

/* What the pool has done comes as messages, which the loop looks at itself. */
static bool threads_peek(struct loop *l)
{
    struct pollfd p = { .fd = ((struct engine *)l->engine_state)->epoll_fd,
                        .events = POLLIN };

    return poll(&p, 1, 0) > 0;
}

const struct io_engine engine_threads = {
    .name = "threads",
    .init = threads_init,
    .done = threads_done,
    .submit = threads_submit,
    .cancel = threads_cancel,
    .wait = threads_wait,
    .peek = threads_peek,
    .wake = threads_wake,
    .clock = engine_monotonic_ns,
};
