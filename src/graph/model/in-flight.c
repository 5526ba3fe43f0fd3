/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of in-flight reads of one overlay.
 *
 * Listed reads are disjoint, so a tree ordered by offset finds the one that
 * holds an offset with one look.  The table lives while anything is in flight
 * or waits for room; a node at rest has none.
 */
#include <glib.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/model/in-flight.h"
#include "graph/node.h"
#include "loop/io.h"
#include "loop/loop.h"

struct inflight_table {
    GTree *tree;      /* &read->off -> read, the listed ones */
    uint64_t bytes;   /* of all in-flight reads, private ones included */
    unsigned count;   /* of all in-flight reads */
    unsigned waiters; /* for room, or for all to end */
    struct co_queue room;
};

static int inflight_compare_offsets(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static struct inflight_table *inflight_table_get(struct node *n)
{
    if (!n->inflight_reads) {
        n->inflight_reads = g_new0(struct inflight_table, 1);
        n->inflight_reads->tree = g_tree_new(inflight_compare_offsets);
    }
    return n->inflight_reads;
}

static void table_release(struct node *n)
{
    struct inflight_table *t = n->inflight_reads;

    if (t->count == 0 && t->waiters == 0) {
        g_tree_unref(t->tree);
        g_free(t);
        n->inflight_reads = NULL;
    }
}

/* The first listed read that begins after @off, and the one before it. */
static void table_look(const struct inflight_table *t, uint64_t off,
                       struct inflight **ret_at, struct inflight **ret_next)
{
    GTreeNode *next = g_tree_upper_bound(t->tree, &off);
    GTreeNode *prev = next ? g_tree_node_previous(next)
                           : g_tree_node_last(t->tree);
    struct inflight *f = prev ? g_tree_node_value(prev) : NULL;

    *ret_at = f && off - f->off < f->len ? f : NULL;
    *ret_next = next ? g_tree_node_value(next) : NULL;
}

struct inflight *inflight_find(struct node *n, uint64_t off)
{
    struct inflight *at, *next;

    if (!n->inflight_reads) {
        return NULL;
    }
    table_look(n->inflight_reads, off, &at, &next);
    return at;
}

uint64_t inflight_next(struct node *n, uint64_t off)
{
    struct inflight *at, *next;

    if (!n->inflight_reads) {
        return UINT64_MAX;
    }
    table_look(n->inflight_reads, off, &at, &next);
    if (at && at->off == off) {
        return off;
    }
    return next ? next->off : UINT64_MAX;
}

struct inflight *inflight_begin(struct node *n, uint64_t off, uint64_t len)
{
    struct inflight_table *t;
    struct inflight *f;
    void *buf;

    g_assert(len > 0);
    buf = io_buf_get(len);
    if (!buf) {
        return NULL;
    }
    f = g_new0(struct inflight, 1);
    f->node = n;
    f->off = off;
    f->len = len;
    f->buf = buf;
    f->refs = 1;
    f->listed = !inflight_find(n, off) && inflight_next(n, off) >= off + len;
    t = inflight_table_get(n);
    t->bytes += len;
    t->count++;
    if (f->listed) {
        g_tree_insert(t->tree, &f->off, f);
    }
    return f;
}

void inflight_set_ready(struct inflight *f, int result)
{
    g_assert(!f->ready);
    f->result = result;
    f->ready = true;
    if (result < 0 && f->listed) {
        /* A request that comes now makes an attempt of its own. */
        g_tree_remove(f->node->inflight_reads->tree, &f->off);
        f->listed = false;
    }
    co_queue_wake_all(&f->ready_waiters);
}

void inflight_end(struct inflight *f)
{
    struct inflight_table *t = f->node->inflight_reads;

    g_assert(f->ready && !f->ended);
    f->ended = true;
    if (f->listed) {
        g_tree_remove(t->tree, &f->off);
        f->listed = false;
    }
    t->bytes -= f->len;
    t->count--;
    co_queue_wake_all(&t->room);
    co_queue_wake_all(&f->end_waiters);
    table_release(f->node);
    f->node = NULL;
    inflight_unref(f);
}

struct inflight *inflight_ref(struct inflight *f)
{
    f->refs++;
    return f;
}

void inflight_unref(struct inflight *f)
{
    if (--f->refs == 0) {
        g_assert(f->ended);
        io_buf_put(f->buf, f->len);
        g_free(f);
    }
}

int inflight_co_wait_ready(struct inflight *f)
{
    while (!f->ready) {
        co_queue_co_wait(&f->ready_waiters);
    }
    return f->result;
}

void inflight_co_wait_end(struct inflight *f)
{
    while (!f->ended) {
        co_queue_co_wait(&f->end_waiters);
    }
}

bool inflight_has_room(const struct node *n, uint64_t len)
{
    const struct inflight_table *t = n->inflight_reads;

    return !t || t->count == 0 || t->bytes + len <= INFLIGHT_BUDGET;
}

void inflight_co_wait_room(struct node *n, uint64_t len)
{
    struct inflight_table *t;

    if (inflight_has_room(n, len)) {
        return;
    }
    t = inflight_table_get(n);
    t->waiters++;
    while (!inflight_has_room(n, len)) {
        co_queue_co_wait(&t->room);
    }
    t->waiters--;
    table_release(n);
}

void inflight_co_wait_idle(struct node *n)
{
    struct inflight_table *t = n->inflight_reads;

    if (!t) {
        return;
    }
    t->waiters++;
    while (t->count > 0) {
        uint64_t until = loop_clock_ns(graph_loop(n->graph)) + LET_GO_NS;

        if (!co_queue_co_wait_until(&t->room, until) && t->count > 0) {
            node_let_go(n);
        }
    }
    t->waiters--;
    table_release(n);
}

bool inflight_any(const struct node *n)
{
    return n->inflight_reads && n->inflight_reads->count > 0;
}
