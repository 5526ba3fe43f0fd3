/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pieces of background work; see graph/background.h.
 *
 * A piece has two buckets.  One paces it at the least of its shares; the other
 * holds its floor, and lets a chunk go whatever the shares are.  Each chunk is
 * taken from both, so the floor adds nothing to a share that is above it.
 */
#include "graph/background.h"
#include "graph/background/control.h"
#include "loop/co.h"
#include "loop/loop.h"

#define SEC UINT64_C(1000000000)
/* Larger ones are felt by guests, who see them as a burst. */
#define PACE_BURST_NS UINT64_C(2000000)
/* What a pause to measure takes from the floor is given back. */
#define FLOOR_BURST_NS (SEC / 2)
/* Of the time that is left to a deadline, some is kept for the end. */
#define DEADLINE_SPARE 1.1
#define FOLLOW 1.02
/* Who waits for the backlog asks so often. */
#define QUEUE_ASK_NS UINT64_C(5000000)

static uint64_t background_now(const struct background *b)
{
    return loop_clock_ns(b->graph->loop);
}

struct background *background_new(struct graph *g,
                                  const struct background_limits *l)
{
    struct background *b = g_new0(struct background, 1);

    b->graph = g;
    b->limits = *l;
    b->members = g_ptr_array_new();
    b->pace.burst_ns = PACE_BURST_NS;
    b->floor.burst_ns = FLOOR_BURST_NS;
    bucket_set_rate(&b->floor, l->floor, background_now(b));
    return b;
}

static void member_free(struct member *m)
{
    struct storage_control *c = m->control;

    g_ptr_array_remove(c->members, m);
    c->limit.works--;
    storage_control_retarget(c);
    storage_control_unref(c);
    g_free(m);
}

void background_free(struct background *b)
{
    if (!b) {
        return;
    }
    for (unsigned i = 0; i < b->members->len; i++) {
        member_free(g_ptr_array_index(b->members, i));
    }
    g_ptr_array_free(b->members, TRUE);
    g_free(b);
}

static void join_control(struct background *b, struct storage_control *c)
{
    struct member *m;

    for (unsigned i = 0; i < b->members->len; i++) {
        m = g_ptr_array_index(b->members, i);
        if (m->control == c) {
            return;
        }
    }
    m = g_new0(struct member, 1);
    m->work = b;
    m->control = storage_control_ref(c);
    m->wanting = true;
    b->far = b->far || !c->device;
    g_ptr_array_add(b->members, m);
    g_ptr_array_add(c->members, m);
    c->limit.works++;
    c->divide_ns = 0;
    storage_control_retarget(c);
}

void background_join(struct background *b, struct node *n)
{
    if (n->priv->control) {
        join_control(b, n->priv->control);
    }
    for (struct edge *e = n->children; e; e = e->next_in_parent) {
        if (e != n->priv->backing) {
            background_join(b, e->child);
        }
    }
}

void background_join_chain(struct background *b, struct node *top,
                           const struct node *end)
{
    for (struct node *n = top; n && n != end; n = node_chain_next(n)) {
        background_join(b, n);
    }
}

void background_set_limits(struct background *b,
                           const struct background_limits *l)
{
    b->limits = *l;
    bucket_set_rate(&b->floor, l->floor, background_now(b));
    for (unsigned i = 0; i < b->members->len; i++) {
        const struct member *m = g_ptr_array_index(b->members, i);

        storage_control_retarget(m->control);
    }
}

void background_set_remaining(struct background *b, uint64_t bytes)
{
    b->remaining = bytes;
}

/* Bytes/s that `finish_by` asks for from now on; 0: nothing, UINT64_MAX: it has
 * passed. */
static uint64_t deadline_rate(struct background *b)
{
    uint64_t date = loop_date_ns(b->graph->loop);
    double left;

    if (!b->limits.finish_by || !b->remaining) {
        return 0;
    }
    left = (double)b->limits.finish_by - (double)date / 1e9;
    return left <= 0 ? UINT64_MAX : (uint64_t)((double)b->remaining / left);
}

/* The rate that nothing takes away; UINT64_MAX: all that there is. */
static uint64_t floor_rate(struct background *b)
{
    double wanted = (double)deadline_rate(b) * DEADLINE_SPARE;

    return wanted >= RATE_NONE ? UINT64_MAX
                               : MAX(b->limits.floor, (uint64_t)wanted);
}

/* The least of the shares, and whose it is (NULL: there is no limit). */
static struct member *least_share(struct background *b)
{
    struct member *least = NULL;

    for (unsigned i = 0; i < b->members->len; i++) {
        struct member *m = g_ptr_array_index(b->members, i);

        storage_control_divide(m->control);
        if (m->rate < RATE_NONE && (!least || m->rate < least->rate)) {
            least = m;
        }
    }
    return least;
}

/* Follow a rate that moves all the time; not each little move, since a bucket
 * forgets with each how late its sender is. */
static void bucket_follow(struct bucket *k, double rate, uint64_t now)
{
    if (rate > (double)k->rate * FOLLOW || rate < (double)k->rate / FOLLOW) {
        bucket_set_rate(k, MAX((uint64_t)rate, 1), now);
    }
}

/* One bucket let the chunk go.  If the other one would not have, it takes
 * nothing: what one rate gives is no debt against the other. */
static void bucket_charge(struct bucket *k, uint64_t len, uint64_t now)
{
    if (bucket_wait_ns(k, now) == 0) {
        bucket_take(k, len, now);
    }
}

uint64_t background_unit(struct background *b)
{
    uint64_t unit = UINT64_MAX;

    for (unsigned i = 0; i < b->members->len; i++) {
        const struct member *m = g_ptr_array_index(b->members, i);
        const struct limit *l = &m->control->limit;

        storage_control_divide(m->control);
        unit = MIN(unit, limit_unit(l));
        if (!b->far) {
            unit = MIN(unit, MAX(limit_backlog(l) / 16, LIMIT_UNIT_MAX));
        }
    }
    return unit;
}

/* How long the floor alone would have it wait. */
static uint64_t floor_wait_ns(struct background *b, uint64_t now)
{
    uint64_t rate = floor_rate(b);

    if (rate == 0) {
        return UINT64_MAX;
    }
    if (rate == UINT64_MAX) {
        return 0;
    }
    bucket_follow(&b->floor, (double)rate, now);
    return bucket_wait_ns(&b->floor, now);
}

/* Does somebody else wait for longer than @m does, and still does? */
static bool has_turn(const struct storage_control *c, const struct member *m,
                     uint64_t now)
{
    for (unsigned i = 0; i < c->members->len; i++) {
        const struct member *o = g_ptr_array_index(c->members, i);

        if (o != m && o->queued_ns && now - o->asked_ns < 2 * QUEUE_ASK_NS &&
            (!m->queued_ns || o->queued_ns < m->queued_ns)) {
            return false;
        }
    }
    return true;
}

/* Without a limit: not more at once than devices are kept busy with, in turn.
 * What comes from far away is in flight for other reasons. */
static uint64_t backlog_wait_ns(struct background *b, uint64_t now)
{
    uint64_t wait = 0;

    for (unsigned i = 0; i < b->members->len && !b->far; i++) {
        struct member *m = g_ptr_array_index(b->members, i);
        const struct limit *l = &m->control->limit;

        m->asked_ns = now;
        if ((l->in_flight && l->in_flight >= limit_backlog(l)) ||
            !has_turn(m->control, m, now)) {
            m->queued_ns = m->queued_ns ? m->queued_ns : now;
            wait = QUEUE_ASK_NS;
        }
    }
    return wait;
}

/* Is more at one of the storages than it keeps up with? */
static bool is_behind(const struct background *b)
{
    for (unsigned i = 0; i < b->members->len; i++) {
        const struct member *m = g_ptr_array_index(b->members, i);
        const struct limit *l = &m->control->limit;

        if (l->in_flight && l->in_flight >= limit_backlog(l)) {
            return true;
        }
    }
    return false;
}

bool background_is_limited(struct background *b)
{
    return least_share(b) != NULL;
}

uint64_t background_wait_ns(struct background *b)
{
    uint64_t now = background_now(b), wait, floor;
    struct member *m = least_share(b);

    if (!m) {
        return backlog_wait_ns(b, now);
    }
    if (m->rate > 0) {
        bucket_follow(&b->pace, m->rate, now);
        wait = bucket_wait_ns(&b->pace, now);
        if (!wait && !b->far && is_behind(b)) {
            wait = QUEUE_ASK_NS;
        }
        floor = wait ? floor_wait_ns(b, now) : 0;
    } else {
        /* Guests' latency is being measured: the floor waits, too, and gets
         * back what it lost. */
        wait = floor = BACKGROUND_ASK_NS;
    }
    wait = MIN(wait, floor);
    m->wanting = m->wanting || wait;
    return MIN(wait, BACKGROUND_ASK_NS);
}

void background_begin(struct background *b, uint64_t len)
{
    uint64_t now = background_now(b);

    bucket_charge(&b->pace, len, now);
    bucket_charge(&b->floor, len, now);
    for (unsigned i = 0; i < b->members->len; i++) {
        struct member *m = g_ptr_array_index(b->members, i);

        m->bytes += len;
        m->queued_ns = 0;
        limit_work_begin(&m->control->limit, len);
    }
}

void background_end(struct background *b, uint64_t len, uint64_t moved)
{
    uint64_t now = background_now(b);

    if (moved < len) {
        bucket_give_back(&b->pace, len - moved);
        bucket_give_back(&b->floor, len - moved);
    }
    for (unsigned i = 0; i < b->members->len; i++) {
        struct member *m = g_ptr_array_index(b->members, i);

        limit_work_done(&m->control->limit, len, now);
    }
}

void background_co_wait(struct background *b)
{
    uint64_t wait;

    while ((wait = background_wait_ns(b)) > 0) {
        co_sleep(wait);
    }
}
