/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Permissions: what each parent does with a node and lets the others do.
 *
 * No parent may do what another does not share.  A filter wants from its child
 * what its own parents want from it, and shares what they share, besides its
 * own needs; other parents state theirs when they attach.  An image that
 * nobody uses wants nothing of its backing file.  The driver of a node hears
 * the sum before a change counts (image locks).
 */
#include "base/err.h"
#include "graph/model/model.h"
#include "graph/trace.h"

static char *perm_names(unsigned perm)
{
    static const char *const names[] = {
        "consistent read",
        "write",
        "write unchanged",
        "resize",
    };
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & (1u << i)) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", names[i]);
        }
    }
    return g_string_free(s, FALSE);
}

static int perm_conflict(const struct edge *backend, const struct edge *owner,
                         GError **err)
{
    char *a = edge_describe_parent(backend);
    char *b = edge_describe_parent(owner);
    char *names = perm_names(backend->perm & ~owner->shared);

    err_set(err, EPERM,
            "Permission conflict on node '%s': permissions '%s' are both "
            "required by %s (uses node '%s' as '%s' child) and unshared by %s "
            "(uses node '%s' as '%s' child).",
            backend->child->name, names, a, backend->child->name, backend->name,
            b, backend->child->name, owner->name);
    g_free(a);
    g_free(b);
    g_free(names);
    return -EPERM;
}

static int perm_check(const struct node *n, GError **err)
{
    for (const struct edge *a = n->parents; a; a = a->next_in_child) {
        if ((a->perm & (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE)) &&
            (!node_is_writable(n) || n->priv->ends_writing) && a->backend) {
            return err_set(err, EACCES, "Block node is read-only");
        }
        for (const struct edge *b = n->parents; b; b = b->next_in_child) {
            if (a != b && (a->perm & ~b->shared)) {
                return perm_conflict(a, b, err);
            }
        }
    }
    return 0;
}

void node_cumulative_perms(const struct node *n, unsigned *ret_perm,
                           unsigned *ret_shared)
{
    unsigned perm = 0, shared = PERM_ALL;

    for (const struct edge *e = n->parents; e; e = e->next_in_child) {
        perm |= e->perm;
        shared &= e->shared;
    }
    *ret_perm = perm;
    *ret_shared = shared;
}

int node_co_restrict_file(struct node *n, unsigned take, unsigned unshare,
                          GError **err)
{
    struct edge *e = n->priv->file;
    const struct edge old = *e;
    int ret;

    graph_co_lock(n->graph);
    e->own_perm |= take;
    e->own_shared &= ~unshare;
    e->perm |= take;
    e->shared &= ~unshare;
    ret = perm_co_refresh(e->child, err);
    if (ret < 0) {
        e->own_perm = old.own_perm;
        e->own_shared = old.own_shared;
        e->perm = old.perm;
        e->shared = old.shared;
        (void)perm_co_refresh(e->child, NULL);
    }
    graph_unlock(n->graph);
    return ret;
}

/* Pass on to the children of @n what follows from its parents. */
static CO_FN int perm_co_propagate(struct node *n, GError **err)
{
    for (struct edge *e = n->children; e; e = e->next_in_parent) {
        unsigned perm = e->perm, shared = e->shared;
        int ret;

        edge_set_effective(e);
        if (perm == e->perm && shared == e->shared) {
            continue;
        }
        ret = perm_co_refresh(e->child, err);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

int perm_co_refresh(struct node *n, GError **err)
{
    struct node_int *p = n->priv;
    unsigned perm, shared;
    int ret = perm_check(n, err);

    if (ret < 0) {
        return ret;
    }
    node_cumulative_perms(n, &perm, &shared);
    if (perm == p->perm && shared == p->shared) {
        return 0;
    }
    if (n->drv->co_set_perms && p->open) {
        ret = n->drv->co_set_perms(n, perm, shared, err);
    }
    trace_perm_refresh(n->name, perm, shared, ret);
    if (ret < 0) {
        return ret;
    }
    p->perm = perm;
    p->shared = shared;
    return perm_co_propagate(n, err);
}

static CO_FN int child_co_set_perm(struct edge *e, unsigned perm, GError **err)
{
    unsigned old = e->perm;
    int ret;

    e->perm = e->own_perm = perm;
    ret = perm_co_refresh(e->child, err);
    if (ret < 0) {
        e->perm = e->own_perm = old;
        (void)perm_co_refresh(e->child, NULL);
    }
    return ret;
}

int children_co_set_perms(struct node *n, bool writable, GError **err)
{
    const unsigned write = PERM_WRITE | PERM_RESIZE;
    struct edge *e, *done;
    int ret = 0;

    if (node_is_filter(n)) {
        return 0;
    }
    graph_co_lock(n->graph);
    for (e = n->children; e && ret == 0; e = e->next_in_parent) {
        if (e != n->priv->backing) {
            ret = child_co_set_perm(
                e, PERM_CONSISTENT_READ | (writable ? write : 0), err);
        }
        if (ret < 0) {
            break;
        }
    }
    for (done = n->children; ret < 0 && done != e;
         done = done->next_in_parent) {
        if (done != n->priv->backing) {
            (void)child_co_set_perm(
                done, PERM_CONSISTENT_READ | (writable ? 0 : write), NULL);
        }
    }
    graph_unlock(n->graph);
    return ret;
}
