/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The io_uring engine.  Requests become submission entries as they come and
 * reach the kernel all at once when the turn ends, in the same system call
 * that waits.  What the ring lacks, or would run on a kernel thread anyway,
 * goes to the thread pool.
 *
 * The kernel reports a request exactly once, cancelled polls included, so
 * user_data can be the request itself; our own bookkeeping uses odd values.
 *
 * A send must not end the wait that it begins: a guest that has its reply is about
 * to ask for more, and that is what to wait for.  So a send is made not to wait,
 * which means that it is over once the kernel has taken it, and to be reported
 * only when it did not send everything.  What is not reported succeeded.
 */
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "base/err.h"
#include "loop/loop-priv.h"
#include "loop/pool.h"

#define SQ_ENTRIES 256
#define CQ_ENTRIES 4096
/* The kernel would copy to or from the page cache on our thread. Longer than
 * this, bytes, that copying is left to its workers: a stream that sends a
 * window of such transfers would make the guest wait for all of them. */
#define INLINE_MAX (UINT64_C(128) << 10)
#define DATA_IGNORE 1 /* user_data: nobody waits for this */
#define DATA_WAKE 3   /* user_data: the read of wake_fd */

struct engine {
    struct io_uring ring;
    int wake_fd;
    uint64_t wake_count; /* what the read of wake_fd returns */
    bool has_sockets;
    struct io_req *sends; /* handed over or about to be; see uring_send() */
};

/* The best set of flags that this kernel takes. 0 or -errno. */
static int ring_open(struct io_uring *ring, bool *ret_has_sockets)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int r = -EINVAL;

    for (unsigned i = 0; i < G_N_ELEMENTS(flags) && r == -EINVAL; i++) {
        struct io_uring_params p = {
            .flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
            .cq_entries = CQ_ENTRIES,
        };

        r = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
        if (r == 0 &&
            (~p.features & (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG))) {
            io_uring_queue_exit(ring);
            r = -ENOSYS; /* before Linux 5.11 */
        }
        /* Earlier kernels than those with the first set may forget how much of
         * a send was done. */
        *ret_has_sockets = i == 0 && (p.features & IORING_FEAT_CQE_SKIP);
    }
    return r;
}

static struct io_uring_sqe *uring_sqe(struct engine *e)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&e->ring);

    while (!sqe) {
        /* The queue is full: hand over early. */
        int r = io_uring_submit(&e->ring);

        if (r == -EBUSY || r == -EAGAIN) {
            io_uring_get_events(&e->ring);
        }
        sqe = io_uring_get_sqe(&e->ring);
    }
    return sqe;
}

static void wake_arm(struct engine *e)
{
    struct io_uring_sqe *sqe = uring_sqe(e);

    io_uring_prep_read(sqe, e->wake_fd, &e->wake_count, sizeof(e->wake_count),
                       0);
    io_uring_sqe_set_data64(sqe, DATA_WAKE);
}

static int uring_init(struct loop *l, const struct loop_options *opts,
                      GError **err)
{
    struct engine *e = g_new0(struct engine, 1);
    int r = ring_open(&e->ring, &e->has_sockets);

    if (r < 0) {
        g_free(e);
        return err_set_errno(err, -r, "The kernel refuses io_uring");
    }
    e->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (e->wake_fd < 0) {
        r = err_set_errno(err, errno, "Cannot set up the I/O engine");
        io_uring_queue_exit(&e->ring);
        g_free(e);
        return r;
    }
    io_uring_register_ring_fd(&e->ring); /* cheaper entry, where possible */
    wake_arm(e);
    l->engine_state = e;
    return 0;
}

static void uring_done(struct loop *l)
{
    struct engine *e = l->engine_state;

    io_uring_queue_exit(&e->ring);
    close(e->wake_fd);
    g_free(e);
}

static void uring_wake(struct loop *l)
{
    struct engine *e = l->engine_state;
    uint64_t one = 1;
    ssize_t n = write(e->wake_fd, &one, sizeof(one));

    g_assert(n == sizeof(one));
}

/* One vector needs no copy of the vector by the kernel. */
static void prep_read(struct io_uring_sqe *sqe, struct io_req *r)
{
    if (r->n_iov == 1) {
        io_uring_prep_read(sqe, r->fd, r->iov->iov_base,
                           (unsigned)r->iov->iov_len, r->off);
    } else {
        io_uring_prep_readv(sqe, r->fd, r->iov, r->n_iov, r->off);
    }
}

static void prep_write(struct io_uring_sqe *sqe, struct io_req *r)
{
    if (r->n_iov == 1) {
        io_uring_prep_write(sqe, r->fd, r->iov->iov_base,
                            (unsigned)r->iov->iov_len, r->off);
    } else {
        io_uring_prep_writev(sqe, r->fd, r->iov, r->n_iov, r->off);
    }
}

static void prep_fdatasync(struct io_uring_sqe *sqe, struct io_req *r)
{
    io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
}

static void prep_fsync(struct io_uring_sqe *sqe, struct io_req *r)
{
    io_uring_prep_fsync(sqe, r->fd, 0);
}

static void prep_fallocate(struct io_uring_sqe *sqe, struct io_req *r)
{
    io_uring_prep_fallocate(sqe, r->fd, r->flags, (off_t)r->off, (off_t)r->len);
}

static void prep_poll(struct io_uring_sqe *sqe, struct io_req *r)
{
    io_uring_prep_poll_add(sqe, r->fd, (unsigned)r->flags);
}

static void prep_recv(struct io_uring_sqe *sqe, struct io_req *r)
{
    io_uring_prep_recv(sqe, r->fd, r->iov->iov_base, r->iov->iov_len, 0);
    if (r->flags) {
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    }
}

/* Operations that are not here go to the pool. */
static void (*const prep[IO_OP_COUNT])(struct io_uring_sqe *sqe,
                                       struct io_req *r) = {
    [IO_OP_READ] = prep_read,           [IO_OP_WRITE] = prep_write,
    [IO_OP_FDATASYNC] = prep_fdatasync, [IO_OP_FSYNC] = prep_fsync,
    [IO_OP_FALLOCATE] = prep_fallocate, [IO_OP_POLL] = prep_poll,
    [IO_OP_RECV] = prep_recv,
};

/* Its message header lives as the request does, on the coroutine's stack. */
static void uring_send(struct engine *e, struct io_req *r)
{
    struct io_uring_sqe *sqe = uring_sqe(e);

    r->msghdr = (struct msghdr) {
        .msg_iov = (struct iovec *)r->iov,
        .msg_iovlen = r->n_iov,
    };
    io_uring_prep_sendmsg(sqe, r->fd, &r->msghdr,
                          MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
    io_uring_sqe_set_flags(sqe, IOSQE_CQE_SKIP_SUCCESS);
    io_uring_sqe_set_data(sqe, r);
    r->next = e->sends;
    e->sends = r;
}

/* Complete the sends that the kernel took and did not complain about. Every
 * report that it made meanwhile has been looked at. */
static void uring_complete_sends(struct engine *e)
{
    unsigned flags = __atomic_load_n(e->ring.sq.kflags, __ATOMIC_RELAXED);

    if (io_uring_sq_ready(&e->ring) || (flags & IORING_SQ_CQ_OVERFLOW)) {
        return; /* not all of them are over, or a report is missing */
    }
    while (e->sends) {
        struct io_req *r = e->sends;

        e->sends = r->next;
        io_req_complete(r, (int64_t)r->len);
    }
}

static bool uring_sends_may_linger(const struct engine *e)
{
    for (struct io_req *r = e->sends; r; r = r->next) {
        if (!r->may_linger || !r->may_linger(r->arg)) {
            return false;
        }
    }
    return true;
}

/* One that was reported. */
static void uring_forget_send(struct engine *e, struct io_req *r)
{
    struct io_req **p = &e->sends;

    while (*p != r) {
        p = &(*p)->next;
    }
    *p = r->next;
}

static void uring_submit(struct loop *l, struct io_req *r)
{
    struct io_uring_sqe *sqe;

    if (r->op == IO_OP_SEND) {
        uring_send(l->engine_state, r);
        return;
    }
    if (!prep[r->op]) {
        io_req_to_pool(l, r);
        return;
    }
    sqe = uring_sqe(l->engine_state);
    prep[r->op](sqe, r);
    if ((r->op == IO_OP_READ || r->op == IO_OP_WRITE) && r->len > INLINE_MAX) {
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
    }
    io_uring_sqe_set_data(sqe, r);
}

static void uring_cancel(struct loop *l, struct io_req *r)
{
    struct io_uring_sqe *sqe = uring_sqe(l->engine_state);

    io_uring_prep_cancel(sqe, r, 0);
    io_uring_sqe_set_data64(sqe, DATA_IGNORE);
}

static void uring_enter(struct engine *e, int64_t timeout_ns)
{
    struct __kernel_timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    struct io_uring_cqe *cqe;
    unsigned flags;

    if (timeout_ns != 0) {
        io_uring_submit_and_wait_timeout(&e->ring, &cqe, 1,
                                         timeout_ns < 0 ? NULL : &ts, NULL);
        return;
    }
    flags = __atomic_load_n(e->ring.sq.kflags, __ATOMIC_RELAXED);
    if (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) {
        io_uring_submit_and_get_events(&e->ring);
    } else if (io_uring_sq_ready(&e->ring)) {
        io_uring_submit(&e->ring);
    }
}

static void uring_report(struct engine *e, struct io_req *r, int result)
{
    if (r->op == IO_OP_SEND) {
        uring_forget_send(e, r);
    }
    io_req_complete(r, result);
}

static void uring_wait(struct loop *l, int64_t timeout_ns)
{
    struct engine *e = l->engine_state;
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    bool woken = false;

    uring_enter(e, uring_sends_may_linger(e) ? timeout_ns : 0);
    io_uring_for_each_cqe(&e->ring, head, cqe) {
        uint64_t data = io_uring_cqe_get_data64(cqe);

        if (!(data & 1)) {
            uring_report(e, (struct io_req *)(uintptr_t)data, cqe->res);
        } else if (data == DATA_WAKE) {
            woken = true;
        }
        n++;
    }
    io_uring_cq_advance(&e->ring, n);
    uring_complete_sends(e);
    if (woken) {
        wake_arm(e);
    }
}

/* Reads memory that the kernel writes: no system call. */
static bool uring_peek(struct loop *l)
{
    struct engine *e = l->engine_state;
    unsigned flags = __atomic_load_n(e->ring.sq.kflags, __ATOMIC_RELAXED);

    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) ||
           io_uring_cq_ready(&e->ring);
}

static bool uring_has_sockets(const struct loop *l)
{
    return ((struct engine *)l->engine_state)->has_sockets;
}

const struct io_engine engine_uring = {
    .name = "io_uring",
    .init = uring_init,
    .done = uring_done,
    .submit = uring_submit,
    .cancel = uring_cancel,
    .wait = uring_wait,
    .peek = uring_peek,
    .wake = uring_wake,
    .clock = engine_monotonic_ns,
    .has_sockets = uring_has_sockets,
};
