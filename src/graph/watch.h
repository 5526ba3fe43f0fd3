/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A filter through which a job sees every change that guests make: the mirror
 * keeps a copy up to date by it.
 *
 * The filter hands each change to its watcher, which makes it by
 * watched_co_do() and does what else there is to do before the guest is
 * answered.  Populating is no change and passes unseen below the filter.
 */
#pragma once
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct node;

enum watched_kind { WATCHED_WRITE, WATCHED_ZERO, WATCHED_DISCARD };

/* On the stack of the request. */
struct watched {
    struct node *filter;
    enum watched_kind kind;
    uint64_t off, len; /* bytes */
    struct iov iov;    /* WRITE */
    unsigned flags;    /* enum io_flags */
};

struct watch_ops {
    /* Make change @w, by watched_co_do(), and answer it with the result. In a
     * guest's request: must not wait for the end of a drain. */
    CO_FN_PTR int (*co_change)(void *arg, struct watched *w);
};

/* Who is told of changes through filter @n, which can (a "mirror_top"); NULL:
 * nobody. No request is under way. */
void node_set_watch(struct node *n, const struct watch_ops *ops, void *arg);
/* Make the change below the filter. */
CO_FN int watched_co_do(const struct watched *w);
