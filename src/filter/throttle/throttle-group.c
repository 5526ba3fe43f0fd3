/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Throttle groups: who may pass, and when.
 *
 * Requests that must wait stand in the queue of their member and direction.
 * Whenever the levels may have fallen (timer, new limits) the group lets pass
 * as many as the buckets allow, one member after the other, reads and writes
 * in turn.  Whoever comes while anybody waits joins a queue first, so nobody is
 * overtaken.  One timer a group, armed for the earlier of the two directions
 * while anything waits.
 *
 * All members of a group are on one loop at a time, that of the first who joined.
 * Its limits are set from any, so what they and the levels are is under a lock;
 * the rest is touched on that loop alone.
 */
#include <glib.h>
#include <pthread.h>
#include "base/err.h"
#include "base/options.h"
#include "filter/throttle/throttle-bucket.h"
#include "filter/throttle/throttle-int.h"
#include "filter/throttle/throttle.h"
#include "graph/node.h"
#include "graph/registry.h"
#include "loop/co.h"
#include "loop/loop.h"

/* A request that waits; on its coroutine's stack. */
struct throttle_wait {
    struct co *co;
    uint64_t bytes;
    bool admitted;
    struct throttle_wait *next;
};

struct throttle_group {
    gatomicrefcount refs;
    char *id;
    pthread_mutex_t lock; /* of what follows, up to members */
    struct loop *loop;    /* of the members; NULL: there are none */
    struct throttle_limits limits;
    struct throttle_levels levels;
    bool deleted;        /* nobody joins any more */
    GPtrArray *members;  /* borrowed */
    unsigned turn[2];    /* index of the member that is next */
    unsigned waiting[2]; /* requests that wait */
    unsigned first;      /* the direction that is next */
    struct loop_timer timer;
};

/* --- scheduling --- */

static void member_push(struct throttle_member *m, bool is_write,
                        struct throttle_wait *w)
{
    if (m->tail[is_write]) {
        m->tail[is_write]->next = w;
    } else {
        m->head[is_write] = w;
    }
    m->tail[is_write] = w;
    m->group->waiting[is_write]++;
}

/* Count the first request of a queue and send it on its way. */
static void member_admit_first(struct throttle_member *m, bool is_write)
{
    struct throttle_group *g = m->group;
    struct throttle_wait *w = m->head[is_write];

    m->head[is_write] = w->next;
    if (!w->next) {
        m->tail[is_write] = NULL;
    }
    g->waiting[is_write]--;
    throttle_levels_pour(&g->levels, &g->limits, is_write, w->bytes);
    w->admitted = true;
    co_wake(w->co);
}

/* The member whose turn it is among those that have something waiting. */
static struct throttle_member *group_next_member(struct throttle_group *g,
                                                 bool is_write)
{
    unsigned n = g->members->len;

    for (unsigned i = 0; i < n; i++) {
        unsigned idx = (g->turn[is_write] + i) % n;
        struct throttle_member *m = g_ptr_array_index(g->members, idx);

        if (m->head[is_write]) {
            g->turn[is_write] = (idx + 1) % n;
            return m;
        }
    }
    g_assert_not_reached();
}

/* Let one request of @is_write pass if the buckets allow; else lower
 * *@wait_ns to when they will. */
static bool group_admit_one(struct throttle_group *g, bool is_write,
                            uint64_t *wait_ns)
{
    uint64_t wait;

    if (!g->waiting[is_write]) {
        return false;
    }
    wait = throttle_levels_wait(&g->levels, &g->limits, is_write);
    if (wait > 0) {
        *wait_ns = MIN(*wait_ns, wait);
        return false;
    }
    member_admit_first(group_next_member(g, is_write), is_write);
    return true;
}

/* The lock is held. */
static void group_schedule_locked(struct throttle_group *g)
{
    uint64_t now = loop_clock_ns(g->loop);
    uint64_t wait_ns;
    bool admitted;

    throttle_levels_leak(&g->levels, &g->limits, now);
    do {
        wait_ns = UINT64_MAX;
        admitted = group_admit_one(g, g->first, &wait_ns);
        if (admitted) {
            g->first = !g->first;
        } else {
            admitted = group_admit_one(g, !g->first, &wait_ns);
        }
    } while (admitted);
    if (wait_ns == UINT64_MAX) {
        loop_timer_cancel(&g->timer);
    } else {
        loop_timer_arm(&g->timer, now + wait_ns);
    }
}

static void group_schedule(struct throttle_group *g)
{
    pthread_mutex_lock(&g->lock);
    group_schedule_locked(g);
    pthread_mutex_unlock(&g->lock);
}

static void group_timer(void *arg)
{
    group_schedule(arg);
}

/* May a request pass at once? Then it is counted. */
static bool member_pass(struct throttle_member *m, bool is_write,
                        uint64_t bytes)
{
    struct throttle_group *g = m->group;
    bool passes = false;

    if (m->draining || g->waiting[0] + g->waiting[1] == 0) {
        pthread_mutex_lock(&g->lock);
        throttle_levels_leak(&g->levels, &g->limits, loop_clock_ns(g->loop));
        passes = m->draining ||
                 throttle_levels_wait(&g->levels, &g->limits, is_write) == 0;
        if (passes) {
            throttle_levels_pour(&g->levels, &g->limits, is_write, bytes);
        }
        pthread_mutex_unlock(&g->lock);
    }
    return passes;
}

void throttle_member_co_wait(struct throttle_member *m, bool is_write,
                             uint64_t bytes)
{
    struct throttle_wait w = { .co = co_self(), .bytes = bytes };

    if (member_pass(m, is_write, bytes)) {
        return;
    }
    member_push(m, is_write, &w);
    group_schedule(m->group);
    while (!w.admitted) {
        co_yield ();
    }
}

void throttle_member_drain_begin(struct throttle_member *m)
{
    m->draining++;
    if (!m->group) {
        return;
    }
    pthread_mutex_lock(&m->group->lock);
    for (unsigned dir = 0; dir < 2; dir++) {
        while (m->head[dir]) {
            member_admit_first(m, dir);
        }
    }
    group_schedule_locked(m->group);
    pthread_mutex_unlock(&m->group->lock);
}

void throttle_member_drain_end(struct throttle_member *m)
{
    g_assert(m->draining > 0);
    m->draining--;
}

/* --- registry --- */

static void *group_ref(void *p)
{
    struct throttle_group *g = p;

    g_atomic_ref_count_inc(&g->refs);
    return g;
}

static void group_unref(void *p)
{
    struct throttle_group *g = p;

    if (g_atomic_ref_count_dec(&g->refs)) {
        g_assert(g->members->len == 0);
        g_ptr_array_unref(g->members);
        pthread_mutex_destroy(&g->lock);
        g_free(g->id);
        g_free(g);
    }
}

static const struct registry_kind group_kind = { "throttle group", group_ref,
                                                 group_unref };

/* Take the limits that @obj holds; nothing else may be there. */
static int limits_parse(struct throttle_limits *l, const json_t *obj,
                        GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(obj);
    int r = throttle_limits_take(l, o, "", err);

    return r < 0 ? r : opts_finish(o, err);
}

static int props_parse(struct throttle_limits *l, const json_t *props,
                       GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(props);
    json_t *limits;
    int r;

    r = throttle_limits_take(l, o, "x-", err);
    if (r < 0) {
        return r;
    }
    limits = opts_take_any(o, "limits");
    if (limits && !json_is_object(limits)) {
        r = err_set(err, EINVAL,
                    "Invalid parameter type for 'limits', "
                    "expected: object");
    } else if (limits) {
        r = limits_parse(l, limits, err);
    }
    json_decref(limits);
    if (r == 0) {
        r = opts_finish(o, err);
    }
    return r < 0 ? r : throttle_limits_check(l, err);
}

int throttle_group_add(struct graph *g, const char *id, const json_t *props,
                       GError **err)
{
    struct throttle_limits limits;
    struct throttle_group *group;
    int r;

    if (registry_has(g, &group_kind, id)) {
        return err_set(err, EEXIST,
                       "attempt to add duplicate property '%s' to "
                       "object (type 'container')",
                       id);
    }
    throttle_limits_init(&limits);
    r = props_parse(&limits, props, err);
    if (r < 0) {
        return r;
    }
    group = g_new0(struct throttle_group, 1);
    g_atomic_ref_count_init(&group->refs);
    pthread_mutex_init(&group->lock, NULL);
    group->id = g_strdup(id);
    group->limits = limits;
    group->levels.at_ns = loop_clock_ns(graph_loop(g));
    group->members = g_ptr_array_new();
    return registry_add(g, &group_kind, id, group, err);
}

static int not_found(const char *id, GError **err)
{
    return err_set(err, ENOENT, "object '%s' not found", id);
}

int throttle_group_del(struct graph *g, const char *id, GError **err)
{
    struct throttle_group *group = registry_get(g, &group_kind, id);
    bool used;
    int r;

    if (!group) {
        return not_found(id, err);
    }
    pthread_mutex_lock(&group->lock);
    used = group->members->len > 0;
    group->deleted = group->deleted || !used;
    pthread_mutex_unlock(&group->lock);
    r = used ? err_set(err, EBUSY, "object '%s' is in use, can not be deleted",
                       id)
             : registry_remove(g, &group_kind, id, err);
    group_unref(group);
    return r;
}

bool throttle_group_exists(struct graph *g, const char *id)
{
    return registry_has(g, &group_kind, id);
}

json_t *throttle_group_get(struct graph *g, const char *id)
{
    struct throttle_group *group = registry_get(g, &group_kind, id);
    struct throttle_limits limits;

    if (!group) {
        return NULL;
    }
    pthread_mutex_lock(&group->lock);
    limits = group->limits;
    pthread_mutex_unlock(&group->lock);
    group_unref(group);
    return throttle_limits_json(&limits);
}

/* New limits have been set from another loop. */
static void limits_arrived(void *arg)
{
    struct throttle_group *group = arg;

    /* It may have moved on since. */
    pthread_mutex_lock(&group->lock);
    if (group->loop == loop_current()) {
        group_schedule_locked(group);
    }
    pthread_mutex_unlock(&group->lock);
    group_unref(group);
}

/* The lock is held. */
static void group_set_limits(struct throttle_group *group, struct loop *here,
                             const struct throttle_limits *limits)
{
    group->limits = *limits;
    /* New limits begin with empty buckets: no debts of the old ones. */
    group->levels = (struct throttle_levels) { .at_ns = loop_clock_ns(here) };
    if (group->loop == here) {
        group_schedule_locked(group);
    } else if (group->loop) {
        loop_post(group->loop, limits_arrived, group_ref(group));
    }
}

int throttle_group_set(struct graph *g, const char *id, const json_t *limits,
                       GError **err)
{
    struct throttle_group *group = registry_get(g, &group_kind, id);
    struct throttle_limits l;
    int r;

    if (!group) {
        return not_found(id, err);
    }
    pthread_mutex_lock(&group->lock);
    l = group->limits;
    r = limits_parse(&l, limits, err);
    if (r == 0) {
        r = throttle_limits_check(&l, err);
    }
    if (r == 0) {
        group_set_limits(group, graph_loop(g), &l);
    }
    pthread_mutex_unlock(&group->lock);
    group_unref(group);
    return r;
}

/* --- members --- */

void throttle_member_leave(struct throttle_member *m)
{
    struct throttle_group *g = m->group;

    if (!g) {
        return;
    }
    g_assert(!m->head[0] && !m->head[1]);
    pthread_mutex_lock(&g->lock);
    g_ptr_array_remove(g->members, m);
    if (g->members->len == 0) {
        loop_timer_cancel(&g->timer);
        g->loop = NULL;
    }
    pthread_mutex_unlock(&g->lock);
    m->group = NULL;
    group_unref(g);
}

/* The lock is held. */
static int group_take_member(struct throttle_group *g, struct loop *loop,
                             struct throttle_member *m, GError **err)
{
    if (g->deleted) {
        return err_set(err, ENOENT, "Throttle group '%s' does not exist",
                       g->id);
    }
    if (g->loop && g->loop != loop) {
        err_set(err, EBUSY, "Throttle group '%s' is in use in another iothread",
                g->id);
        err_hint(err, "All nodes of a group are in one iothread.");
        return -EBUSY;
    }
    if (!g->loop) {
        g->loop = loop;
        loop_timer_init(&g->timer, loop, group_timer, g);
    }
    g_ptr_array_add(g->members, m);
    return 0;
}

int throttle_member_join(struct throttle_member *m, struct graph *g,
                         const char *id, GError **err)
{
    struct throttle_group *group = registry_get(g, &group_kind, id);
    int r;

    if (!group) {
        return err_set(err, ENOENT, "Throttle group '%s' does not exist", id);
    }
    if (group == m->group) {
        group_unref(group);
        return 0;
    }
    pthread_mutex_lock(&group->lock);
    r = group_take_member(group, graph_loop(g), m, err);
    pthread_mutex_unlock(&group->lock);
    if (r < 0) {
        group_unref(group);
        return r;
    }
    throttle_member_leave(m);
    m->group = group;
    return 0;
}
