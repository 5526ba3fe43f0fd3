/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The header slots of the sidecar. */
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "format/cow/overlay.h"
#include "format/trace.h"
#include "loop/io.h"

int cow_co_slots_read(struct node *file, struct cow_header *ret_h)
{
    const size_t bytes = COW_SLOTS * COW_SLOT_BYTES;
    uint8_t *buf = io_buf_get(bytes);
    struct iovec v;
    unsigned slot;
    bool torn;
    int ret = node_co_preadv(file, 0, iov_one(&v, buf, bytes), 0);

    if (ret == 0) {
        ret = cow_header_choose(buf, ret_h, &slot, &torn, NULL);
    }
    io_buf_put(buf, bytes);
    return ret;
}

int cow_co_header_read(struct overlay *o, GError **err)
{
    const size_t bytes = COW_SLOTS * COW_SLOT_BYTES;
    uint8_t *buf = io_buf_get(bytes);
    GError *why = NULL;
    struct iovec v;
    int ret = node_co_preadv(cow_file(o), 0, iov_one(&v, buf, bytes), 0);

    if (ret < 0) {
        io_buf_put(buf, bytes);
        return err_set_errno(err, -ret, "Could not read the overlay's header");
    }
    if (!cow_probe(buf, bytes)) {
        ret = err_set(err, EINVAL, "Image not in cow format");
    } else {
        ret = cow_header_choose(buf, &o->hdr, &o->slot, &o->torn, &why);
    }
    io_buf_put(buf, bytes);
    if (why && ret == -EINVAL) {
        node_corrupt(o->node, err, 0, "%s", why->message);
        g_error_free(why);
    } else if (why) {
        err_prefix(&why, "Overlay '%s' cannot be opened",
                   o->node->filename ? o->node->filename : o->node->name);
        g_propagate_error(err, why);
    }
    return ret;
}

/* @h to the other slot, @later generations after the one in use; flushed. */
static CO_FN int slot_co_write(struct overlay *o, const struct cow_header *h,
                               unsigned later)
{
    unsigned slot = (o->slot + 1) % COW_SLOTS;
    struct cow_header next = *h;
    struct iovec v;
    uint8_t *buf;
    int ret;

    if (o->hdr.generation > UINT64_MAX - later) {
        return -EOVERFLOW;
    }
    next.generation = o->hdr.generation + later;
    buf = io_buf_get(COW_SLOT_BYTES);
    cow_header_encode(&next, buf);
    ret = node_co_pwritev(cow_file(o), slot * COW_SLOT_BYTES,
                          iov_one(&v, buf, COW_SLOT_BYTES), 0);
    io_buf_put(buf, COW_SLOT_BYTES);
    if (ret == 0) {
        ret = BARRIER(OVERLAY_HEADER, o->group
                                          ? group_co_sync(o->group)
                                          : node_co_sync(o->node, cow_file(o)));
    }
    if (ret == 0) {
        o->hdr = next;
        o->slot = slot;
        o->torn = false;
    }
    trace_overlay_header(o->node->name, next.generation, next.state, next.size,
                         ret);
    return ret;
}

/* A write that fails may have reached the file: then the same slot gets the old
 * header again, as the newer one. Should that fail too, either may count, with
 * which the maps are right as they are; the next write is newer than both. */
int cow_co_header_write(struct overlay *o, const struct cow_header *h)
{
    struct cow_header old = o->hdr;
    int ret = slot_co_write(o, h, 1);

    if (ret < 0 && ret != -EOVERFLOW && slot_co_write(o, &old, 2) < 0) {
        o->hdr.generation += 2;
    }
    return ret;
}
