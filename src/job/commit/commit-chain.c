/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/commit/commit-chain.h"
#include "base/barrier.h"
#include "base/err.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/pivot.h"
#include "job/snapshot-check.h"

/* --- hold --- */

/* The images that go may change under whoever else reads them. */
static CO_FN int commit_chain_co_hold_images(struct commit_chain *c,
                                             GError **err)
{
    const unsigned shared = PERM_WRITE | PERM_WRITE_UNCHANGED;
    int ret = 0;

    for (struct node *n = c->top; n != c->base && ret == 0;
         n = node_skip_filters(node_backing(n))) {
        ret = job_hold_co_use(&c->hold, n, 0, shared, &job_hold_ops_middle,
                              n == c->top ? &c->top_backend : NULL, err);
    }
    return ret;
}

static CO_FN int commit_chain_co_take_base(struct commit_chain *c, GError **err)
{
    int ret = 0;

    if (!node_is_writable(c->base)) {
        ret = node_co_take_for_writing(c->base, err);
        c->base_made_writable = ret == 0;
    }
    if (ret == 0) {
        ret = job_hold_co_use(&c->hold, c->base,
                              PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
                              PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                              &job_hold_ops_base, &c->base_backend, err);
    }
    return ret;
}

static CO_FN int commit_chain_co_add_filter(struct commit_chain *c,
                                            const char *name, GError **err)
{
    json_t *o = json_pack("{s:s, s:s}", "driver", "commit_top", "file",
                          node_name(c->top));
    int ret;

    if (name) {
        json_object_set_new(o, "node-name", json_string(name));
    }
    ret = node_co_open(node_graph(c->top), o,
                       node_is_writable(c->top) ? NODE_RDWR : 0, &c->filter,
                       err);
    json_decref(o);
    if (ret < 0) {
        c->filter = NULL;
        return ret;
    }
    node_set_implicit_filter(c->filter, !name);
    job_hold_block(&c->hold, c->filter);
    return node_co_insert_filter(c->top, c->filter, err);
}

/* Internal snapshots of the images that go would show what was merged. */
static CO_FN int commit_chain_co_check_snapshots(struct commit_chain *c,
                                                 GError **err)
{
    int ret = 0;

    for (struct node *n = c->top; n != c->base && ret == 0;
         n = node_skip_filters(node_backing(n))) {
        ret = snapshots_co_check_merge(n, c->top, c->base, "committed", err);
    }
    return ret;
}

/* What was there before may stand between the images, too. */
static void commit_chain_block(struct commit_chain *c)
{
    for (struct node *n = c->overlay; n; n = node_chain_next(n)) {
        job_hold_block(&c->hold, n);
        if (n != c->overlay) {
            job_hold_forbid_overlays(&c->hold, n);
        }
        if (n == c->base) {
            break;
        }
    }
}

static CO_FN int commit_chain_co_take(struct commit_chain *c,
                                      const char *filter_node_name,
                                      GError **err)
{
    int ret = 0;

    if (!node_is_writable(c->overlay)) {
        ret = node_co_take_for_writing(c->overlay, err);
        c->overlay_made_writable = ret == 0;
    }
    if (ret == 0) {
        ret = commit_chain_co_add_filter(c, filter_node_name, err);
    }
    if (ret == 0) {
        ret = chain_freeze(c->overlay, c->base, c->hold.by, err);
        c->frozen = ret == 0;
    }
    if (ret == 0) {
        ret = job_hold_co_loosen(&c->hold, c->overlay, c->base, err);
    }
    if (ret == 0) {
        ret = commit_chain_co_hold_images(c, err);
    }
    if (ret == 0) {
        ret = commit_chain_co_take_base(c, err);
    }
    if (ret == 0) {
        ret = commit_chain_co_check_snapshots(c, err);
    }
    return ret < 0 ? ret : node_co_forget_base(c->bottom, err);
}

CO_FN int commit_chain_co_hold(struct commit_chain *c, struct node *overlay,
                               struct node *top, struct node *base,
                               const char *filter_node_name, const char *by,
                               GError **err)
{
    int ret;

    *c = (struct commit_chain) {
        .overlay = node_ref(overlay),
        .top = node_ref(top),
        .bottom = node_ref(node_overlay_of(top, base)),
        .base = node_ref(base),
        .transfer = { top, base, IO_MAY_UNMAP },
    };
    job_hold_init(&c->hold, "commit", by);
    /* At once, before anything yields: nobody else may begin here. */
    commit_chain_block(c);
    ret = commit_chain_co_take(c, filter_node_name, err);
    if (ret < 0) {
        commit_chain_co_release(c);
    }
    return ret;
}

static void commit_chain_unfreeze(struct commit_chain *c)
{
    if (c->frozen) {
        chain_unfreeze(c->overlay, c->base);
        c->frozen = false;
    }
}

/* The filter goes out of the graph; the reference stays ours. */
static CO_FN void commit_chain_co_take_filter_out(struct commit_chain *c)
{
    if (c->filter && node_first_parent(c->filter)) {
        (void)node_co_remove_filter(c->filter, NULL);
    }
}

/* Before others may begin, who would rely on what is still writable. */
static CO_FN void commit_chain_co_make_read_only(struct commit_chain *c)
{
    if (c->base_made_writable) {
        (void)node_co_set_read_only(c->base, true, NULL);
    }
    if (c->overlay_made_writable) {
        (void)node_co_set_read_only(c->overlay, true, NULL);
    }
}

CO_FN void commit_chain_co_release(struct commit_chain *c)
{
    struct commit_chain old = *c;

    if (!c->top) {
        return;
    }
    c->ending = true;
    job_hold_co_leave(&c->hold);
    commit_chain_unfreeze(c);
    commit_chain_co_take_filter_out(c);
    commit_chain_co_make_read_only(c);
    job_hold_co_release(&c->hold);
    *c = (struct commit_chain) { 0 };
    if (old.filter) {
        node_co_unref(old.filter);
    }
    node_co_unref(old.overlay);
    node_co_unref(old.top);
    node_co_unref(old.bottom);
    node_co_unref(old.base);
}

/* --- work --- */

CO_FN int commit_chain_co_grow(struct commit_chain *c, GError **err)
{
    int ret;

    if (node_size(c->base) >= node_size(c->top)) {
        return 0;
    }
    backend_co_enter(c->base_backend);
    ret = node_co_truncate(c->base, node_size(c->top), err);
    backend_leave(c->base_backend);
    if (ret < 0) {
        return ret;
    }
    ret = backend_co_flush(c->base_backend);
    return ret == 0 ? 0
                    : err_set_errno(err, -ret, "Could not flush node '%s'",
                                    node_name(c->base));
}

uint64_t commit_chain_len(const struct commit_chain *c)
{
    uint64_t shown = MIN(node_size(c->base), node_size(c->overlay));

    return MAX(node_size(c->top), shown);
}

/* Has @ret come because of node_let_go(), and is the work to go on? */
static bool commit_chain_restarts(const struct commit_chain *c, int ret)
{
    return ret == -ERESTART && !c->ending;
}

CO_FN int commit_chain_co_scan(struct commit_chain *c, uint64_t off,
                               uint64_t max, bool *ret_need, bool *ret_zero,
                               uint64_t *ret_len)
{
    uint64_t size = node_size(c->top);
    struct extent ext = { 0 };
    int ret;

    if (off >= size) {
        *ret_need = *ret_zero = true;
        *ret_len = max;
        return 0;
    }
    max = MIN(max, size - off);
    do {
        backend_co_enter(c->top_backend);
        ret = node_co_status_above(c->top, node_backing(c->bottom), off, max,
                                   &ext);
        backend_leave(c->top_backend);
    } while (commit_chain_restarts(c, ret));
    *ret_need = ext.depth > 0;
    *ret_zero = ext.flags & STATUS_ZERO;
    *ret_len = ext.len;
    return ret;
}

/* The backend on the top is above the base, too: no other need be entered. */
CO_FN int commit_chain_co_copy(struct commit_chain *c, uint64_t off,
                               uint64_t len, bool zero, struct copy_result *res)
{
    int ret;

    do {
        *res = (struct copy_result) { 0 };
        backend_co_enter(c->top_backend);
        ret = transfer_co_copy(&c->transfer, off, len, zero, res);
        backend_leave(c->top_backend);
    } while (commit_chain_restarts(c, ret));
    return ret;
}

void commit_chain_let_go(struct commit_chain *c)
{
    c->ending = true;
    if (c->top) {
        node_let_go(c->top);
    }
}

CO_FN int commit_chain_co_pivot(struct commit_chain *c,
                                const char *backing_file, GError **err)
{
    const struct pivot pivot = { c->overlay, c->bottom };
    struct node *old = NULL;
    struct backend *u;
    int ret = BARRIER(COMMIT_BASE, backend_co_flush(c->base_backend));

    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush node '%s'",
                             node_name(c->base));
    }
    ret = job_hold_co_use(&c->hold, c->overlay, PERM_CONSISTENT_READ, PERM_ALL,
                          &job_hold_ops_active, &u, err);
    if (ret == 0) {
        ret = pivot_co_change_header(&pivot, u, backing_file, err);
    }
    if (ret < 0) {
        return ret;
    }
    node_co_drain_requests_begin(c->overlay);
    commit_chain_unfreeze(c);
    ret = pivot_co_switch(&pivot, &old, err);
    node_drain_end(c->overlay);
    if (old) {
        node_co_unref(old);
    }
    return ret;
}
