/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a request may go, in what pieces, and how far a node reaches after a
 * write.  Disks have an end; storage is elastic: reads past its end are zeroes,
 * and writes there make it longer.
 */
#include "graph/io/dispatch.h"
#include "graph/model/chain-map.h"
#include "graph/model/model.h"
#include "graph/graph-int.h"

#define SECTOR_SIZE 512
/* The largest piece that goes through a buffer of our own. */
#define BOUNCE_MAX (1u << 20)

static bool range_overflows(uint64_t off, uint64_t len)
{
    return off > INT64_MAX || len > INT64_MAX - off;
}

/* Storage is elastic; through a filter over it, too. */
static const struct node *elastic_storage(const struct node *n)
{
    while (n && node_is_filter(n)) {
        n = node_file(n);
    }
    return n && n->drv->kind == NODE_PROTOCOL ? n : NULL;
}

/* How much of a read that passes the end of storage to ask for.  A file that
 * ends inside a sector may be growing now: the sector is read as a whole,
 * because its first part could be newer than the rest otherwise (G3). */
static uint64_t elastic_len(const struct node *n, uint64_t off, uint64_t len)
{
    uint64_t end = elastic_storage(n)->priv->growable
                       ? round_up(n->size, SECTOR_SIZE)
                       : n->size;

    return off < end ? MIN(len, end - off) : 0;
}

int read_check(const struct node *n, uint64_t off, uint64_t len,
               uint64_t *ret_have)
{
    *ret_have = len;
    if (range_overflows(off, len)) {
        return -EIO;
    }
    if (len > 0 && off + len > n->size) {
        if (!elastic_storage(n)) {
            return -EIO;
        }
        *ret_have = elastic_len(n, off, len);
    }
    return 0;
}

int write_check(struct node *n, uint64_t off, uint64_t len)
{
    if (range_overflows(off, len)) {
        return -EIO;
    }
    if (off + len > n->size) {
        const struct node *storage = elastic_storage(n);

        if (!storage || !storage->priv->growable) {
            return -ENOSPC; /* who sized it must make it larger */
        }
    }
    if (!node_is_writable(n)) {
        return -EPERM;
    }
    if (n->priv->write_threshold && off + len > n->priv->write_threshold) {
        threshold_pass(n, off + len);
    }
    return 0;
}

void node_note_change(struct node *n, uint64_t off, uint64_t len)
{
    n->priv->write_gen++;
    chain_maps_forget(n, off, len);
}

void write_done(struct node *n, uint64_t off, uint64_t len, int ret)
{
    struct node_int *p = n->priv;

    /* Even a failed write may have changed something that a flush covers. */
    node_note_change(n, off, len);
    if (ret < 0) {
        return;
    }
    p->write_highest = MAX(p->write_highest, off + len);
    if (n->drv->kind == NODE_PROTOCOL && off + len > n->size && !p->end_held) {
        n->size = off + len;
        node_notify_changed(n);
    }
}

struct pieces pieces_of(const struct node *n, uint64_t off, struct iov iov)
{
    const struct node_limits *l = &n->priv->limits;
    uint64_t mask = l->request_alignment - 1;
    struct pieces p = {
        .mask = mask,
        .max = l->max_transfer ? MAX(l->max_transfer & ~mask, mask + 1)
                               : UINT64_MAX,
        .bounce = ((off | iov.len) & mask) ||
                  !iov_is_aligned(iov, n->priv->mem_align),
    };

    if (p.bounce) {
        /* Room for the widening, within both limits. */
        p.max = MIN(p.max, MAX(BOUNCE_MAX, mask + 1));
    }
    return p;
}
