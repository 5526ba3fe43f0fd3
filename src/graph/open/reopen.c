/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * blockdev-reopen: several open nodes get new options, all or none.
 *
 * What becomes of which node is told by reopen-plan.c before anything is done.
 * Then, with all of the nodes drained and flushed:
 *
 *   1 drivers take their options and cache modes
 *   2 nodes become writable, the lowest first; those that get another "file"
 *     become read-only, since their last writes go to the old one
 *   3 edges move, all at once
 *   4 the others become read-only, the highest first
 *   5 the new options are noted: it is final
 *
 * Steps 1 to 4 keep a log of what drivers did.  A failure moves the edges back
 * and has the log undone, the latest first.
 */
#include "base/barrier.h"
#include "base/err.h"
#include "graph/io.h"
#include "graph/model/chain-map.h"
#include "graph/model/model.h"
#include "graph/open/open.h"
#include "graph/open/reopen-plan.h"
#include "graph/trace.h"

/* --- options --- */

/* What the driver did not take must be as it was. */
static int options_check_rest(const struct node *n, struct opts *o,
                              GError **err)
{
    json_t *rest = opts_take_rest(o);
    const char *name;
    json_t *value;
    int ret = 0;

    json_object_foreach(rest, name, value) {
        if (ret == 0 && !json_equal(value, json_object_get(n->options, name))) {
            ret = err_set(err, EINVAL, "Cannot change the option '%s'", name);
        }
    }
    json_decref(rest);
    return ret;
}

/* What cannot be changed has no default to go back to either. */
static int options_check_reset(const struct node *n, const json_t *options,
                               GError **err)
{
    const char *const *fixed = n->drv->fixed_options;

    for (; fixed && *fixed; fixed++) {
        if (json_object_get(n->options, *fixed) &&
            !json_object_get(options, *fixed)) {
            return err_set(err, EINVAL,
                           "Option '%s' cannot be reset to its default value",
                           *fixed);
        }
    }
    return 0;
}

static bool options_are_empty(struct opts *o)
{
    return opts_finish(o, NULL) == 0;
}

/* All but whether @c->n is writable. */
static CO_FN int change_co_options(const struct reopen_change *c, GArray *log,
                                   GError **err)
{
    struct node *n = c->n;
    const unsigned flags = (c->flags & ~(unsigned)NODE_RDWR) |
                           (n->flags & NODE_RDWR);
    CLEANUP(opts_freep) struct opts *o = own_opts_new(c->options);
    CLEANUP(opts_freep) struct opts *old = own_opts_new(n->options);
    int ret = options_check_reset(n, c->options, err);

    if (ret < 0 ||
        (flags == n->flags &&
         (c->kept || (options_are_empty(o) && options_are_empty(old))))) {
        return ret;
    }
    ret = driver_co_reopen(n, o, flags, log, err);
    return ret < 0 ? ret : options_check_rest(n, o, err);
}

/* --- read-only and writable --- */

static bool change_is_rdonly(const struct reopen_change *c)
{
    return !(c->flags & NODE_RDWR);
}

/* Storage that may not be written stays read-only where that is enough. */
static CO_FN int change_co_read_only(const struct reopen_change *c, GArray *log,
                                     GError **err)
{
    bool may_stay = !change_is_rdonly(c) && (c->flags & NODE_AUTO_RDONLY) &&
                    !json_object_get(c->options, "read-only");
    int ret = rdonly_co_tree(c->n, change_is_rdonly(c), log,
                             may_stay ? NULL : err);

    return may_stay && open_is_denied(ret) ? 0 : ret;
}

/* Those that become writable, or read-only: @swapped: and get another "file",
 * or not. */
static CO_FN int changes_co_read_only(const struct reopen *r, bool read_only,
                                      bool swapped, GError **err)
{
    const unsigned count = r->changes->len;
    int ret = 0;

    for (unsigned i = 0; i < count && ret == 0; i++) {
        const struct reopen_change *c = g_ptr_array_index(
            r->changes, read_only ? i : count - 1 - i);

        if (change_is_rdonly(c) == read_only && c->swaps_file == swapped) {
            ret = change_co_read_only(c, r->log, err);
        }
    }
    return ret;
}

/* --- edges --- */

/* An image keeps parts of its file in memory, so that file must stay: a filter
 * may come over it, or go. */
static CO_FN int file_co_check_same(struct node *n, struct node *to,
                                    GError **err)
{
    g_autofree char *now = node_co_identity(n);
    g_autofree char *then = node_co_identity(to);

    if (node_storage(n) == node_storage(to) ||
        (now && g_strcmp0(now, then) == 0)) {
        return 0;
    }
    return err_set(err, EINVAL,
                   "Cannot change the option 'file': node '%s' does not lead "
                   "to the file of image '%s'",
                   to->name, n->name);
}

static CO_FN int moves_co_check_files(const struct reopen *r, GError **err)
{
    int ret = 0;

    for (unsigned i = 0; i < r->moves->len && ret == 0; i++) {
        const struct edge_move *m = &g_array_index(r->moves, struct edge_move,
                                                   i);

        if (g_str_equal(m->name, "file") && m->parent->drv->supports_backing) {
            ret = file_co_check_same(m->parent, m->to, err);
        }
    }
    return ret;
}

/* A driver that looks at its file when it is opened (raw) looks again. */
static CO_FN int change_co_look_at_file(const struct reopen_change *c,
                                        const json_t *options, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = own_opts_new(options);
    uint64_t size = c->n->size;
    int ret = c->n->drv->co_reopen
                  ? c->n->drv->co_reopen(c->n, o, c->n->flags, err)
                  : 0;

    if (ret == 0 && c->n->size != size && !(c->n->priv->shared & PERM_RESIZE)) {
        ret = err_set(err, EBUSY, "Node '%s' is busy: its size must not change",
                      c->n->name);
    }
    return ret;
}

static CO_FN int changes_co_look_at_files(const struct reopen *r, GError **err)
{
    int ret = 0;

    for (unsigned i = 0; i < r->changes->len && ret == 0; i++) {
        const struct reopen_change *c = g_ptr_array_index(r->changes, i);

        if (c->swaps_file) {
            ret = change_co_look_at_file(c, c->options, err);
        }
    }
    return ret;
}

/* --- all of it --- */

static CO_FN int changes_co_flush(const struct reopen *r, GError **err)
{
    for (unsigned i = 0; i < r->changes->len; i++) {
        const struct reopen_change *c = g_ptr_array_index(r->changes, i);
        int ret;

        if (!node_is_writable(c->n)) {
            continue;
        }
        ret = BARRIER_COURTESY(node_co_flush(c->n));
        if (ret < 0) {
            return err_set_errno(err, -ret, "Could not flush node '%s'",
                                 c->n->name);
        }
    }
    return 0;
}

static CO_FN int reopen_co_apply(struct reopen *r, GError **err)
{
    int ret = changes_co_flush(r, err);

    for (unsigned i = 0; i < r->changes->len && ret == 0; i++) {
        struct reopen_change *c = g_ptr_array_index(r->changes, i);

        c->n->priv->explicit_rdonly = c->explicit_rdonly;
        ret = change_co_options(c, r->log, err);
    }
    if (ret == 0) {
        ret = changes_co_read_only(r, false, false, err);
    }
    if (ret == 0) {
        ret = changes_co_read_only(r, true, true, err);
    }
    r->log_at_move = r->log->len;
    if (ret == 0) {
        ret = moves_co_check_files(r, err);
    }
    if (ret == 0) {
        ret = edges_co_change((void *)r->moves->data, r->moves->len, err);
        r->moved = ret == 0;
    }
    if (ret == 0) {
        ret = changes_co_look_at_files(r, err);
    }
    if (ret == 0) {
        ret = changes_co_read_only(r, false, true, err);
    }
    return ret < 0 ? ret : changes_co_read_only(r, true, false, err);
}

/* --- the end --- */

/* Of a node, back to what @was. */
static CO_FN void reopened_co_undo(const struct reopened *was)
{
    struct node *n = was->n;
    bool flips = (n->flags ^ was->flags) & NODE_RDWR;
    CLEANUP(opts_freep) struct opts *o = own_opts_new(n->options);
    int ret = 0;

    if (flips && (was->flags & NODE_RDWR)) {
        (void)children_co_set_perms(n, true, NULL);
    }
    if (n->drv->co_reopen_end) {
        n->drv->co_reopen_end(n, false);
    } else if (n->drv->co_reopen) {
        ret = n->drv->co_reopen(n, o, was->flags, NULL);
    }
    trace_node_reopen_undo(n->name, was->flags, ret);
    if (ret == 0) {
        n->flags = was->flags;
    }
    chain_maps_drop(n);
    if (flips && !node_is_writable(n)) {
        (void)children_co_set_perms(n, false, NULL);
    }
}

static CO_FN void reopen_co_abort(struct reopen *r)
{
    unsigned i = r->log->len;

    while (i > r->log_at_move) {
        reopened_co_undo(&g_array_index(r->log, struct reopened, --i));
    }
    if (r->moved) {
        edges_co_change_back((void *)r->moves->data, r->moves->len);
    }
    for (unsigned at = 0; r->moved && at < r->changes->len; at++) {
        const struct reopen_change *c = g_ptr_array_index(r->changes, at);

        if (c->swaps_file) {
            (void)change_co_look_at_file(c, c->n->options, NULL);
        }
    }
    while (i > 0) {
        reopened_co_undo(&g_array_index(r->log, struct reopened, --i));
    }
    for (i = 0; i < r->changes->len; i++) {
        struct reopen_change *c = g_ptr_array_index(r->changes, i);

        c->n->priv->explicit_rdonly = c->old_explicit_rdonly;
        node_refresh_above(c->n);
    }
}

static CO_FN void reopen_co_keep(struct reopen *r)
{
    for (unsigned i = 0; i < r->log->len; i++) {
        struct node *n = g_array_index(r->log, struct reopened, i).n;

        if (n->drv->co_reopen_end) {
            n->drv->co_reopen_end(n, true);
        }
    }
    for (unsigned i = 0; i < r->changes->len; i++) {
        struct reopen_change *c = g_ptr_array_index(r->changes, i);

        node_set_zeroing(c->n, c->discard, c->detect_zeroes);
        json_decref(c->n->options);
        c->n->options = json_deep_copy(c->options);
        node_refresh_filename(c->n);
        node_refresh_above(c->n);
        node_notify_changed(c->n);
    }
}

/* Are nodes in the plan that are not drained? Now they are, and while that was
 * awaited the graph may have changed. */
static CO_FN bool reopen_co_drain_more(struct reopen *r)
{
    bool more = false;

    for (unsigned i = 0; i < r->changes->len && !more; i++) {
        const struct reopen_change *c = g_ptr_array_index(r->changes, i);

        if (!g_ptr_array_find(r->drained, c->n, NULL)) {
            g_ptr_array_add(r->drained, node_ref(c->n));
            node_co_drain_begin(c->n);
            more = true;
        }
    }
    return more;
}

int nodes_co_reopen(struct graph *g, const json_t *list, GError **err)
{
    struct reopen *r = reopen_new(g);
    int ret;

    do {
        ret = reopen_co_plan(r, list, err);
    } while (ret == 0 && reopen_co_drain_more(r));
    if (ret == 0) {
        ret = reopen_co_apply(r, err);
        if (ret < 0) {
            reopen_co_abort(r);
        } else {
            reopen_co_keep(r);
        }
    }
    for (unsigned i = r->drained->len; i-- > 0;) {
        node_drain_end(g_ptr_array_index(r->drained, i));
    }
    reopen_co_free(r);
    return ret;
}
