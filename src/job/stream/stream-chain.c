/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populating an overlay and replacing its backing file; see stream-chain.h.
 *
 * Order of the pivot, each step complete before the next:
 *   1 check that the sources are still what they were (S6); flush the overlay,
 *     then check on its mapping, not on any counter, that nothing above the new
 *     base is missing (S9, M2)
 *   2 the driver makes the new backing reference durable; until its one sector
 *     is on disk the old one counts, and both give the same bytes (P1)
 *   3 drain, switch the live graph, let go (P4): nothing in between waits for
 *     a disk, files are closed after guests run again
 *   4 release; then the caller reports success (P2)
 * Copy-on-read need not be stopped for it: it only adds clusters with the bytes
 * that readers see anyway, and after step 1 there is nothing left to add.
 */
#include "job/stream/stream-chain.h"
#include <errno.h>
#include <inttypes.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/pivot.h"
#include "job/snapshot-check.h"
#include "job/trace.h"
#include "loop/co.h"
#include "loop/loop.h"

/* Between two looks at the identity of the sources. */
#define LOOK_EVERY_NS UINT64_C(250000000)
/* Extents after which others may run: the answers come from memory. */
#define RELAX_EVERY 64
/* Copies that the pivot makes itself before it gives up; a multiple of every
 * cluster size. */
#define LATE_COPIES 100
#define LATE_COPY_MAX (UINT64_C(64) << 20)

struct node *stream_chain_lowest(struct node *top)
{
    struct node *n = top, *below;

    while ((below = node_skip_filters(node_backing(n)))) {
        n = below;
    }
    return n;
}

int stream_chain_check(struct node *n, struct node *bottom, GError **err)
{
    struct node *end = node_backing(bottom), *top = n;

    for (; n && n != end; n = node_chain_next(n)) {
        int ret = node_check_op(
            n, n == top ? BLOCK_OP_STREAM : BLOCK_OP_STREAM_FROM, err);

        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* --- hold and release --- */

static CO_FN int stream_chain_co_hold_mids(struct stream_chain *p, GError **err)
{
    struct node *n = p->top, *end = node_backing(p->bottom);
    int ret;

    while ((n = node_chain_next(n)) && n != end) {
        ret = job_hold_co_use(&p->hold, n, 0,
                              PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                              &job_hold_ops_middle, NULL, err);
        if (ret < 0) {
            return ret;
        }
        /* Other overlays of it may be streamed, too. */
        job_hold_block_but(&p->hold, n, BLOCK_OP_STREAM_FROM);
    }
    return 0;
}

/* Views of the image (raw) have it resized for whoever uses them: nobody may
 * ask them to. Those above @n are blocked, at once; the topmost are listed. */
static bool stream_chain_block_views(struct stream_chain *p, struct node *n)
{
    bool any = false;

    for (struct edge *e = node_first_parent(n); e; e = edge_next_parent(e)) {
        struct node *above = edge_parent(e);
        bool is_view = above && node_can(above, NODE_CAN_VIEW), more;

        if (!is_view && (!above || !node_is_filter(above))) {
            continue;
        }
        more = stream_chain_block_views(p, above);
        if (is_view) {
            job_hold_block(&p->hold, above);
        }
        if (is_view && !more) {
            g_ptr_array_add(p->views, above);
        }
        any = any || is_view || more;
    }
    return any;
}

static CO_FN int stream_chain_co_hold_views(struct stream_chain *p,
                                            GError **err)
{
    int ret = 0;

    for (unsigned i = 0; i < p->views->len && ret == 0; i++) {
        ret = job_hold_co_use(&p->hold, g_ptr_array_index(p->views, i), 0,
                              PERM_ALL & ~PERM_RESIZE, &job_hold_ops_active,
                              NULL, err);
    }
    return ret;
}

static CO_FN int stream_chain_co_take(struct stream_chain *p, GError **err)
{
    int ret;

    /* An image that never had a base is not going to be written. */
    if (!node_is_writable(p->top) && node_backing(p->top)) {
        ret = node_co_set_read_only(p->top, false, err);
        if (ret < 0) {
            return ret;
        }
        p->made_writable = true;
    }
    ret = chain_freeze_shared(p->top, p->bottom, p->hold.by, err);
    if (ret < 0) {
        return ret;
    }
    p->frozen = true;
    return stream_chain_co_hold_mids(p, err);
}

CO_FN int stream_chain_co_hold(struct stream_chain *p, struct node *top,
                               struct node *bottom, const char *by,
                               GError **err)
{
    int ret;

    *p = (struct stream_chain) {
        .top = node_ref(top),
        .bottom = node_ref(bottom),
        .views = g_ptr_array_new(),
    };
    job_hold_init(&p->hold, "stream", by);
    /* At once, before anything yields: nobody else may begin here. */
    job_hold_block(&p->hold, top);
    (void)stream_chain_block_views(p, top);
    ret = stream_chain_co_take(p, err);
    if (ret == 0) {
        ret = stream_chain_co_hold_views(p, err);
    }
    if (ret == 0) {
        unsigned write = node_is_writable(top) ? PERM_WRITE_UNCHANGED : 0;

        ret = job_hold_co_use(&p->hold, top, PERM_CONSISTENT_READ | write,
                              p->views->len ? PERM_ALL
                                            : PERM_ALL & ~PERM_RESIZE,
                              &job_hold_ops_active, &p->backend, err);
    }
    if (ret == 0 && bottom != top) {
        /* From here on nobody makes or deletes one (stream_chain_block()). */
        ret = snapshots_co_check_cut(top, node_backing(bottom), "streamed",
                                     err);
    }
    if (ret < 0) {
        stream_chain_co_release(p);
    }
    return ret;
}

CO_FN int stream_chain_co_add_filter(struct stream_chain *p, const char *name,
                                     GError **err)
{
    json_t *o = json_pack("{s:s, s:s}", "driver", "copy-on-read", "file",
                          node_name(p->top));
    int ret;

    if (name) {
        json_object_set_new(o, "node-name", json_string(name));
    }
    if (node_backing(p->bottom)) {
        json_object_set_new(o, "bottom", json_string(node_name(p->bottom)));
    }
    ret = node_co_open(node_graph(p->top), o, NODE_RDWR, &p->filter, err);
    json_decref(o);
    if (ret < 0) {
        p->filter = NULL;
        return ret;
    }
    node_set_implicit_filter(p->filter, !name);
    job_hold_block(&p->hold, p->filter);
    return node_co_insert_filter(p->top, p->filter, err);
}

static void stream_chain_unfreeze(struct stream_chain *p)
{
    if (p->frozen) {
        chain_unfreeze(p->top, p->bottom);
        p->frozen = false;
    }
}

/* The filter goes out of the graph; the reference stays ours. Should that fail
 * it stays where it is and does what it is told: copies what is read. */
static CO_FN void stream_chain_co_take_filter_out(struct stream_chain *p)
{
    if (p->filter && node_first_parent(p->filter)) {
        int ret = node_co_remove_filter(p->filter, NULL);

        trace_stream_filter_out(node_name(p->filter), ret);
    }
}

CO_FN void stream_chain_co_release(struct stream_chain *p)
{
    if (!p->top) {
        return;
    }
    job_hold_co_leave(&p->hold);
    stream_chain_unfreeze(p);
    stream_chain_co_take_filter_out(p);
    /* Before others may begin, who would rely on what is still writable. */
    if (p->made_writable) {
        (void)node_co_set_read_only(p->top, true, NULL);
    }
    job_hold_co_release(&p->hold);
    if (p->filter) {
        node_co_unref(p->filter);
    }
    struct node *top = p->top, *bottom = p->bottom;

    g_ptr_array_free(p->views, TRUE);
    /* First: stream_chain_let_go() may come while a node closes. */
    *p = (struct stream_chain) { 0 };
    node_co_unref(bottom);
    node_co_unref(top);
}

/* --- work --- */

static bool extent_needs_copy(const struct extent *ext, bool have_base)
{
    /* Without a base only what is not zero is lost with the chain: an image
     * that has none reads as zeroes where it holds nothing, so a disk of many
     * terabytes with little in it costs no tables. */
    return ext->depth >= 2 && (have_base || !(ext->flags & STATUS_ZERO));
}

void stream_chain_let_go(struct stream_chain *p)
{
    p->ending = true;
    if (p->top) {
        node_let_go(p->top);
    }
}

/* Has @ret come because of node_let_go(), and is the work to go on? */
static bool stream_chain_restarts(const struct stream_chain *p, int ret)
{
    return ret == -ERESTART && !p->ending;
}

static CO_FN int stream_chain_co_status(struct stream_chain *p, uint64_t off,
                                        uint64_t max, struct extent *ext,
                                        bool *ret_have_base)
{
    struct node *base;
    int ret;

    do {
        backend_co_enter(p->backend);
        base = node_backing(p->bottom);
        *ret_have_base = base != NULL;
        ret = node_co_status_above(p->top, base, off, max, ext);
        backend_leave(p->backend);
    } while (stream_chain_restarts(p, ret));
    return ret;
}

CO_FN int stream_chain_co_scan(struct stream_chain *p, uint64_t off,
                               uint64_t max, bool *ret_need, bool *ret_zero,
                               uint64_t *ret_len)
{
    struct extent ext = { 0 };
    bool have_base;
    int ret = stream_chain_co_status(p, off, max, &ext, &have_base);

    if (ret < 0) {
        return ret;
    }
    *ret_zero = ext.flags & STATUS_ZERO;
    *ret_need = extent_needs_copy(&ext, have_base);
    *ret_len = ext.len;
    return 0;
}

CO_FN struct node *stream_chain_co_holder(const struct stream_chain *p,
                                          uint64_t off)
{
    for (struct node *n = node_backing(p->top); n && n != p->bottom;
         n = node_backing(n)) {
        struct extent ext = { 0 };

        /* One whose map cannot be read is the answer, too. */
        if (off < node_size(n) && (node_co_status(n, off, 1, &ext) < 0 ||
                                   (ext.flags & STATUS_ALLOCATED))) {
            return n;
        }
    }
    return p->bottom;
}

CO_FN int stream_chain_co_check_sources(struct stream_chain *p, GError **err)
{
    struct node *n = p->top, *end = node_backing(p->bottom);
    int ret = 0;

    while (ret == 0 && (n = node_chain_next(n)) && n != end) {
        if (!node_is_filter(n)) {
            ret = node_co_check_identity(n, err);
        }
    }
    return ret;
}

/* The same every now and then: each look is a trip to another thread. */
static CO_FN int stream_chain_co_glance_at_sources(struct stream_chain *p)
{
    uint64_t now = loop_now_ns(graph_loop(node_graph(p->top)));
    g_autoptr(GError) err = NULL;

    if (now < p->next_look_ns) {
        return 0;
    }
    p->next_look_ns = now + LOOK_EVERY_NS;
    int ret = stream_chain_co_check_sources(p, &err);

    if (ret < 0) {
        trace_stream_source_changed(node_name(p->top), err->message);
    }
    return ret;
}

CO_FN int stream_chain_co_copy(struct stream_chain *p, uint64_t off,
                               uint64_t len, bool zero,
                               struct populate_result *ret_res)
{
    unsigned flags = IO_BACKGROUND | (zero ? 0 : IO_KNOWN_DATA);
    int ret;

    do {
        backend_co_enter(p->backend);
        ret = stream_chain_co_glance_at_sources(p);
        if (ret == 0) {
            ret = node_co_populate(p->top, node_backing(p->bottom), off, len,
                                   flags, ret_res);
        } else {
            ret_res->read_error = ret;
        }
        backend_leave(p->backend);
    } while (stream_chain_restarts(p, ret));
    return ret;
}

CO_FN int stream_chain_co_verify(struct stream_chain *p, uint64_t *ret_missing)
{
    uint64_t off = 0, size = node_size(p->top);
    unsigned n = 0;
    int ret = 0;

    while (ret == 0 && off < size) {
        struct extent ext = { 0 };
        bool have_base;

        ret = stream_chain_co_status(p, off, size - off, &ext, &have_base);
        if (ret == 0 && extent_needs_copy(&ext, have_base)) {
            *ret_missing = off;
            ret = -EAGAIN;
        }
        off += ext.len;
        if (++n % RELAX_EVERY == 0) {
            co_relax();
        }
    }
    return ret;
}

/* --- pivot --- */

int stream_chain_co_check_name(struct node *top, struct node *bottom,
                               const char *backing_file, GError **err)
{
    const struct pivot pivot = { top, bottom };

    return pivot_co_check_name(&pivot, backing_file, err);
}

/* The overlay's backing edge moves to what is below @bottom. */
static CO_FN int stream_chain_co_switch(struct stream_chain *p,
                                        const struct pivot *pivot, GError **err)
{
    struct node *old = NULL;
    int ret;

    if (p->bottom == p->top) {
        return 0;
    }
    node_co_drain_requests_begin(p->top);
    stream_chain_unfreeze(p);
    ret = pivot_co_switch(pivot, &old, err);
    if (ret == 0) {
        stream_chain_co_take_filter_out(p);
    }
    node_drain_end(p->top);
    if (old) {
        node_co_unref(old);
    }
    return ret;
}

/* Everything is there and durable, or -EAGAIN and *@ret_missing.  Since it was
 * last looked at, what stood as a hole below may have become data: file systems
 * change their minds about holes while they write back.  That little is copied
 * here. */
static CO_FN int stream_chain_co_complete(struct stream_chain *p,
                                          uint64_t *ret_missing)
{
    int ret = stream_chain_co_verify(p, ret_missing);

    for (unsigned i = 0; ret == -EAGAIN && i < LATE_COPIES; i++) {
        struct populate_result res = { 0 };
        bool need = false, zero = false;
        uint64_t off = *ret_missing, len = 0;

        ret = stream_chain_co_scan(p, off, node_size(p->top) - off, &need,
                                   &zero, &len);
        if (ret == 0 && need) {
            trace_stream_late_copy(node_name(p->top), off, len);
            ret = stream_chain_co_copy(
                p, off, MIN(len, LATE_COPY_MAX - off % LATE_COPY_MAX), zero,
                &res);
        }
        if (ret == 0) {
            ret = stream_chain_co_verify(p, ret_missing);
        }
    }
    return ret;
}

CO_FN int stream_chain_co_pivot(struct stream_chain *p,
                                const char *backing_file, GError **err)
{
    const struct pivot pivot = { p->top, p->bottom };
    uint64_t missing = 0;
    int ret;

    if (!node_backing(p->top)) {
        return 0; /* never had a base */
    }
    if (p->bottom != p->top) {
        backend_co_enter(p->backend);
        ret = stream_chain_co_check_sources(p, err);
        backend_leave(p->backend);
        if (ret < 0) {
            return ret;
        }
        ret = stream_chain_co_complete(p, &missing);
        if (ret == -EAGAIN) {
            return err_set(err, EIO,
                           "'%s' still needs its backing file at "
                           "offset %" PRIu64,
                           node_title(p->top), missing);
        }
        if (ret < 0) {
            return err_set_errno(err, -ret,
                                 "Could not make the data of '%s' "
                                 "durable",
                                 node_title(p->top));
        }
    }
    ret = pivot_co_change_header(&pivot, p->backend, backing_file, err);
    return ret < 0 ? ret : stream_chain_co_switch(p, &pivot, err);
}
