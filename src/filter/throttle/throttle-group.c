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
 */
#include <glib.h>
#include "base/err.h"
#include "base/options.h"
#include "filter/throttle/throttle-bucket.h"
#include "filter/throttle/throttle-int.h"
#include "filter/throttle/throttle.h"
#include "graph/node.h"
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
    char *id;
    struct loop *loop;
    struct throttle_limits limits;
    struct throttle_levels levels;
    GPtrArray *members;  /* borrowed */
    unsigned turn[2];    /* index of the member that is next */
    unsigned waiting[2]; /* requests that wait */
    unsigned first;      /* the direction that is next */
    struct loop_timer timer;
};

/* graph -> (id -> group). Graphs live on several threads, hence the lock; a
 * group itself is touched on its loop only. */
static GMutex registry_lock;
static GHashTable *registry;

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

static void group_schedule(struct throttle_group *g)
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

static void group_timer(void *arg)
{
    group_schedule(arg);
}

void throttle_member_co_wait(struct throttle_member *m, bool is_write,
                             uint64_t bytes)
{
    struct throttle_group *g = m->group;
    struct throttle_wait w = { .co = co_self(), .bytes = bytes };

    if (m->draining || g->waiting[0] + g->waiting[1] == 0) {
        throttle_levels_leak(&g->levels, &g->limits, loop_clock_ns(g->loop));
        if (m->draining ||
            throttle_levels_wait(&g->levels, &g->limits, is_write) == 0) {
            throttle_levels_pour(&g->levels, &g->limits, is_write, bytes);
            return;
        }
    }
    member_push(m, is_write, &w);
    group_schedule(g);
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
    for (unsigned dir = 0; dir < 2; dir++) {
        while (m->head[dir]) {
            member_admit_first(m, dir);
        }
    }
    group_schedule(m->group);
}

void throttle_member_drain_end(struct throttle_member *m)
{
    g_assert(m->draining > 0);
    m->draining--;
}

/* --- registry --- */

static void group_free(void *p)
{
    struct throttle_group *g = p;

    loop_timer_cancel(&g->timer);
    g_ptr_array_unref(g->members);
    g_free(g->id);
    g_free(g);
}

/* The registry's lock is held. NULL: no such group. */
static struct throttle_group *registry_get(struct graph *g, const char *id)
{
    GHashTable *groups = registry ? g_hash_table_lookup(registry, g) : NULL;

    return groups ? g_hash_table_lookup(groups, id) : NULL;
}

static struct throttle_group *group_find(struct graph *g, const char *id)
{
    struct throttle_group *group;

    g_mutex_lock(&registry_lock);
    group = registry_get(g, id);
    g_mutex_unlock(&registry_lock);
    return group;
}

static void registry_put(struct graph *g, struct throttle_group *group)
{
    GHashTable *groups;

    g_mutex_lock(&registry_lock);
    if (!registry) {
        registry = g_hash_table_new_full(NULL, NULL, NULL,
                                         (GDestroyNotify)g_hash_table_unref);
    }
    groups = g_hash_table_lookup(registry, g);
    if (!groups) {
        groups = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                       group_free);
        g_hash_table_insert(registry, g, groups);
    }
    g_hash_table_insert(groups, group->id, group);
    g_mutex_unlock(&registry_lock);
}

static void registry_drop(struct graph *g, const char *id)
{
    GHashTable *groups;

    g_mutex_lock(&registry_lock);
    groups = g_hash_table_lookup(registry, g);
    g_hash_table_remove(groups, id);
    if (g_hash_table_size(groups) == 0) {
        g_hash_table_remove(registry, g);
    }
    if (g_hash_table_size(registry) == 0) {
        g_hash_table_unref(registry);
        registry = NULL;
    }
    g_mutex_unlock(&registry_lock);
}

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

    if (group_find(g, id)) {
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
    group->id = g_strdup(id);
    group->loop = graph_loop(g);
    group->limits = limits;
    group->levels.at_ns = loop_clock_ns(group->loop);
    group->members = g_ptr_array_new();
    loop_timer_init(&group->timer, group->loop, group_timer, group);
    registry_put(g, group);
    return 0;
}

int throttle_group_del(struct graph *g, const char *id, GError **err)
{
    struct throttle_group *group = group_find(g, id);

    if (!group) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    if (group->members->len > 0) {
        return err_set(err, EBUSY, "object '%s' is in use, can not be deleted",
                       id);
    }
    registry_drop(g, id);
    return 0;
}

bool throttle_group_exists(struct graph *g, const char *id)
{
    return group_find(g, id) != NULL;
}

json_t *throttle_group_get(struct graph *g, const char *id)
{
    struct throttle_group *group = group_find(g, id);

    return group ? throttle_limits_json(&group->limits) : NULL;
}

int throttle_group_set(struct graph *g, const char *id, const json_t *limits,
                       GError **err)
{
    struct throttle_group *group = group_find(g, id);
    struct throttle_limits l;
    int r;

    if (!group) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    l = group->limits;
    r = limits_parse(&l, limits, err);
    if (r == 0) {
        r = throttle_limits_check(&l, err);
    }
    if (r < 0) {
        return r;
    }
    group->limits = l;
    /* New limits begin with empty buckets: no debts of the old ones. */
    group->levels = (struct throttle_levels) {
        .at_ns = loop_clock_ns(group->loop),
    };
    group_schedule(group);
    return 0;
}

/* --- members --- */

void throttle_member_leave(struct throttle_member *m)
{
    if (!m->group) {
        return;
    }
    g_assert(!m->head[0] && !m->head[1]);
    g_ptr_array_remove(m->group->members, m);
    m->group = NULL;
}

int throttle_member_join(struct throttle_member *m, struct graph *g,
                         const char *id, GError **err)
{
    struct throttle_group *group = group_find(g, id);

    if (!group) {
        return err_set(err, ENOENT, "Throttle group '%s' does not exist", id);
    }
    throttle_member_leave(m);
    m->group = group;
    g_ptr_array_add(group->members, m);
    return 0;
}
