/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plan of a blockdev-reopen.
 *
 * An option set is complete: what it leaves out has its default, or is
 * inherited from the node above where the node was opened as a part of that
 * one.  Children are given
 *
 *   as an object: new options of a child that was opened as a part
 *   by name: of the child that is there: it keeps its options, and inherits
 *            anew if it was opened as a part; of another node: the edge moves
 *   as null ("backing"): the edge goes
 */
#include "graph/open/reopen-plan.h"
#include "base/err.h"
#include "graph/open/open.h"

/* What options, its own or inherited ones, decide. */
#define FLAGS_REOPENED \
    (NODE_RDWR | NODE_AUTO_RDONLY | NODE_CACHE_DIRECT | NODE_NO_FLUSH)

struct reopen *reopen_new(struct graph *g)
{
    struct reopen *r = g_new0(struct reopen, 1);

    r->graph = g;
    r->changes = g_ptr_array_new();
    r->moves = g_array_new(FALSE, TRUE, sizeof(struct edge_move));
    r->drained = g_ptr_array_new();
    r->log = g_array_new(FALSE, TRUE, sizeof(struct reopened));
    return r;
}

static CO_FN void nodes_co_unref(GPtrArray *nodes)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        node_co_unref(g_ptr_array_index(nodes, i));
    }
}

/* The last reference of a node that was left out of the graph is among those of
 * the plan. */
static CO_FN void reopen_co_forget_plan(struct reopen *r)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (unsigned i = 0; i < r->changes->len; i++) {
        struct reopen_change *c = g_ptr_array_index(r->changes, i);

        g_ptr_array_add(nodes, c->n);
        json_decref(c->options);
        g_free(c);
    }
    for (unsigned i = 0; i < r->moves->len; i++) {
        struct edge_move *m = &g_array_index(r->moves, struct edge_move, i);

        g_ptr_array_add(nodes, m->from);
        g_ptr_array_add(nodes, m->to);
    }
    g_ptr_array_set_size(r->changes, 0);
    g_array_set_size(r->moves, 0);
    nodes_co_unref(nodes);
}

CO_FN void reopen_co_free(struct reopen *r)
{
    reopen_co_forget_plan(r);
    for (unsigned i = 0; i < r->log->len; i++) {
        node_co_unref(g_array_index(r->log, struct reopened, i).n);
    }
    nodes_co_unref(r->drained);
    g_ptr_array_free(r->changes, TRUE);
    g_array_free(r->moves, TRUE);
    g_ptr_array_free(r->drained, TRUE);
    g_array_free(r->log, TRUE);
    g_free(r);
}

static struct reopen_change *change_of(const struct reopen *r,
                                       const struct node *n)
{
    for (unsigned i = 0; i < r->changes->len; i++) {
        struct reopen_change *c = g_ptr_array_index(r->changes, i);

        if (c->n == n) {
            return c;
        }
    }
    return NULL;
}

/* --- what must stay --- */

static int cannot_change(const char *name, GError **err)
{
    return err_set(err, EINVAL, "Cannot change the option '%s'", name);
}

/* "driver" and "node-name" may be left out in the options of a part. */
static int check_identity(const struct node *n, const json_t *options,
                          GError **err)
{
    const json_t *name = json_object_get(options, "node-name");
    const json_t *driver = json_object_get(options, "driver");

    if (driver && g_strcmp0(json_string_value(driver), n->drv->name) != 0) {
        return cannot_change("driver", err);
    }
    if (name && g_strcmp0(json_string_value(name), n->name) != 0) {
        return cannot_change("node-name", err);
    }
    return 0;
}

static int check_backing_given(const struct node *n, const json_t *options,
                               GError **err)
{
    if (json_object_get(options, "backing") || !n->drv->supports_backing ||
        (!n->priv->backing && !node_header_backing(n, NULL))) {
        return 0;
    }
    err_set(err, EINVAL, "backing is missing for '%s'", n->name);
    err_hint(err, "Say backing: null, or the name of the node below.");
    return -EINVAL;
}

/* A job relies on what a node shows and, may be, on writing to it. */
static int check_blocked(const struct reopen_change *c, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = own_opts_new(c->options);
    CLEANUP(opts_freep) struct opts *old = own_opts_new(c->n->options);
    json_t *a = opts_take_rest(o), *b = opts_take_rest(old);
    bool same = json_equal(a, b) && !c->swaps_file &&
                !(c->n->flags & ~c->flags & NODE_RDWR);

    json_decref(a);
    json_decref(b);
    return same ? 0 : node_check_op(c->n, BLOCK_OP_REOPEN, err);
}

/* --- edges --- */

static void plan_move(struct reopen *r, struct node *parent, const char *name,
                      struct node *to)
{
    const struct edge *e = node_child(parent, name);
    struct edge_move m = {
        .parent = parent,
        .name = name,
        .from = e ? node_ref(e->child) : NULL,
        .to = to ? node_ref(to) : NULL,
    };

    g_array_append_val(r->moves, m);
}

/* What job filters without a name stand on. */
static struct node *skip_implicit(struct node *n)
{
    while (n && n->implicit_filter) {
        n = node_file(n);
    }
    return n;
}

static int check_new_child(struct node *n, const char *name,
                           const struct node *now, const struct node *to,
                           GError **err)
{
    bool backing = g_str_equal(name, "backing");

    if (!backing && !g_str_equal(name, "file")) {
        return cannot_change(name, err);
    }
    if (now && now->implicit_filter) {
        return err_set(err, EPERM, "Cannot replace implicit %s child of %s",
                       name, n->name);
    }
    if (backing && node_is_filter(n)) {
        return err_set(err, EINVAL,
                       "'%s' is a %s filter node that does not support a "
                       "backing child",
                       n->name, n->drv->name);
    }
    if (backing && !n->drv->supports_backing) {
        return err_set(err, EINVAL,
                       "Driver '%s' of node '%s' does not support backing "
                       "files",
                       n->drv->name, n->name);
    }
    if (!backing && !now) {
        return err_set(err, EINVAL,
                       "Cannot set file child to format node without file "
                       "child");
    }
    return backing && to
               ? node_check_op((struct node *)to, BLOCK_OP_OVERLAY, err)
               : 0;
}

static int plan_node(struct reopen *r, struct node *n, const json_t *options,
                     unsigned inherited, bool keep, GError **err);

static bool is_part(const struct node *child, const struct node *n)
{
    return child && child->priv->part_of == n->priv->serial;
}

/* What the child @name of @c inherits. */
static unsigned inherited_by(const struct reopen_change *c, const char *name)
{
    const unsigned not_backing = NODE_RDWR | NODE_AUTO_RDONLY;

    return g_str_equal(name, "backing") ? c->flags & ~not_backing : c->flags;
}

/* The option @name of @c names a node, or none. */
static int plan_child_by_name(struct reopen *r, struct reopen_change *c,
                              const char *name, const char *to_name,
                              GError **err)
{
    const struct edge *e = node_child(c->n, name);
    struct node *now = e ? e->child : NULL, *to = NULL;
    int ret;

    if (to_name) {
        to = node_find(c->n->graph, to_name, err);
        if (!to) {
            return -ENOENT;
        }
    }
    if (to == now || to == skip_implicit(now)) {
        return is_part(to, c->n) ? plan_node(r, to, to->options,
                                             inherited_by(c, name), true, err)
                                 : 0;
    }
    ret = check_new_child(c->n, name, now, to, err);
    if (ret == 0) {
        plan_move(r, c->n, name, to);
        c->swaps_file = c->swaps_file || g_str_equal(name, "file");
    }
    return ret;
}

/* The option @name of @c is an object. */
static int plan_child_by_options(struct reopen *r, struct reopen_change *c,
                                 const char *name, const json_t *options,
                                 GError **err)
{
    const struct edge *e = node_child(c->n, name);
    struct node *child = e ? skip_implicit(e->child) : NULL;
    g_autofree char *member = NULL;

    if (is_part(child, c->n)) {
        return plan_node(r, child, options, inherited_by(c, name), false, err);
    }
    member = g_strdup_printf("%s.driver", name);
    return cannot_change(member, err);
}

static int plan_child(struct reopen *r, struct reopen_change *c,
                      const char *name, GError **err)
{
    const json_t *option = json_object_get(c->options, name);
    const struct edge *e = node_child(c->n, name);

    if (json_is_object(option) && !c->kept) {
        return plan_child_by_options(r, c, name, option, err);
    }
    if (option && !json_is_object(option) && !c->kept) {
        return plan_child_by_name(r, c, name, json_string_value(option), err);
    }
    return e && is_part(e->child, c->n)
               ? plan_node(r, e->child, e->child->options,
                           inherited_by(c, name), true, err)
               : 0;
}

static int plan_children(struct reopen *r, struct reopen_change *c,
                         GError **err)
{
    static const char *const names[] = { "file", "data-file", "backing" };
    int ret = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(names) && ret == 0; i++) {
        ret = plan_child(r, c, names[i], err);
    }
    return ret;
}

/* --- nodes --- */

static int change_take_common(struct reopen_change *c, unsigned inherited,
                              GError **err)
{
    struct node *n = c->n;
    struct common_options common = {
        .flags = (n->flags & ~(unsigned)FLAGS_REOPENED) |
                 (inherited & FLAGS_REOPENED),
    };
    CLEANUP(opts_freep) struct opts *o = opts_new(c->options);
    int ret = common_options_take(o, &common, err);

    if (ret == 0 && (common.flags ^ n->flags) & NODE_FORCE_SHARE) {
        return cannot_change("force-share", err);
    }
    if (ret == 0) {
        ret = node_check_share(common.flags, err);
    }
    c->flags = common.flags;
    c->explicit_rdonly = common.explicit_rdonly;
    c->discard = common.discard;
    c->detect_zeroes = common.detect_zeroes;
    return ret;
}

static int plan_node(struct reopen *r, struct node *n, const json_t *options,
                     unsigned inherited, bool keep, GError **err)
{
    struct reopen_change *c = change_of(r, n);
    int ret = keep ? 0 : check_identity(n, options, err);

    if (ret < 0 || (c && keep)) {
        return ret;
    }
    if (c) { /* named twice: together they are one set */
        json_t *both = json_deep_copy(options);

        json_object_update_missing(both, c->options);
        json_decref(c->options);
        c->options = both;
        c->kept = false;
    } else {
        c = g_new0(struct reopen_change, 1);
        c->n = node_ref(n);
        c->options = json_deep_copy(options);
        c->kept = keep;
        c->old_explicit_rdonly = n->priv->explicit_rdonly;
        g_ptr_array_add(r->changes, c);
    }
    ret = change_take_common(c, inherited, err);
    if (ret == 0 && !c->kept) {
        ret = check_backing_given(n, c->options, err);
    }
    if (ret == 0) {
        ret = plan_children(r, c, err);
    }
    return ret < 0 ? ret : check_blocked(c, err);
}

static int plan_named(struct reopen *r, const json_t *options, GError **err)
{
    const char *name = json_string_value(json_object_get(options, "node-name"));
    struct node *n;

    if (!name) {
        return err_set(err, EINVAL, "node-name not specified");
    }
    n = node_find(r->graph, name, NULL);
    if (!n) {
        return err_set(err, ENOENT, "Failed to find node with node-name='%s'",
                       name);
    }
    return plan_node(r, n, options, NODE_RDWR, false, err);
}

CO_FN int reopen_co_plan(struct reopen *r, const json_t *list, GError **err)
{
    int ret = 0;

    reopen_co_forget_plan(r);
    for (size_t i = 0; i < json_array_size(list) && ret == 0; i++) {
        ret = plan_named(r, json_array_get(list, i), err);
    }
    return ret;
}
