/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of the dispatcher. Where nothing else is said, ranges are checked
 * and lengths are more than 0. */
#pragma once
#include "graph/bitmap.h"
#include "graph/graph-int.h"

/* The dirty bitmaps of @n that are in memory take in a change. */
static inline void bitmaps_mark(struct node *n, uint64_t off, uint64_t len)
{
    if (n->priv->bitmaps) {
        bitmaps_mark_slowly(n, off, len);
    }
}

/* The driver's answer alone, without what is kept for it (early.h). */
CO_FN int map_co_driver(struct node *n, uint64_t off, uint64_t len,
                        unsigned flags, struct mapping *ret_map);
CO_FN int read_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags);
/* Read what @m, which it ends, says of all of @iov at @off; not MAP_ABSENT. */
CO_FN int read_co_mapped(struct node *n, uint64_t off, struct iov iov,
                         const struct mapping *m, unsigned flags);
CO_FN int write_co_dispatch(struct node *n, uint64_t off, struct iov iov,
                            unsigned flags);
/* The driver's own write: split and aligned; tracking is the caller's. */
CO_FN int write_co_driver(struct node *n, uint64_t off, struct iov iov,
                          unsigned flags);
/* To where @m, of @n at @off, says that it may go. */
CO_FN int write_co_in_place(struct node *n, const struct mapping *m,
                            uint64_t off, struct iov iov, unsigned flags);
CO_FN int read_co_driver(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int alloc_write_co_write(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags);
CO_FN int zero_co_dispatch(struct node *n, uint64_t off, uint64_t len,
                           unsigned flags);
CO_FN int discard_co_dispatch(struct node *n, uint64_t off, uint64_t len);
CO_FN int write_co_zeroes(struct node *n, uint64_t off, uint64_t len,
                          unsigned flags);
/* The driver's answer for @n alone, clamped and completed. */
CO_FN int status_co_node(struct node *n, uint64_t off, uint64_t len,
                         struct extent *ext);
/* Does the chain from @n (NULL: nothing) read as zeroes in the range? */
CO_FN bool status_co_is_zero(struct node *n, uint64_t off, uint64_t len);

/* --- bounds.c: the range is checked here --- */

/* May @n be read there? 0, -EIO. What lies past *@ret_have bytes reads as
 * zeroes: it is behind the end of storage. */
int read_check(const struct node *n, uint64_t off, uint64_t len,
               uint64_t *ret_have);
/* May @n be written there? 0, -EIO, -EPERM. A write threshold that it passes is
 * told. */
int write_check(struct node *n, uint64_t off, uint64_t len);
/* The driver has changed what @n holds there, or tried to. */
void node_note_change(struct node *n, uint64_t off, uint64_t len);
/* The driver has written, or failed to: sizes and generations. */
void write_done(struct node *n, uint64_t off, uint64_t len, int ret);
/* A change up to byte @end of @n passes its write threshold. No yield.
 * threshold.c */
void threshold_pass(struct node *n, uint64_t end);
/* A flush of what is in the driver. */
CO_FN int flush_co_written(struct node *n);
/* IO_FUA on a driver that does not know it, after the write. */
CO_FN int fua_co_finish(struct node *n, unsigned flags, int ret);

/* --- how a request goes to a driver --- */

/* In pieces of at most @max bytes; with @bounce each through a buffer of our
 * own, widened to whole blocks. */
struct pieces {
    uint64_t mask, max; /* block - 1; bytes */
    bool bounce;
};
struct pieces pieces_of(const struct node *n, uint64_t off, struct iov iov);
/* One piece is enough, and it goes as it is. */
static inline bool pieces_is_one(const struct pieces *p, size_t len)
{
    return !p->bounce && len <= p->max;
}
/* How long the piece at @at is, where @left bytes are left. */
static inline size_t pieces_next(const struct pieces *p, uint64_t at,
                                 size_t left)
{
    return MIN(left, p->max - (at & p->mask));
}
