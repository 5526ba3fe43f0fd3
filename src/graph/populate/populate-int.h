/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of populate share.  Each uses only those above it:
 *
 *   write.c      absent clusters of the overlay are written
 *   plan.c       a request in pieces of one kind
 *   share.c      what the file system can share
 *   read.c       a piece of a read
 *   populate.c   a piece without a read; workers; the entry points
 */
#pragma once
#include "graph/graph-int.h"
#include "graph/map.h"
#include "graph/populate.h"
#include "loop/co.h"

enum piece_kind {
    PIECE_NONE,
    PIECE_LOCAL, /* the overlay has it */
    PIECE_ZERO,  /* the chain below reads as zeroes */
    PIECE_COPY,  /* the chain above base has some of it */
    PIECE_SKIP,  /* only base or deeper has it */
};

struct populate_piece {
    enum piece_kind kind;
    uint64_t off, len;
    uint64_t gen;       /* ->write_gen of the overlay when it was asked */
    struct mapping map; /* begun; of a PIECE_LOCAL that is read */
};

/* One request: shared by its workers, on the stack of the first. */
struct populate_work {
    struct node *n, *base;
    uint64_t off, end; /* of the request, not past the end of @n */
    uint64_t cluster;
    uint64_t piece_max; /* of a copy; cluster multiple */
    unsigned io_flags;
    const struct iov *iov; /* a read's; NULL: populate only */
    bool know_data;        /* what the overlay lacks is PIECE_COPY */

    struct co_mutex plan_lock; /* @next, @first, @below_* */
    uint64_t next;
    struct mapping first; /* begun; what the overlay said of @off; len 0: not
                           * asked */
    uint64_t first_gen;   /* ... and ->write_gen before that */
    struct extent below;  /* last answer about the chain below */
    uint64_t below_off;

    unsigned workers;
    struct co_latch running;
    int result;
    struct populate_result res;
};

static inline uint64_t cluster_down(const struct populate_work *w, uint64_t off)
{
    return off - off % w->cluster;
}

/* The end of the last cluster that [.., @off) touches; not past the node. */
static inline uint64_t cluster_up(const struct populate_work *w, uint64_t off)
{
    uint64_t rest = off % w->cluster;

    return MIN(rest ? off - rest + w->cluster : off, w->n->size);
}

/* --- write.c --- */

/* What the overlay says of [@pos, @end), all of which it lacked at @gen.  It is
 * asked only where it has changed since. 0 or -errno. */
CO_FN int populate_co_ask_again(const struct populate_work *w, uint64_t gen,
                                uint64_t pos, uint64_t end,
                                struct mapping *ret_map);
/* Write those clusters of [@off, @off+@len) that the overlay still lacks, as it
 * lacked all of them at @gen.  The range is whole clusters and is taken here;
 * @buf holds its bytes, NULL: zeroes. 0 or -errno. */
CO_FN int populate_co_write(struct populate_work *w, uint64_t off, uint64_t len,
                            uint8_t *buf, uint64_t gen);

/* --- plan.c --- */

/* Take the next piece; PIECE_NONE at the end. 0 or -errno, which is in ->res,
 * too. */
CO_FN int populate_co_plan(struct populate_work *w, struct populate_piece *p);

/* --- share.c --- */

/* Is an attempt useful? Asks the first byte. */
CO_FN bool populate_co_may_share(struct populate_work *w);
/* Before anything is read: let the file system share what it can.  Whatever is
 * left, errors included, is for the ordinary way. */
CO_FN void populate_co_share(struct populate_work *w);

/* --- read.c --- */

/* Read the bytes of @p into their place in ->iov, and keep what the overlay
 * lacks. 0 or -errno. */
CO_FN int populate_co_read_piece(struct populate_work *w,
                                 const struct populate_piece *p);
