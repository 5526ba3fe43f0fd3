/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The chain of a stream: an overlay that is populated from it down to a lowest
 * node, then linked to what is below that.  What the stream job and its
 * one-step form share.
 *
 * While it is held nobody else may change the part of the chain concerned.
 * What is below @bottom is not held: it is looked up each time, and the link
 * made at the end leads to what is there then.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"
#include "graph/populate.h"
#include "job/hold.h"

struct stream_chain {
    struct node *top;        /* the overlay; no filter, no view */
    struct node *bottom;     /* lowest node to copy; == @top: nothing to do */
    struct node *filter;     /* copy-on-read above @top, or NULL; owned */
    struct backend *backend; /* on @top: enters for each piece of work */
    GPtrArray *views;        /* the topmost raw nodes over @top */
    struct job_hold hold;    /* @backend; each node between, @bottom included;
                              * each of @views */
    bool frozen, made_writable;
    bool ending;           /* requests that were let go are not repeated */
    uint64_t next_look_ns; /* at the identity of the sources */
};

/* The lowest node of the chain below @top; @top itself when it has none. */
struct node *stream_chain_lowest(struct node *top);
/* May the chain from @n (filters included) down to @bottom be streamed?
 * -EBUSY */
int stream_chain_check(struct node *n, struct node *bottom, GError **err);

/* Will @top's header be able to say what its backing file is, once it is
 * populated down to @bottom? @backing_file: what it shall say; NULL: worked
 * out. */
CO_FN int stream_chain_co_check_name(struct node *top, struct node *bottom,
                                     const char *backing_file, GError **err);

/* Take hold of @top down to @bottom: writable, blocked, frozen. @by is copied.
 * On failure nothing is held: -EBUSY, too, when internal snapshots of @top
 * would show something else at the end. */
CO_FN int stream_chain_co_hold(struct stream_chain *p, struct node *top,
                               struct node *bottom, const char *by,
                               GError **err);
/* Put a copy-on-read filter above the overlay. @name NULL: an implicit one. */
CO_FN int stream_chain_co_add_filter(struct stream_chain *p, const char *name,
                                     GError **err);
/* Let go of everything; fine on one that holds nothing. */
CO_FN void stream_chain_co_release(struct stream_chain *p);

/* Whatever of the work waits for storage that does not answer comes back with
 * -ERESTART. No yield. */
void stream_chain_let_go(struct stream_chain *p);
/* What is to be done at @off? @ret_need: populate it; @ret_zero: it is zeroes.
 * 0 < *ret_len <= @max. */
CO_FN int stream_chain_co_scan(struct stream_chain *p, uint64_t off,
                               uint64_t max, bool *ret_need, bool *ret_zero,
                               uint64_t *ret_len);
/* The node below the overlay that has what a guest sees at @off, for messages;
 * the lowest one when none says so. Borrowed. */
CO_FN struct node *stream_chain_co_holder(const struct stream_chain *p,
                                          uint64_t off);
CO_FN int stream_chain_co_copy(struct stream_chain *p, uint64_t off,
                               uint64_t len, bool zero,
                               struct populate_result *ret);
/* Is everything that is copied from still what it was when it was opened? A
 * base that somebody writes to gives a mixture of two disks (S6). -ESTALE */
CO_FN int stream_chain_co_check_sources(struct stream_chain *p, GError **err);
/* Flush, then look at the mapping of the whole overlay: 0 when it does not need
 * the nodes down to @bottom any more, -EAGAIN with the offset of what is still
 * missing, other -errno. */
CO_FN int stream_chain_co_verify(struct stream_chain *p, uint64_t *ret_missing);

/* The pivot. @backing_file: what the header shall say; NULL: worked out.
 * On failure before the header was rewritten the old chain stands. */
CO_FN int stream_chain_co_pivot(struct stream_chain *p,
                                const char *backing_file, GError **err);
