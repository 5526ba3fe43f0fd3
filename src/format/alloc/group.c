/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit groups: see format/alloc/group.h and doc/commit-groups.rst.
 *
 * Joins go to generation `open`.  A pass closes it (open++) and publishes every
 * generation below; passes never overlap, so data writes in flight belong to
 * `open` or `open - 1` and two counters suffice.
 *
 * Invariants
 *   - No pointer is handed to co_publish() before a successful flush of the
 *     file that began after the pointer's data was written (M2).
 *   - group_co_flush() returns 0 only after a pass that began after the call.
 *     A pass under way does not count: the caller's writes may have completed
 *     after its first flush.
 *   - After a flush of the file failed nothing succeeds any more (G6): the
 *     kernel may have dropped the very pages that were to be kept.  A write of
 *     metadata that failed is another matter: its pointers are still here, and
 *     the next pass writes the same again.
 *
 * A generation
 *   open         group_join() enters it, group_data_done() counts down; it is
 *                the only one that can be joined
 *     -> closed      group_co_commit_all(), at the begin of a pass
 *   closed       no more joins; its last data writes end
 *     -> durable     generations_co_publish(): nothing is in flight, and the
 *                    flush behind that has succeeded
 *   durable      its data is on the disk, its pointers are in memory
 *     -> published   the same, after co_publish() and a second flush; an error
 *                    of co_publish() leaves it closed for the next pass
 *   published    the driver forgets what waited for it
 *
 * The group
 *   idle <-> busy    busy while there is a pass, group_co_commit_all(), or while
 *                    somebody holds it by group_co_lock()
 *   any -> broken    group_error(): a flush has failed, and all that comes fails
 */
#include "format/alloc/group.h"
#include <errno.h>
#include <glib.h>
#include "base/barrier.h"
#include "graph/driver.h"
#include "graph/debug.h"
#include "graph/io.h"
#include "loop/co.h"
#include "loop/loop.h"

#define GROUP_MAX_BYTES (UINT64_C(64) << 20)
#define GROUP_MAX_AGE_NS UINT64_C(1000000000)

struct group {
    /* set at creation */
    struct loop *loop;
    struct node *node; /* keeps the error of a flush */
    struct node *file; /* NULL: the "file" of @node */
    const struct group_ops *ops;
    void *arg;
    uint64_t max_bytes, max_age_ns;

    /* generations */
    uint64_t open;        /* joins go here; first is 1 */
    uint64_t bytes;       /* joined `open` */
    bool joined;          /* anything in `open`? */
    bool unpublished;     /* anything below `open`? */
    unsigned writing[2];  /* data writes in flight, by generation & 1 */
    struct co_queue data; /* waits for writing[] of the closed one */

    /* passes */
    bool busy; /* one runs, or group_co_lock() */
    uint64_t started, done;
    int result;              /* of the last one done */
    struct co_queue commits; /* waits for !busy */

    /* background */
    struct loop_timer timer;
    unsigned quiesced;
    bool kicked, kick_again;
    struct co_latch background;
};

static void timer_expired(void *arg)
{
    if (!BARRIER_OFF(GROUP_AGE)) {
        group_kick(arg);
    }
}

static void timer_arm(struct group *g)
{
    if (!g->quiesced && !group_error(g)) {
        loop_timer_arm(&g->timer, loop_clock_ns(g->loop) + g->max_age_ns);
    }
}

struct group *group_new(struct loop *l, struct node *node, struct node *file,
                        const struct group_ops *ops, void *arg,
                        uint64_t max_bytes, uint64_t max_age_ns)
{
    struct group *g = g_new0(struct group, 1);

    g->loop = l;
    g->node = node;
    g->file = file;
    g->ops = ops;
    g->arg = arg;
    g->max_bytes = max_bytes ? max_bytes : GROUP_MAX_BYTES;
    g->max_age_ns = max_age_ns ? max_age_ns : GROUP_MAX_AGE_NS;
    g->open = 1;
    loop_timer_init(&g->timer, l, timer_expired, g);
    return g;
}

void group_co_free(struct group *g)
{
    if (!g) {
        return;
    }
    group_co_quiesce(g);
    g_assert(!g->writing[0] && !g->writing[1]);
    g_assert(co_queue_empty(&g->commits) && co_queue_empty(&g->data));
    g_free(g);
}

uint64_t group_join(struct group *g, uint64_t bytes)
{
    uint64_t gen = g->open;

    if (!g->joined) {
        g->joined = true;
        timer_arm(g);
    }
    g->writing[gen & 1]++;
    g->bytes += bytes;
    if (g->bytes >= g->max_bytes) {
        group_kick(g);
    }
    return gen;
}

void group_data_done(struct group *g, uint64_t gen)
{
    g_assert(gen == g->open || gen + 1 == g->open);
    g_assert(g->writing[gen & 1] > 0);
    if (--g->writing[gen & 1] == 0 && gen != g->open) {
        co_queue_wake_all(&g->data);
    }
}

bool group_pending(const struct group *g)
{
    return g->joined || g->unpublished;
}

int group_error(const struct group *g)
{
    return node_failure(g->node);
}

static struct node *group_file(const struct group *g)
{
    return g->file ? g->file : node_file(g->node);
}

int group_co_sync(struct group *g)
{
    return node_co_sync(g->node, group_file(g));
}

/* The flush that whoever asked for one means. */
static CO_FN int file_co_flush_last(struct group *g)
{
    node_co_debug_event(group_file(g), DEBUG_FLUSH_TO_DISK);
    return group_co_sync(g);
}

/* Steps 2 to 5 for all generations up to @gen. */
static CO_FN int generations_co_publish(struct group *g, uint64_t gen)
{
    int ret;

    while (g->writing[gen & 1] && !BARRIER_OFF(GROUP_WAIT)) {
        co_queue_co_wait(&g->data);
    }
    ret = g->ops->co_before(g->arg, gen);
    if (ret < 0) {
        return ret;
    }
    ret = BARRIER(GROUP_DATA, group_co_sync(g));
    if (ret < 0) {
        return ret;
    }
    ret = g->ops->co_publish(g->arg, gen);
    if (ret < 0) {
        return ret;
    }
    ret = BARRIER(GROUP_POINTERS, file_co_flush_last(g));
    if (ret == 0) {
        g->unpublished = false;
    }
    return ret;
}

static CO_FN void group_co_commit_all(struct group *g)
{
    uint64_t gen;

    g->busy = true;
    g->started++;
    if (g->joined) {
        g->open++;
        g->joined = false;
        g->unpublished = true;
        g->bytes = 0;
        loop_timer_cancel(&g->timer);
    }
    gen = g->open - 1;
    g->result = g->unpublished ? generations_co_publish(g, gen)
                               : file_co_flush_last(g);
    g->done = g->started;
    if (g->result == 0 && g->ops->published) {
        g->ops->published(g->arg, gen);
    } else if (g->result < 0 && !g->joined) {
        timer_arm(g); /* try again */
    }
    group_unlock(g);
}

int group_co_flush(struct group *g)
{
    uint64_t want = g->started + 1;

    for (;;) {
        if (group_error(g)) {
            return group_error(g);
        }
        if (g->done >= want) {
            return g->result;
        }
        if (g->busy) {
            co_queue_co_wait(&g->commits);
        } else {
            group_co_commit_all(g);
        }
    }
}

void group_co_lock(struct group *g)
{
    while (g->busy) {
        co_queue_co_wait(&g->commits);
    }
    g->busy = true;
}

void group_unlock(struct group *g)
{
    g_assert(g->busy);
    g->busy = false;
    co_queue_wake_all(&g->commits);
}

static CO_FN void kick_entry(void *arg)
{
    struct group *g = arg;

    do {
        g->kick_again = false;
        /* The error is kept for the flush that somebody asks for. */
        group_co_flush(g);
    } while (g->kick_again && g->joined && !group_error(g));
    g->kicked = false;
    co_latch_done(&g->background);
}

void group_kick(struct group *g)
{
    if (group_error(g) || g->quiesced || !group_pending(g)) {
        return;
    }
    g->kick_again = true;
    if (!g->kicked) {
        g->kicked = true;
        co_latch_add(&g->background);
        co_start(g->loop, kick_entry, g);
    }
}

void group_co_quiesce(struct group *g)
{
    g->quiesced++;
    loop_timer_cancel(&g->timer);
    co_latch_co_wait(&g->background);
    while (g->busy) {
        co_queue_co_wait(&g->commits);
    }
}

void group_resume(struct group *g)
{
    g_assert(g->quiesced > 0);
    if (--g->quiesced == 0 && group_pending(g)) {
        timer_arm(g);
    }
}
