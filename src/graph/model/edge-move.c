/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Several edges that move at once.
 *
 * All are moved before anybody's permissions are asked for, so that two nodes
 * can, for instance, exchange their children; then every node concerned is
 * asked, those above first (see edges_co_refresh()).
 */
#include <string.h>
#include "base/err.h"
#include "graph/model/model.h"
#include "graph/trace.h"

static int move_check(const struct edge_move *m, GError **err)
{
    const struct edge *e = node_child(m->parent, m->name);

    if (e && e->frozen) {
        return edge_check_frozen(e, m->to, err);
    }
    if (m->to && node_reaches(m->to, m->parent)) {
        return err_set(err, EINVAL,
                       "Making '%s' a %s child of '%s' would create a cycle",
                       m->to->name, m->name, m->parent->name);
    }
    if (m->to && !strcmp(m->name, "file") && node_is_writable(m->parent) &&
        !node_is_writable(m->to)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    return 0;
}

/* Lead the edge to @to, NULL: take it away. */
static void move_link(struct edge_move *m, struct node *to)
{
    struct edge *e = node_child(m->parent, m->name);

    if (e && to) {
        edge_point_to(e, to);
    } else if (e) {
        m->perm = e->own_perm;
        m->shared = e->own_shared;
        trace_edge_change(m->parent->name, m->name, e->child->name, NULL);
        edge_unlink(e)->refs--; /* the caller has one */
    } else if (to) {
        trace_edge_change(m->parent->name, m->name, NULL, to->name);
        (void)edge_link(m->parent, NULL, to, m->name, m->perm, m->shared);
    }
}

static void move_set_perms(struct edge_move *m)
{
    m->perm = PERM_CONSISTENT_READ;
    m->shared = m->parent->flags & NODE_FORCE_SHARE
                    ? (unsigned)PERM_ALL
                    : PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
}

/* Each node once; one that reaches another before that one. */
static void add_affected(GPtrArray *nodes, struct node *n)
{
    unsigned at = 0;

    if (!n || g_ptr_array_find(nodes, n, NULL)) {
        return;
    }
    while (at < nodes->len && !node_reaches(n, g_ptr_array_index(nodes, at))) {
        at++;
    }
    g_ptr_array_insert(nodes, (int)at, n);
}

static CO_FN int moves_co_refresh(const struct edge_move *moves, unsigned n,
                                  GError **err)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    int ret = 0;

    for (unsigned i = 0; i < n; i++) {
        add_affected(nodes, moves[i].from);
        add_affected(nodes, moves[i].to);
    }
    for (unsigned i = 0; i < nodes->len && ret == 0; i++) {
        ret = perm_co_refresh(g_ptr_array_index(nodes, i), err);
    }
    return ret;
}

static void moves_tell(const struct edge_move *moves, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        node_refresh_above(moves[i].parent);
        if (moves[i].to) {
            node_notify_changed(moves[i].to);
        }
    }
}

void edges_co_change_back(struct edge_move *moves, unsigned n)
{
    for (unsigned i = n; i-- > 0;) {
        move_link(&moves[i], moves[i].from);
    }
    /* Whoever agreed before agrees again. Each is asked. */
    for (unsigned i = 0; i < n; i++) {
        (void)moves_co_refresh(&moves[i], 1, NULL);
    }
}

int edges_co_change(struct edge_move *moves, unsigned n, GError **err)
{
    unsigned done = 0;
    int ret = 0;

    if (n == 0) {
        return 0;
    }
    graph_co_lock(moves[0].parent->graph);
    while (done < n && ret == 0) {
        ret = move_check(&moves[done], err);
        if (ret == 0) {
            move_set_perms(&moves[done]);
            move_link(&moves[done], moves[done].to);
            done++;
        }
    }
    if (ret == 0) {
        ret = moves_co_refresh(moves, n, err);
    }
    if (ret < 0) {
        edges_co_change_back(moves, done);
    } else {
        moves_tell(moves, n);
    }
    graph_unlock(moves[0].parent->graph);
    return ret;
}
