/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations of librbd, which end on threads of its own, and coroutines that
 * wait for them.
 *
 * A cluster that does not answer makes an operation wait for any time, and it
 * cannot be taken back.  But nobody has to wait with it: an operation can be
 * abandoned, and then belongs to the thread on which it ends.  So all memory
 * that an operation uses is its own.
 *
 * A coroutine waits until the operation ends, its time is over, or it gets a
 * verdict: because the cluster hangs and the policy says so, because somebody
 * wants the requests ended, or because the daemon ends.  All operations stand
 * in one queue, in order of arrival, so one timer on the first tells that the
 * cluster hangs.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"
#include "loop/loop.h"

struct rbd_op;

/* Of one node; on its loop. */
struct rbd_waits {
    struct loop *loop;
    GQueue waiting; /* struct rbd_op, oldest first */
    struct loop_timer timer;
    uint64_t hang_timeout_ns; /* 0: never hangs */
    bool fail_on_hang, hanging, over;
    /* It begins and ends to hang, with so many requests. No yield. */
    void (*hang_event)(bool hanging, unsigned requests, void *arg);
    void *hang_arg;
    struct rbd_lost *lost;
};

enum rbd_op_kind {
    RBD_OP_READ,   /* changes nothing: may end before the cluster answers */
    RBD_OP_CHANGE, /* ends so only when the node is interrupted or yanked */
    RBD_OP_OTHER,  /* open, close, lock: has a time of its own */
};

/* Part of what belongs to an operation. */
struct rbd_op {
    enum rbd_op_kind kind;
    uint64_t deadline_ns; /* of the loop's clock; 0: none */
    /* Free what contains this; called when it was abandoned and has ended, on
     * the thread where it did. */
    void (*discard)(struct rbd_op *op);

    /* private */
    struct rbd_waits *waits;
    struct rbd_lost *lost;
    GList link;
    uint64_t since_ns;
    int verdict;
    bool is_done;
    int64_t result;
    struct co_queue sleepers;
    bool is_finished, is_abandoned; /* under a lock of this file */
};

void rbd_waits_init(struct rbd_waits *w);
/* Nobody waits. */
void rbd_waits_done(struct rbd_waits *w);

/* Before it is handed to librbd; the rest of @op is set. */
void rbd_op_begin(struct rbd_waits *w, struct rbd_op *op);
/* It has ended: 0 or more, or -errno. Any thread, once. */
void rbd_op_finish(struct rbd_op *op, int64_t result);
/* Wait for it: its result, or -errno and *@ret_abandoned: @op is not the
 * caller's any more. -ETIMEDOUT after its deadline. */
CO_FN int64_t rbd_op_co_wait(struct rbd_op *op, bool *ret_abandoned);

/* Run @fn(@arg) on a thread of its own. @free_arg is called for @arg when all is
 * over, by whoever is the last. *@ret_abandoned: @arg may go any time; else the
 * caller has it. @timeout_ns 0: none. */
CO_FN int64_t rbd_co_call(struct rbd_waits *w, enum rbd_op_kind kind,
                          uint64_t timeout_ns, int64_t (*fn)(void *arg),
                          void (*free_arg)(void *arg), void *arg,
                          bool *ret_abandoned);

/* What waits of @kind READ, or with @all of any kind, ends with @verdict. */
void rbd_waits_end(struct rbd_waits *w, int verdict, bool all);
/* The daemon ends: all of it, now and later. */
void rbd_waits_interrupt(struct rbd_waits *w);
void rbd_waits_set_hang(struct rbd_waits *w, uint64_t timeout_ns, bool fail);
/* Were changes abandoned that have not ended yet?  They may still happen. */
bool rbd_waits_lost_changes(const struct rbd_waits *w);
