/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of a node of driver "rbd"; private to it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "storage/extents.h"
#include "storage/rbd/rbd-image.h"
#include "storage/rbd/rbd-op.h"
#include "storage/rbd/rbd-option-names.h"

struct rbd_options {
    struct rbd_target target;
    uint64_t open_timeout_s, hang_timeout_ns;
    bool fail_on_hang;
};

struct rbd_state {
    struct rbd_options options;
    struct rbd_waits waits;
    struct rbd_image *image;
    bool writable;         /* it was opened for that */
    unsigned perm, shared; /* enum perm, of all parents */
    uint64_t size;         /* of the image; node->size may be less */
    struct co_mutex size_lock;
    struct extents extents;
    struct co_mutex status_lock; /* one question at a time */
    bool no_status;              /* such a question has failed */
};

#define OPEN_TIMEOUT_DEFAULT_S 10

/* Take them out of @o. *@ret is the caller's to clear, also after a failure. */
int rbd_options_take(struct opts *o, struct graph *g, struct rbd_options *ret,
                     GError **err);
void rbd_options_clear(struct rbd_options *o);

/* rbd-io.c: of a struct node_driver. */
CO_FN int rbd_io_co_preadv(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags);
CO_FN int rbd_io_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                            unsigned flags);
CO_FN int rbd_io_co_zero(struct node *n, uint64_t off, uint64_t len,
                         unsigned flags);
CO_FN int rbd_io_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int rbd_io_co_flush(struct node *n);
CO_FN int rbd_io_co_truncate(struct node *n, uint64_t size, GError **err);
CO_FN int rbd_io_co_refresh_size(struct node *n);
/* What was written ends at node->size: the image shall, too. */
CO_FN int rbd_io_co_settle_size(struct node *n);

/* rbd-status.c */
CO_FN int rbd_status_co_map(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map);
