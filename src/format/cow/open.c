/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and closing.
 *
 * Nothing in the sidecar is used before it is checked; memory stays below the
 * summary (1 MiB), the cache of blocks and what is pending, whatever the header
 * says.  A complete overlay that is opened for writing finishes what a crash
 * cut short: the data file gets its name, the sidecar goes.
 */
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "format/cow/overlay.h"
#include "format/trace.h"
#include "loop/io.h"

static void cow_release(struct overlay *o)
{
    pending_drop(&o->pending, UINT64_MAX);
    metadata_cache_done(&o->blocks);
    if (o->summary) {
        io_buf_put(o->summary, o->summary_bytes);
        o->summary = NULL;
    }
    g_clear_pointer(&o->summary_dirty, g_free);
    g_clear_pointer(&o->items, g_array_unref);
}

/* A resize that a crash cut short may have left the data file too long, or a
 * write of its last block. */
static CO_FN int data_co_trim(struct overlay *o, GError **err)
{
    struct node *data = cow_data(o);
    int ret;

    if (data->size == o->hdr.size) {
        return 0;
    }
    ret = node_co_truncate(data, o->hdr.size, NULL);
    return ret == 0 || ret == -ENOTSUP
               ? 0
               : err_set_errno(err, -ret,
                               "Could not cut off what a resize left of "
                               "the data file");
}

static CO_FN int cow_co_set_writable(struct overlay *o, unsigned flags,
                                     GError **err)
{
    int ret = 0;

    o->group = group_new(o->loop, o->node, NULL, &cow_group_ops, o, 0, 0);
    if (!o->finished && !(flags & (NODE_CHECK | NODE_NO_IO))) {
        ret = data_co_trim(o, err);
        if (ret == 0 && o->complete) {
            ret = cow_co_finish(o, err);
        }
    }
    if (ret < 0) {
        group_co_free(o->group);
        o->group = NULL;
    } else if (o->quiesced) { /* reopened while drained */
        group_co_quiesce(o->group);
    }
    return ret;
}

/* The files and what is in them; not the backing file. */
static CO_FN int files_co_open(struct overlay *o, struct opts *opts,
                               unsigned flags, GError **err)
{
    struct node *n = o->node;
    int ret = node_co_open_file(n, opts, err);

    if (ret == 0 && node_ended(cow_file(o)) == n->drv) {
        return cow_co_open_finished(o, opts, err);
    }
    if (ret == 0) {
        ret = cow_co_header_read(o, err);
    }
    if (ret < 0) {
        return ret;
    }
    o->cluster_bits = o->hdr.cluster_bits;
    o->complete = o->hdr.state == COW_COMPLETE;
    n->size = o->hdr.size;
    trace_overlay_open(n->name, n->size, o->hdr.generation, o->hdr.state);
    ret = cow_co_data_open(o, opts, err);
    if (ret == 0 && !(flags & NODE_CHECK)) {
        ret = cow_co_data_check(o, err);
    }
    if (ret == 0) {
        ret = cow_co_summary_load(o, cow_groups(&o->hdr), err);
    }
    return ret;
}

int cow_co_open(struct node *n, struct opts *opts, unsigned flags, GError **err)
{
    struct overlay *o = cow_of(n);
    int ret;

    o->node = n;
    o->loop = graph_loop(n->graph);
    o->items = cow_items_new();
    cow_map_init(o);
    ret = files_co_open(o, opts, flags, err);
    if (ret == 0 && (n->flags & NODE_RDWR)) {
        ret = cow_co_set_writable(o, flags, err);
    }
    if (ret == 0) {
        ret = node_co_open_backing(
            n, opts, o->hdr.backing[0] ? o->hdr.backing : NULL,
            o->hdr.backing_format[0] ? o->hdr.backing_format : NULL, err);
    }
    if (ret < 0) {
        group_co_free(o->group);
        o->group = NULL;
        cow_release(o);
    }
    return ret;
}

void cow_co_close(struct node *n)
{
    struct overlay *o = cow_of(n);
    int ret = o->group ? BARRIER(OVERLAY_SETTLE, cow_co_flush(n)) : 0;

    if (pending_count(&o->pending)) {
        trace_overlay_lost(n->name, pending_count(&o->pending), ret);
    }
    group_co_free(o->group);
    o->group = NULL;
    cow_release(o);
}

int cow_co_reopen(struct node *n, struct opts *opts, unsigned flags,
                  GError **err)
{
    struct overlay *o = cow_of(n);
    bool writable = flags & NODE_RDWR;
    int ret;

    if (writable == (o->group != NULL)) {
        return 0;
    }
    if (writable) {
        return cow_co_set_writable(o, flags, err);
    }
    ret = BARRIER(OVERLAY_SETTLE, cow_co_flush(n));
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush the overlay");
    }
    group_co_free(o->group);
    o->group = NULL;
    return 0;
}

void cow_co_quiesce(struct node *n)
{
    struct overlay *o = cow_of(n);

    o->quiesced++;
    if (!o->group) {
        return;
    }
    /* A copy of the files made while we are drained is complete (M9). */
    if (group_pending(o->group)) {
        (void)BARRIER(OVERLAY_SETTLE, group_co_flush(o->group));
    }
    group_co_quiesce(o->group);
}

void cow_resume(struct node *n)
{
    struct overlay *o = cow_of(n);

    g_assert(o->quiesced > 0);
    o->quiesced--;
    if (o->group) {
        group_resume(o->group);
    }
}
