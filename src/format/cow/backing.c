/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the backing reference.
 *
 * Another name is one header slot.  None at all ends the overlay: what nobody
 * wrote and the chain below does not hold either is made zero in the data file,
 * each cluster is seen to have its bit, durably (W5, S9), and COMPLETE is
 * written.  From that instant the data file is the disk; what is left are
 * names.
 *
 * The guest goes on writing meanwhile: with its bits all set, nothing it does
 * changes the maps.
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "format/trace.h"
#include "graph/populate.h"

/* A guest may wait for so much to become zero. */
#define POPULATE_AT_ONCE (UINT64_C(1) << 30)

/* Another backing file; NULL: none is needed any more. */
static CO_FN int header_co_change(struct overlay *o, const char *name,
                                  const char *fmt)
{
    struct cow_header h;
    int ret;

    group_co_lock(o->group);
    h = o->hdr; /* as it is now that nobody else changes it */
    h.state = name ? h.state : COW_COMPLETE;
    g_strlcpy(h.backing, name ? name : "", sizeof(h.backing));
    g_strlcpy(h.backing_format, name && fmt ? fmt : "",
              sizeof(h.backing_format));
    h.known &= ~(unsigned)(COW_KNOWS_BASE | COW_KNOWS_TIME);
    ret = group_error(o->group);
    if (ret == 0) {
        ret = cow_co_header_write(o, &h);
    }
    group_unlock(o->group);
    return ret;
}

/* --- another name --- */

static CO_FN int name_co_set(struct overlay *o, const char *name,
                             const char *fmt, GError **err)
{
    size_t len = strlen(name);
    int ret;

    if (len == 0 || len > COW_BACKING_MAX) {
        return err_set(err, len ? ENOSPC : EINVAL,
                       "Backing file name of %zu "
                       "bytes: an overlay takes 1 to %d",
                       len, COW_BACKING_MAX);
    }
    if (fmt && strlen(fmt) > COW_FORMAT_MAX) {
        return err_set(err, EINVAL, "Backing format '%s' is too long", fmt);
    }
    if (o->complete) {
        return err_set(err, ENOTSUP,
                       "The overlay is complete and takes no "
                       "backing file: make one over '%s'",
                       o->node->filename);
    }
    ret = header_co_change(o, name, fmt);
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not change the "
                                    "backing file of the overlay");
}

/* --- none --- */

/* What is not here reads as zeroes: the caller has seen to it, or there is no
 * backing file. */
static CO_FN int rest_co_populate(struct overlay *o)
{
    bool over_base = node_backing(o->node);
    uint64_t off = 0, size = o->node->size, len = 0;
    int ret = 0;

    while (off < size && ret == 0) {
        bool here = false;

        ret = cow_co_lookup(o, off, min_u64(size - off, POPULATE_AT_ONCE),
                            &here, &len);
        if (ret == 0 && !here) {
            ret = over_base ? node_co_populate(o->node, NULL, off, len, 0, NULL)
                            : cow_co_zero_missing(o, off, len);
        }
        off += len;
    }
    return ret;
}

static CO_FN int cow_co_complete(struct overlay *o, GError **err)
{
    uint64_t clear = 0;
    int ret = rest_co_populate(o);

    if (ret == 0) {
        ret = BARRIER(OVERLAY_POPULATED, cow_co_flush(o->node));
    }
    if (ret == 0 && !BARRIER_OFF(OVERLAY_POPULATED)) {
        ret = cow_co_find_clear(o, 0, &clear);
        if (ret == 0 && clear < cow_clusters(&o->hdr)) {
            return err_set(err, EIO,
                           "The overlay still needs its backing file "
                           "at offset %" PRIu64,
                           clear << o->cluster_bits);
        }
    }
    if (ret == 0) {
        ret = header_co_change(o, NULL, NULL);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not complete the overlay");
    }
    o->complete = true;
    return 0;
}

int cow_co_change_backing(struct node *n, const char *name, const char *fmt,
                          GError **err)
{
    struct overlay *o = cow_of(n);
    int ret = 0;

    if (!o->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    if (name) {
        ret = name_co_set(o, name, fmt, err);
    } else {
        if (!o->complete) {
            ret = cow_co_name_is_free(o, err);
        }
        if (ret == 0 && !o->complete) {
            ret = cow_co_complete(o, err);
        }
        if (ret == 0) {
            ret = cow_co_finish(o, err);
        }
    }
    trace_overlay_change_backing(n->name, name, ret);
    return ret;
}
