/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See graph/model/early.h. It makes no requests itself: graph/io/early.c. */
#include "graph/model/early.h"
#include <string.h>
#include "graph/graph-int.h"
#include "graph/memory.h"
#include "graph/model/model.h"
#include "graph/trace.h"
#include "loop/io.h"
#include "loop/loop.h"

/* How long an image that closes waits for the next completion. */
#define CLOSE_PATIENCE_NS UINT64_C(10000000000)
/* After a failure another attempt is made that much later. */
#define RETRY_NS UINT64_C(1000000000)

struct early_table {
    struct node *node;
    GTree *tree; /* &early->start -> early; each has a reference */
    void (*complete)(void *arg);
    uint64_t version;
    unsigned completing; /* coroutines */
    unsigned failed;
    bool closing;
    struct memory_member memory;
    struct co_queue ended; /* a completion has */
    struct loop_timer retry;
};

static int early_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void early_all(const struct early_table *t, GPtrArray *all)
{
    for (GTreeNode *i = g_tree_node_first(t->tree); i;
         i = g_tree_node_next(i)) {
        g_ptr_array_add(all, early_ref(g_tree_node_value(i)));
    }
}

static GPtrArray *early_all_of(const struct early_table *t)
{
    GPtrArray *all = g_ptr_array_new();

    early_all(t, all);
    return all;
}

static void early_all_unref(GPtrArray *all)
{
    for (unsigned i = 0; i < all->len; i++) {
        early_unref(g_ptr_array_index(all, i));
    }
    g_ptr_array_free(all, TRUE);
}

static void retry_timer_arm(struct early_table *t)
{
    struct loop *l = graph_loop(t->node->graph);

    if (t->failed > 0 && !t->closing) {
        loop_timer_arm(&t->retry, loop_clock_ns(l) + RETRY_NS);
    }
}

static void retry_timer_expired(void *arg);

static struct early_table *early_table_get(struct node *n,
                                           void (*complete)(void *arg))
{
    struct early_table *t = n->priv->early;

    if (!t) {
        t = g_new0(struct early_table, 1);
        t->node = n;
        t->tree = g_tree_new(early_compare);
        t->complete = complete;
        t->memory.kind = MEMORY_EARLY;
        loop_timer_init(&t->retry, graph_loop(n->graph), retry_timer_expired,
                        t);
        n->priv->early = t;
    }
    return t;
}

/* --- what there is --- */

struct early *early_find(const struct node *n, uint64_t off)
{
    const struct early_table *t = n->priv->early;
    GTreeNode *next, *at;
    struct early *e;

    if (!t) {
        return NULL;
    }
    next = g_tree_upper_bound(t->tree, &off);
    at = next ? g_tree_node_previous(next) : g_tree_node_last(t->tree);
    e = at ? g_tree_node_value(at) : NULL;
    return e && off < e->end ? e : NULL;
}

uint64_t early_next(const struct node *n, uint64_t off)
{
    const struct early_table *t = n->priv->early;
    GTreeNode *next = t ? g_tree_lower_bound(t->tree, &off) : NULL;

    return next ? ((struct early *)g_tree_node_value(next))->start : UINT64_MAX;
}

uint64_t early_version(const struct node *n)
{
    return n->priv->early ? n->priv->early->version : 0;
}

bool early_any_failed(const struct node *n)
{
    return n->priv->early && n->priv->early->failed > 0;
}

bool early_has(const struct early *e, unsigned sector)
{
    return e->written[sector / 8] & (1u << sector % 8);
}

void early_set(struct early *e, unsigned sector)
{
    if (!early_has(e, sector)) {
        e->written[sector / 8] |= (uint8_t)(1u << sector % 8);
        e->missing--;
    }
}

/* --- coming and going --- */

struct early *early_ref(struct early *e)
{
    e->refs++;
    return e;
}

/* The cluster, and what its completion reads of the base. */
static uint64_t memory_of(uint64_t cluster)
{
    return 2 * cluster;
}

static void memory_release(struct early_table *t, uint64_t len)
{
    memory_give(&t->memory, len);
    if (t->memory.used == 0) {
        memory_leave(&t->memory);
    }
}

/* Who holds nothing gets no more than its share either: the write can wait for
 * the base instead (E5). */
static bool memory_try_take(struct early_table *t, uint64_t len)
{
    bool fits;

    memory_join(graph_memory(t->node->graph), &t->memory);
    fits = len <= memory_share(&t->memory) && memory_has_room(&t->memory, len);
    if (fits) {
        memory_take(&t->memory, len);
    } else {
        memory_release(t, 0);
    }
    return fits;
}

void early_unref(struct early *e)
{
    if (--e->refs == 0) {
        g_assert(e->state == EARLY_GONE && !e->on_the_way);
        memory_release(e->node->priv->early, memory_of(e->end - e->start));
        io_buf_put(e->buf, e->end - e->start);
        g_free(e->written);
        g_free(e);
    }
}

static void early_begin(struct early_table *t, struct early *e)
{
    e->state = EARLY_COMPLETING;
    e->error = 0;
    e->on_the_way = true;
    t->completing++;
    co_start(graph_loop(t->node->graph), t->complete, early_ref(e));
}

struct early *early_open(struct node *n, uint64_t start, uint64_t end,
                         void (*complete)(void *arg))
{
    struct early_table *t = early_table_get(n, complete);
    struct early *e;
    uint8_t *buf;

    g_assert(!t->closing && !early_find(n, start) &&
             early_next(n, start) >= end);
    if (!memory_try_take(t, memory_of(end - start))) {
        return NULL;
    }
    buf = io_buf_get(end - start);
    if (!buf) {
        memory_release(t, memory_of(end - start));
        return NULL;
    }
    e = g_new0(struct early, 1);
    e->node = n;
    e->start = start;
    e->end = end;
    e->buf = buf;
    e->sectors = (unsigned)((end - start + EARLY_SECTOR - 1) / EARLY_SECTOR);
    e->missing = e->sectors;
    e->written = g_malloc0((e->sectors + 7) / 8);
    e->refs = 1;
    g_tree_insert(t->tree, &e->start, e);
    t->version++;
    early_begin(t, e);
    trace_early_open(n->name, start, end - start);
    return e;
}

void early_drop(struct early *e)
{
    struct early_table *t = e->node->priv->early;

    if (e->state == EARLY_GONE) {
        return;
    }
    t->failed -= e->state == EARLY_FAILED;
    e->state = EARLY_GONE;
    g_tree_remove(t->tree, &e->start);
    t->version++;
    co_queue_wake_all(&e->changed);
    early_unref(e);
}

void early_completed(struct early *e, int ret)
{
    struct early_table *t = e->node->priv->early;

    trace_early_completed(e->node->name, e->start, ret);
    e->on_the_way = false;
    if (e->state == EARLY_COMPLETING) {
        g_assert(ret < 0);
        e->state = EARLY_FAILED;
        e->error = ret;
        t->failed++;
        retry_timer_arm(t);
    }
    co_queue_wake_all(&e->changed);
    t->completing--;
    co_queue_wake_all(&t->ended);
    early_unref(e);
}

static void early_begin_again(struct early_table *t, struct early *e)
{
    g_assert(e->state == EARLY_FAILED);
    t->failed--;
    early_begin(t, e);
}

bool early_retry(struct early *e)
{
    if (node_is_held_off(e->node)) {
        return false;
    }
    early_begin_again(e->node->priv->early, e);
    return true;
}

static void early_begin_failed(struct early_table *t)
{
    GPtrArray *all;

    if (t->failed == 0) {
        return;
    }
    all = early_all_of(t);
    for (unsigned i = 0; i < all->len; i++) {
        struct early *e = g_ptr_array_index(all, i);

        if (e->state == EARLY_FAILED) {
            early_begin_again(t, e);
        }
    }
    early_all_unref(all);
}

void early_retry_failed(struct node *n)
{
    if (n->priv->early && !node_is_held_off(n)) {
        early_begin_failed(n->priv->early);
    }
}

static void retry_timer_expired(void *arg)
{
    struct early_table *t = arg;

    early_retry_failed(t->node);
    retry_timer_arm(t);
}

/* --- waiting --- */

int early_co_wait(struct early *e)
{
    while (e->state == EARLY_COMPLETING) {
        co_queue_co_wait(&e->changed);
    }
    return e->state == EARLY_FAILED ? e->error : 0;
}

int early_co_settle_all(struct node *n)
{
    GPtrArray *all;
    int ret = 0;

    if (!n->priv->early) {
        return 0;
    }
    early_retry_failed(n);
    all = early_all_of(n->priv->early);
    for (unsigned i = 0; i < all->len; i++) {
        int r = early_co_wait(g_ptr_array_index(all, i));

        ret = ret < 0 ? ret : r;
    }
    early_all_unref(all);
    return ret;
}

int early_co_settle(struct node *n, uint64_t off)
{
    struct early *e = early_find(n, off);
    int ret;

    if (!e) {
        return 0;
    }
    early_ref(e);
    if (e->state == EARLY_FAILED) {
        (void)early_retry(e);
    }
    ret = early_co_wait(e);
    early_unref(e);
    return ret;
}

void early_co_wait_idle(struct node *n, uint64_t patience_ns)
{
    struct loop *l = graph_loop(n->graph);
    uint64_t until = loop_clock_ns(l) + patience_ns;

    while (n->priv->early && n->priv->early->completing > 0) {
        if (co_queue_co_wait_until(&n->priv->early->ended, until)) {
            until = loop_clock_ns(l) + patience_ns;
        } else {
            node_let_go(n);
            until = loop_clock_ns(l) + LET_GO_NS;
        }
    }
}

void early_co_drain(struct node *n)
{
    /* Those that were let go because another request of the drain did not end;
     * while somebody else changes the graph they have to wait. */
    if (n->priv->early && !graph_is_drained(n->graph)) {
        early_begin_failed(n->priv->early);
    }
    early_co_wait_idle(n, EARLY_DRAIN_NS);
}

void early_co_close(struct node *n)
{
    struct early_table *t = n->priv->early;
    unsigned lost = 0;
    GPtrArray *all;

    if (!t) {
        return;
    }
    early_co_wait_idle(n, CLOSE_PATIENCE_NS);
    early_retry_failed(n);
    early_co_wait_idle(n, CLOSE_PATIENCE_NS);
    t->closing = true;
    loop_timer_cancel(&t->retry);
    all = early_all_of(t);
    for (unsigned i = 0; i < all->len; i++) {
        lost++;
        early_drop(g_ptr_array_index(all, i));
    }
    early_all_unref(all);
    if (lost > 0) {
        node_notice(n,
                    "%u clusters that were written since the last flush are "
                    "lost: their backing file could not be read",
                    lost);
    }
    g_assert(t->memory.used == 0);
    g_tree_unref(t->tree);
    g_free(t);
    n->priv->early = NULL;
}
