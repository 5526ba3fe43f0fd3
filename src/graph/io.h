/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Doing I/O on the graph.  Those above the graph (exports, jobs, devices) call
 * backend_co_*, drivers call node_co_* on a child.  Both end in the same
 * dispatcher, which checks ranges, splits, aligns, tracks, reads the rest of
 * clusters from the backing file, accounts and traces; no one else calls a
 * driver's operations.
 *
 * All run in a coroutine on the graph's loop and yield.  Offsets and lengths
 * are bytes of the node's virtual disk.  Results: 0 or -errno; -EIO out of
 * range, -EPERM on a read-only node, -EACCES when a backend lacks the
 * permission.
 *
 * Storage is elastic for the drivers above it (never for backends): a read past
 * the end of a protocol node gives zeroes, a write past it makes it grow.
 */
#pragma once
#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct node;
struct backend;

enum io_flags {
    IO_FUA = 1 << 0,       /* durable, mapping included, before it returns */
    IO_MAY_UNMAP = 1 << 1, /* zero: storage may be freed */
    IO_FAST = 1 << 2,      /* zero: -ENOTSUP at once rather than write */
    /* write/zero by graph/populate/populate.c, which holds the range: no
     * tracking, and nothing is read from below; PERM_WRITE_UNCHANGED */
    IO_POPULATE = 1 << 3,
    IO_BACKGROUND = 1 << 4, /* yields to demand requests */
    IO_KNOWN_DATA = 1 << 5, /* populate: the caller has asked the status of the
                             * chain; whatever the node lacks is to be copied */
    /* write: whole units of limits.compressed_unit (or to the end of the disk);
     * -ENOTSUP where that is 0. What does not shrink is stored as it is. */
    IO_COMPRESSED = 1 << 6,
    /* zero, where limits.can_allocate: whole clusters; those without a host
     * cluster get one, whose bytes are a hole with IO_MAY_UNMAP. A file takes
     * the space past its end, too, without that. */
    IO_ALLOCATE = 1 << 7,
/* A guest waits for it: its number (graph/demand.h), not 0.  Set by block
     * backends; whoever makes requests on its behalf passes it on. */
#define IO_DEMAND_SHIFT 16
    IO_DEMAND = (int)(UINT32_MAX << IO_DEMAND_SHIFT),
};

enum status_flags {
    STATUS_ALLOCATED = 1 << 0,    /* this node, not its backing, decides */
    STATUS_DATA = 1 << 1,         /* may hold other than zeroes */
    STATUS_ZERO = 1 << 2,         /* reads as zeroes */
    STATUS_OFFSET_VALID = 1 << 3, /* map_offset in map_node's file */
    STATUS_EOF = 1 << 4,
};
struct extent {
    unsigned flags; /* enum status_flags */
    uint64_t len;   /* > 0; at most what was asked for */
    uint64_t map_offset;
    struct node *map_node; /* borrowed */
    unsigned depth;        /* chain status only: 1 = top, 0 = nobody has it */
};

/* Has a request that failed with @ret waited for storage that did not answer?
 * To ask for the same in another way would be to wait once more. */
static inline bool has_given_up(int ret)
{
    return ret == -ERESTART || ret == -ETIMEDOUT || ret == -ECONNABORTED;
}

CO_FN int node_co_preadv(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int node_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                          unsigned flags);
CO_FN int node_co_zero(struct node *n, uint64_t off, uint64_t len,
                       unsigned flags);
/* Reads as zeroes or old data afterwards, never as the base (G8). */
CO_FN int node_co_discard(struct node *n, uint64_t off, uint64_t len);
/* Once it has failed for storage it fails until the node is opened anew. */
CO_FN int node_co_flush(struct node *n);
/* Flush @child in an operation of its parent @n. A failure is kept: every later
 * flush of @n fails (G6). Every flush of a driver's own file goes this way. */
CO_FN int node_co_sync(struct node *n, struct node *child);
/* It is unknown what storage holds of what @n wrote: all flushes of @n fail
 * from now on with -EIO. Of a filter nothing is kept. */
void node_fail(struct node *n);
/* 0, or -EIO once it has failed. */
int node_failure(const struct node *n);
/* One extent from @off, of this node alone. @len caps the answer. */
CO_FN int node_co_status(struct node *n, uint64_t off, uint64_t len,
                         struct extent *ret_ext);
/* One extent from @off, through the chain from @n down to but not including
 * @base (NULL: all of it). Not allocated anywhere: depth 0; ZERO is then set
 * when nothing below exists (end of a short backing file included; with @base
 * given, a backing file above it that is too short counts as the one that holds
 * the zeroes past its end: ALLOCATED|ZERO with its depth). */
CO_FN int node_co_status_above(struct node *n, struct node *base, uint64_t off,
                               uint64_t len, struct extent *ret_ext);
/* Bytes in storage. */
struct host_range {
    struct node *node; /* a protocol node, borrowed; NULL: not to be had */
    uint64_t off, len; /* there; of the range that was asked for */
};
/* Where the bytes of @n from @off are, if they are in storage just as a reader
 * of @n gets them (no zeroes, no filter between): looked for in the chain from
 * @n down to but not including @base (NULL: all of it). @ret_at->len > 0
 * says how far the answer holds, a NULL node included. */
CO_FN int node_co_locate(struct node *n, struct node *base, uint64_t off,
                         uint64_t len, struct host_range *ret_at);
/* May @n take extents over from storage @src? No yield. The copy may still
 * fail. */
bool node_can_copy_in(struct node *n, struct node *src);
/* Write [@off, @off+@len) of @n with the bytes at @src_off of storage @src:
 * shared where the file system does that, else read and written. Shapes and
 * duties of a driver's write; on a node that can have a backing file the caller
 * holds the range (IO_POPULATE). What is shared is durable after a flush of @n.
 * For drivers (to their file) and for populate. */
CO_FN int node_co_copy_in(struct node *n, uint64_t off, struct node *src,
                          uint64_t src_off, uint64_t len, unsigned flags);
/* Copy offload between disks (convert, mirror): the first run of [@src_off,
 * @src_off+@len) as a reader of @src sees it goes to @dst at @dst_off without
 * passing through memory. *@ret_done: how many bytes; 0, with the result 0,
 * when that cannot be done here: copy some through memory, then ask again.
 * Offsets that are multiples of @dst's cluster and long ranges have the best
 * chances. Whoever has the two nodes sees to it that nobody else writes to
 * either. */
CO_FN int node_co_copy_range(struct node *src, uint64_t src_off,
                             struct node *dst, uint64_t dst_off, uint64_t len,
                             uint64_t *ret_done);
CO_FN int node_co_truncate(struct node *n, uint64_t size, GError **err);
/* The same for a disk in use, whose requests are held off meanwhile. -EBUSY
 * when a job has it. @by: for error texts. */
CO_FN int node_co_resize(struct node *n, const char *by, uint64_t size,
                         GError **err);
/* Re-read the size of growing storage. */
CO_FN int node_co_refresh_size(struct node *n);

CO_FN int backend_co_preadv(struct backend *u, uint64_t off, struct iov iov,
                            unsigned flags);
CO_FN int backend_co_pwritev(struct backend *u, uint64_t off, struct iov iov,
                             unsigned flags);
CO_FN int backend_co_zero(struct backend *u, uint64_t off, uint64_t len,
                          unsigned flags);
CO_FN int backend_co_discard(struct backend *u, uint64_t off, uint64_t len);
CO_FN int backend_co_flush(struct backend *u);
CO_FN int backend_co_status(struct backend *u, uint64_t off, uint64_t len,
                            struct extent *ret_ext);
/* NBD CACHE, prefetch: bring @off..@off+@len into the top image where the
 * node under @u copies on read, else nothing. */
CO_FN int backend_co_cache(struct backend *u, uint64_t off, uint64_t len);
CO_FN int node_co_cache(struct node *n, uint64_t off, uint64_t len);

/* For a job that works on nodes directly (populate): between the two calls the
 * graph above and below @u's node stays as it is; enter waits while the backend
 * is drained. Never inside a guest's request. */
CO_FN void backend_co_enter(struct backend *u);
void backend_leave(struct backend *u);

/* For filters that hold requests back because they were told to: so much of the
 * time of the request with these @flags is no storage's doing. No yield. */
void node_demand_excuse(struct node *n, unsigned flags, uint64_t ns);

/* Accounting of a backend, for query-blockstats. */
enum acct_kind { ACCT_READ, ACCT_WRITE, ACCT_FLUSH, ACCT_UNMAP, ACCT_KINDS };
struct backend_stats {
    uint64_t ops[ACCT_KINDS], bytes[ACCT_KINDS], time_ns[ACCT_KINDS];
    uint64_t failed[ACCT_KINDS], invalid[ACCT_KINDS];
    uint64_t last_access_ns;
    uint64_t highest_write; /* end of the highest write, bytes */
    unsigned in_flight;
};
const struct backend_stats *backend_get_stats(const struct backend *u);
/* Count a request that was refused before anybody saw it. */
void backend_stats_invalid(struct backend *u, enum acct_kind kind);
/* What @from did counts for @u, too. */
void backend_stats_add(struct backend *u, const struct backend *from);
/* The same, of one node (wr_highest_offset of a protocol node). */
uint64_t node_write_highest(const struct node *n);
/* BLOCK_WRITE_THRESHOLD once, when a write, zeroing or discard of @n reaches
 * beyond byte @offset; 0: never. */
void node_set_write_threshold(struct node *n, uint64_t offset);
/* 0: none, or it was passed. */
uint64_t node_write_threshold(const struct node *n);
