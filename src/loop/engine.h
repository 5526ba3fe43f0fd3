/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an I/O engine is to its loop.  For loop/ and for engines.
 *
 * A request lives on the stack of the coroutine that waits for it; an engine
 * that took one in submit() completes it exactly once with io_req_complete(),
 * on the loop's thread.  Nothing is allocated for it.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "base/annot.h"
#include "loop/io.h"
#include "loop/loop.h"

enum io_op {
    IO_OP_READ,      /* fd off iov n_iov len */
    IO_OP_WRITE,     /* fd off iov n_iov len tag */
    IO_OP_FDATASYNC, /* fd */
    IO_OP_FSYNC,     /* fd */
    IO_OP_FALLOCATE, /* fd flags off len */
    IO_OP_POLL,      /* fd, flags = events; result = revents */
    IO_OP_RECV,      /* fd iov[0]; waits; flags: 1 = nothing is there yet */
    IO_OP_SEND,      /* fd iov n_iov len; never waits: short, or -EAGAIN */
    IO_OP_OPEN,      /* path flags mode; result = fd */
    IO_OP_CLOSE,     /* fd */
    IO_OP_TRUNCATE,  /* fd off */
    IO_OP_FSTAT,     /* fd, ret_stat */
    IO_OP_SIZE,      /* fd; ret_off */
    IO_OP_EXTENT,    /* fd off; ret_data, ret_off */
    IO_OP_LOCK,      /* fd off len flags = F_RDLCK... */
    IO_OP_LOCK_TEST, /* the same */
    IO_OP_COPY,      /* fd off fd2 off2 len; result = bytes */
    IO_OP_CLONE,     /* fd off fd2 off2 len */
    IO_OP_DISCARD,   /* fd off len */
    IO_OP_ZEROOUT,   /* fd off len */
    IO_OP_ALIGNMENT, /* fd; result = bytes */
    IO_OP_STAT,      /* path, ret_stat */
    IO_OP_RENAME,    /* path path2, flags = RENAME_NOREPLACE or 0 */
    IO_OP_UNLINK,    /* path */
    IO_OP_FSYNC_DIR, /* path of the directory */
    IO_OP_CALL,      /* fn(arg) on a thread of the pool */
    IO_OP_COUNT
};

struct co;
struct io_req;

/* A message to a loop from any thread, embedded in what it is about. */
struct loop_msg {
    struct loop_msg *next;
    void (*fn)(struct loop_msg *m); /* on the loop's thread */
};

struct io_req {
    enum io_op op;
    int fd, fd2; /* @fd2 is the target of COPY and CLONE */
    int flags;
    mode_t mode;
    enum io_tag tag;
    bool direct; /* READ, WRITE: past the page cache */
    uint64_t off, off2, len;
    const struct iovec *iov;
    unsigned n_iov;
    struct msghdr msghdr; /* SEND: the engine's */
    /* SEND: asked when the loop is about to sleep.  May this request be completed
     * when it wakes up again, instead of now? */
    bool (*may_linger)(void *arg);
    const char *path, *path2;
    void (*fn)(void *arg);
    void *arg; /* of fn and may_linger */

    int64_t result; /* >= 0, else -errno */
    uint64_t ret_off;
    bool ret_data;
    struct stat *ret_stat;

    /* For the engine and for io_req_co_run(). */
    bool done;
    struct co *co;
    struct loop *loop;
    struct io_req *next; /* in a queue of the engine or of the pool */
    struct loop_msg msg;
};

struct io_engine {
    const char *name;
    int (*init)(struct loop *l, const struct loop_options *opts, GError **err);
    void (*done)(struct loop *l);
    /* Take @r; may complete it at once. */
    void (*submit)(struct loop *l, struct io_req *r);
    /* Make @r, a POLL or RECV under way, complete soon: with -ECANCELED unless
     * what it waits for came first. */
    void (*cancel)(struct loop *l, struct io_req *r);
    /* Hand over what submit() queued, wait up to @timeout_ns (negative: for
     * ever; 0: not at all) for an event or wake(), complete requests. */
    void (*wait)(struct loop *l, int64_t timeout_ns);
    /* Would wait() complete anything now? For busy polling, after a wait() that
     * handed everything over; must be cheap. NULL: the loop does not poll. */
    bool (*peek)(struct loop *l);
    /* Any thread: end a wait() under way, or the next one. */
    void (*wake)(struct loop *l);
    /* Monotonic nanoseconds. */
    uint64_t (*clock)(struct loop *l);
    uint64_t (*date)(struct loop *l); /* NULL: the real one */
    /* Shall a coroutine that becomes ready now run before those that already
     * are? NULL: never. Nothing promises their order; tests change it. */
    bool (*runs_first)(struct loop *l);
    /* Does it take RECV and SEND, on this kernel? NULL: no. */
    bool (*has_sockets)(const struct loop *l);
    bool has_own_files; /* its descriptors are not the kernel's */
};

extern const struct io_engine engine_uring;
extern const struct io_engine engine_threads;

/* Run @r on the caller's loop and wait. Returns its result. */
CO_FN int64_t io_req_co_run(struct io_req *r);
/* The same of what cancel() takes, for @timeout_ns at most (0: for ever); then
 * -ETIMEDOUT. */
CO_FN int64_t io_req_co_run_for(struct io_req *r, uint64_t timeout_ns);
void io_req_complete(struct io_req *r, int64_t result);
/* Do what @r asks for with system calls on this thread. Returns the result. */
int64_t io_req_execute(struct io_req *r);
/* Do it on a thread of the loop's pool. */
void io_req_to_pool(struct loop *l, struct io_req *r);
/* Real engines share the clock. */
uint64_t engine_monotonic_ns(struct loop *l);
