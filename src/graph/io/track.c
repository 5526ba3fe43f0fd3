/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracking of requests in flight: two treaps per node, one of the writes and
 * one of the allocating ranges, ordered by offset, each subtree knowing the
 * highest end within it.
 *
 * A request enters its tree on arrival, before it waits, and waits only for
 * conflicting requests with a lower arrival number.  So the waiting has no
 * cycles and nobody is overtaken by a later conflicting request.
 */
#include "graph/graph-int.h"
#include "graph/trace.h"
#include "graph/track.h"

static uint64_t tracked_end(const struct tracked *t)
{
    return t->off + t->len;
}

static void tree_update(struct tracked *t)
{
    t->max_end = tracked_end(t);
    if (t->left) {
        t->max_end = MAX(t->max_end, t->left->max_end);
    }
    if (t->right) {
        t->max_end = MAX(t->max_end, t->right->max_end);
    }
}

/* The order: by offset, then by arrival. */
static bool tree_less(const struct tracked *a, const struct tracked *b)
{
    return a->off < b->off || (a->off == b->off && a->seq < b->seq);
}

static struct tracked *tree_merge(struct tracked *a, struct tracked *b)
{
    if (!a || !b) {
        return a ? a : b;
    }
    if (a->prio >= b->prio) {
        a->right = tree_merge(a->right, b);
        tree_update(a);
        return a;
    }
    b->left = tree_merge(a, b->left);
    tree_update(b);
    return b;
}

/* Split @t into those before @key and the rest. */
static void tree_split(struct tracked *t, const struct tracked *key,
                       struct tracked **lo, struct tracked **hi)
{
    if (!t) {
        *lo = *hi = NULL;
    } else if (tree_less(t, key)) {
        tree_split(t->right, key, &t->right, hi);
        tree_update(t);
        *lo = t;
    } else {
        tree_split(t->left, key, lo, &t->left);
        tree_update(t);
        *hi = t;
    }
}

static void tree_insert(struct tracked **root, struct tracked *t)
{
    struct tracked *lo, *hi;

    t->left = t->right = NULL;
    tree_update(t);
    tree_split(*root, t, &lo, &hi);
    *root = tree_merge(tree_merge(lo, t), hi);
}

static struct tracked *tree_remove(struct tracked *root, struct tracked *t)
{
    g_assert(root);
    if (root == t) {
        return tree_merge(t->left, t->right);
    }
    if (tree_less(t, root)) {
        root->left = tree_remove(root->left, t);
    } else {
        root->right = tree_remove(root->right, t);
    }
    tree_update(root);
    return root;
}

/* Any request that overlaps @t and came before it. */
static struct tracked *tree_conflict(struct tracked *root,
                                     const struct tracked *t)
{
    struct tracked *found;

    if (!root || root->max_end <= t->off) {
        return NULL;
    }
    found = tree_conflict(root->left, t);
    if (found) {
        return found;
    }
    if (root->off >= tracked_end(t)) {
        return NULL;
    }
    if (root->seq < t->seq && tracked_end(root) > t->off) {
        return root;
    }
    return tree_conflict(root->right, t);
}

static struct tracked *track_conflict(struct track_set *set,
                                      const struct tracked *t)
{
    struct tracked *found = tree_conflict(set->allocs, t);

    if (!found && t->kind == TRACK_ALLOC) {
        found = tree_conflict(set->writes, t);
    }
    return found;
}

/* xorshift: the shape of the treap only needs to be even. */
static uint32_t track_random(struct track_set *set)
{
    uint32_t x = set->rand ? set->rand : 0x9e3779b9u;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    set->rand = x;
    return x;
}

void track_co_begin(struct tracked *t, struct node *n, uint64_t off,
                    uint64_t len, enum track_kind kind)
{
    struct track_set *set = &n->priv->track;
    struct tracked *other;

    *t = (struct tracked) {
        .node = n,
        .off = off,
        .len = len,
        .kind = kind,
    };
    if (kind == TRACK_READ) {
        set->reads++;
        return;
    }
    g_assert(len > 0 && off + len > off);
    t->seq = set->next_seq++;
    t->prio = track_random(set);
    tree_insert(kind == TRACK_WRITE ? &set->writes : &set->allocs, t);
    while ((other = track_conflict(set, t)) != NULL) {
        trace_track_wait(n->name, off, len, (int)kind, other->off, other->len);
        co_queue_co_wait(&other->waiters);
    }
}

void track_end(struct tracked *t)
{
    struct track_set *set = &t->node->priv->track;
    struct tracked **root;

    if (t->kind == TRACK_READ) {
        g_assert(set->reads > 0);
        set->reads--;
        return;
    }
    root = t->kind == TRACK_WRITE ? &set->writes : &set->allocs;
    *root = tree_remove(*root, t);
    co_queue_wake_all(&t->waiters);
}
