/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block status.  One walk over the extents of the node answers all contexts,
 * so they agree with each other; neighbours that read the same are merged.
 *
 * base:allocation calls a run ZERO only if the node promises zeroes, and HOLE
 * only if no image of the chain holds data for it.  qemu:allocation-depth says
 * which image of the chain decides: 1 the top, 0 none; so it shows what has
 * not been streamed yet.  qemu:dirty-bitmap:NAME says what the bitmap marks.
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

/* What is known of the disk for a run: by the image, by each bitmap. */
struct known {
    struct extent ext;
    bool dirty[NBD_MAX_BITMAPS];
};

/* The bitmaps that a request asks for. */
struct marks {
    struct dirty_map *bits[NBD_MAX_BITMAPS]; /* NULL: it does not */
    struct dirty_map *own[NBD_MAX_BITMAPS];
    bool image; /* it asks for what the image says, too */
};

static uint32_t context_flags(unsigned ctx, const struct known *k)
{
    const struct extent *ext = &k->ext;

    if (ctx >= NBD_CTX_BITMAP) {
        return k->dirty[ctx - NBD_CTX_BITMAP] ? NBD_STATE_DIRTY : 0;
    }
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

/* Add @known to every context, or stop when one is full: what the others have
 * beyond it is true all the same. */
static bool status_add(const struct nbd_conn *c, struct extents *x,
                       const struct known *known, unsigned limit)
{
    bool more = true;

    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        if (c->contexts[ctx]) {
            more &= extents_add(&x[ctx], (uint32_t)known->ext.len,
                                context_flags(ctx, known), limit);
        }
    }
    return more;
}

/* How far the disk is the same from @off on, and what it is. */
static CO_FN int status_co_look(struct nbd_request *r, const struct marks *m,
                                uint64_t off, uint64_t len, struct known *k)
{
    int ret = 0;

    *k = (struct known) { .ext.len = len };
    if (m->image) {
        ret = backend_co_status(r->conn->exp->e.backend, off, len, &k->ext);
        k->ext.len = MIN(k->ext.len, len);
    }
    for (unsigned i = 0; i < NBD_MAX_BITMAPS && ret == 0; i++) {
        if (m->bits[i] && off < dirty_map_size(m->bits[i])) {
            k->dirty[i] = dirty_map_run(m->bits[i], off, k->ext.len,
                                        &k->ext.len);
        }
    }
    return ret;
}

static CO_FN int status_co_collect(struct nbd_request *r, const struct marks *m,
                                   struct extents *x)
{
    bool one = r->h.flags & NBD_CMD_FLAG_REQ_ONE;
    unsigned limit = one ? 1 : NBD_MAX_EXTENTS;
    uint64_t off = r->h.offset, end = off + r->h.len;

    for (unsigned calls = 0; off < end && calls < NBD_MAX_STATUS_CALLS;
         calls++) {
        struct known known;
        int ret = status_co_look(r, m, off, end - off, &known);
        if (ret < 0) {
            /* What is known is an answer; without any it is an error. */
            return off > r->h.offset ? 0 : ret;
        }
        if (!status_add(r->conn, x, &known, limit) || r->conn->broken) {
            break;
        }
        off += known.ext.len;
        if (calls % RELAX_EVERY == RELAX_EVERY - 1) {
            co_relax();
        }
    }
    return 0;
}

static CO_FN int marks_co_begin(const struct nbd_conn *c, struct marks *m)
{
    int ret = 0;

    *m = (struct marks) {
        .image = c->contexts[NBD_CTX_ALLOCATION] || c->contexts[NBD_CTX_DEPTH],
    };
    for (unsigned i = 0; i < c->exp->n_bitmaps && ret == 0; i++) {
        if (c->contexts[NBD_CTX_BITMAP + i]) {
            ret = nbd_bitmap_co_bits(&c->exp->bitmaps[i], &m->bits[i],
                                     &m->own[i]);
        }
    }
    return ret;
}

static void marks_end(struct marks *m)
{
    for (unsigned i = 0; i < NBD_MAX_BITMAPS; i++) {
        dirty_map_free(m->own[i]);
    }
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
    struct marks marks;
    int ret = marks_co_begin(r->conn, &marks);

    if (ret == 0) {
        ret = status_co_collect(r, &marks, x);
    }
    marks_end(&marks);
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
