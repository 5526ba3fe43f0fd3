/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block status.  One walk over the extents of the node answers all contexts,
 * so they agree with each other; neighbours that read the same are merged.
 *
 * base:allocation calls a run ZERO only if the node promises zeroes, and HOLE
 * only if no image of the chain holds data for it.  qemu:allocation-depth says
 * which image of the chain decides: 1 the top, 0 none; so it shows what has
 * not been streamed yet.
 *
 * The work is bounded in extents and in questions; an answer that is shorter
 * than the request is legal, and the client asks again from there.
 */
#include <errno.h>
#include "export/nbd/nbd-int.h"
#include "graph/io.h"

#define RELAX_EVERY 256u

/* The descriptors of one context, encoded; the last is still growing. */
struct extents {
    uint8_t *data;
    unsigned n, max;
    uint32_t len, flags; /* of the last */
};

static uint32_t context_flags(unsigned ctx, const struct extent *ext)
{
    if (ctx == NBD_CTX_DEPTH) {
        return ext->depth;
    }
    return (ext->flags & STATUS_DATA ? 0 : NBD_STATE_HOLE) |
           (ext->flags & STATUS_ZERO ? NBD_STATE_ZERO : 0);
}

/* False when there is no room for one more. */
static bool extents_add(struct extents *x, uint32_t len, uint32_t flags,
                        unsigned limit)
{
    if (x->n > 0 && x->flags == flags) {
        x->len += len;
    } else {
        if (x->n == limit) {
            return false;
        }
        if (x->n == x->max) {
            unsigned max = x->max ? MIN(x->max * 4, limit) : MIN(16, limit);
            uint8_t *data = g_try_realloc(x->data, max * NBD_EXTENT_SIZE);
            if (!data) {
                return false;
            }
            x->data = data;
            x->max = max;
        }
        x->n++;
        x->len = len;
        x->flags = flags;
    }
    nbd_encode_extent(x->data + (x->n - 1) * NBD_EXTENT_SIZE, x->len, x->flags);
    return true;
}

/* Add @ext to every context, or stop when one is full: what the others have
 * beyond it is true all the same. */
static bool status_add(const struct nbd_conn *c, struct extents *x,
                       const struct extent *ext, unsigned limit)
{
    bool more = true;

    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        if (c->contexts[ctx]) {
            more &= extents_add(&x[ctx], (uint32_t)ext->len,
                                context_flags(ctx, ext), limit);
        }
    }
    return more;
}

static CO_FN int status_co_collect(struct nbd_request *r, struct extents *x)
{
    bool one = r->h.flags & NBD_CMD_FLAG_REQ_ONE;
    unsigned limit = one ? 1 : NBD_MAX_EXTENTS;
    uint64_t off = r->h.offset, end = off + r->h.len;

    for (unsigned calls = 0; off < end && calls < NBD_MAX_STATUS_CALLS;
         calls++) {
        struct extent ext = { 0 };
        int ret = backend_co_status(r->conn->exp->e.backend, off, end - off,
                                    &ext);
        if (ret < 0) {
            /* What is known is an answer; without any it is an error. */
            return off > r->h.offset ? 0 : ret;
        }
        ext.len = MIN(ext.len, end - off);
        if (!status_add(r->conn, x, &ext, limit) || r->conn->broken) {
            break;
        }
        off += ext.len;
        if (calls % RELAX_EVERY == RELAX_EVERY - 1) {
            co_relax();
        }
    }
    return 0;
}

static void status_reply(struct nbd_request *r, const struct extents *x)
{
    unsigned last = NBD_CTX_COUNT;

    nbd_reply_begin(r, NBD_CTX_COUNT);
    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        last = x[ctx].n ? ctx : last;
    }
    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        if (x[ctx].n) {
            struct nbd_chunk *k = nbd_reply_add(r);
            k->head_len = (uint8_t)nbd_encode_chunk_status(
                k->head, r->h.cookie, ctx == last ? NBD_CHUNK_FLAG_DONE : 0,
                NBD_CTX_WIRE_ID(ctx), x[ctx].n);
            k->data = nbd_reply_own(r, x[ctx].data, x[ctx].n * NBD_EXTENT_SIZE);
        }
    }
}

int nbd_request_co_status(struct nbd_request *r)
{
    struct extents x[NBD_CTX_COUNT] = { 0 };
    int ret = status_co_collect(r, x);

    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT && ret == 0; ctx++) {
        if (r->conn->contexts[ctx] && x[ctx].n == 0) {
            ret = -ENOMEM;
        }
    }
    if (ret < 0) {
        for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
            g_free(x[ctx].data);
        }
        return ret;
    }
    status_reply(r, x);
    return 0;
}
