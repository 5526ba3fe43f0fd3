/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See base/memory-budget.h. */
#include "base/memory-budget.h"
#include <pthread.h>

/* What budgets of several loops share. The numbers are read and added to at any
 * time by all of them: one that is a little old does no harm, since a member that
 * takes too much by it gives that back. */
struct memory_sum {
    gatomicrefcount refs;
    uint64_t total;                 /* atomic, as the next two */
    uint64_t used[MEMORY_KINDS];    /* by all members */
    unsigned members[MEMORY_KINDS]; /* how many there are */
    pthread_mutex_t lock;           /* of what follows */
    GPtrArray *budgets;             /* borrowed */
};

struct memory_budget {
    struct memory_sum *sum;
    GQueue members[MEMORY_KINDS]; /* struct memory_member, borrowed */
    void (*wake_fn)(void *arg);
    void *wake_arg;
    unsigned timer_s; /* as told to timer_fn */
    void (*timer_fn)(void *arg, unsigned seconds);
    void *timer_arg;
};

/* --- the sum --- */

static struct memory_sum *sum_new(uint64_t total)
{
    struct memory_sum *s = g_new0(struct memory_sum, 1);

    g_atomic_ref_count_init(&s->refs);
    s->total = MAX(total, MEMORY_MIN);
    pthread_mutex_init(&s->lock, NULL);
    s->budgets = g_ptr_array_new();
    return s;
}

static void sum_enter(struct memory_sum *s, struct memory_budget *b)
{
    pthread_mutex_lock(&s->lock);
    g_ptr_array_add(s->budgets, b);
    pthread_mutex_unlock(&s->lock);
}

static void sum_leave(struct memory_sum *s, struct memory_budget *b)
{
    pthread_mutex_lock(&s->lock);
    g_ptr_array_remove_fast(s->budgets, b);
    pthread_mutex_unlock(&s->lock);
    if (g_atomic_ref_count_dec(&s->refs)) {
        g_ptr_array_free(s->budgets, TRUE);
        pthread_mutex_destroy(&s->lock);
        g_free(s);
    }
}

/* The shares of those of other loops than @b's have become smaller. */
static void sum_wake_others(struct memory_sum *s, struct memory_budget *b)
{
    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < s->budgets->len; i++) {
        struct memory_budget *other = g_ptr_array_index(s->budgets, i);

        if (other != b && other->wake_fn) {
            other->wake_fn(other->wake_arg);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static uint64_t load_relaxed(const uint64_t *n)
{
    return __atomic_load_n(n, __ATOMIC_RELAXED);
}

/* --- budgets --- */

struct memory_budget *memory_budget_new(uint64_t total)
{
    struct memory_budget *b = g_new0(struct memory_budget, 1);

    b->sum = sum_new(total);
    sum_enter(b->sum, b);
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        g_queue_init(&b->members[i]);
    }
    return b;
}

void memory_budget_free(struct memory_budget *b)
{
    if (!b) {
        return;
    }
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        g_assert(g_queue_is_empty(&b->members[i]));
    }
    sum_leave(b->sum, b);
    g_free(b);
}

void memory_budget_share(struct memory_budget *b, struct memory_budget *with)
{
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        g_assert(g_queue_is_empty(&b->members[i]));
    }
    sum_leave(b->sum, b);
    g_atomic_ref_count_inc(&with->sum->refs);
    b->sum = with->sum;
    sum_enter(b->sum, b);
}

void memory_budget_set_wake(struct memory_budget *b, void (*fn)(void *arg),
                            void *arg)
{
    pthread_mutex_lock(&b->sum->lock);
    b->wake_fn = fn;
    b->wake_arg = arg;
    pthread_mutex_unlock(&b->sum->lock);
}

static uint64_t part_of(const struct memory_budget *b, enum memory_kind kind)
{
    static const unsigned divisor[MEMORY_KINDS] = {
        [MEMORY_COPY] = 2,
        [MEMORY_CACHE] = 4,
        [MEMORY_EARLY] = 8,
    };

    return load_relaxed(&b->sum->total) / divisor[kind];
}

static uint64_t share_of(const struct memory_budget *b, enum memory_kind kind)
{
    unsigned n = __atomic_load_n(&b->sum->members[kind], __ATOMIC_RELAXED);

    return part_of(b, kind) / MAX(n, 1);
}

uint64_t memory_share(const struct memory_member *m)
{
    return m->budget ? share_of(m->budget, m->kind) : UINT64_MAX;
}

bool memory_has_room(const struct memory_member *m, uint64_t len)
{
    const struct memory_budget *b = m->budget;

    return !b || !m->used ||
           (m->used + len <= share_of(b, m->kind) &&
            load_relaxed(&b->sum->used[m->kind]) + len <= part_of(b, m->kind));
}

void memory_take(struct memory_member *m, uint64_t len)
{
    if (m->budget) {
        m->used += len;
        __atomic_add_fetch(&m->budget->sum->used[m->kind], len,
                           __ATOMIC_RELAXED);
    }
}

void memory_give(struct memory_member *m, uint64_t len)
{
    if (m->budget) {
        g_assert(m->used >= len);
        m->used -= len;
        __atomic_sub_fetch(&m->budget->sum->used[m->kind], len,
                           __ATOMIC_RELAXED);
    }
}

static void shrink_all(struct memory_budget *b, enum memory_kind kind)
{
    uint64_t share = share_of(b, kind);

    for (GList *l = b->members[kind].head; l; l = l->next) {
        struct memory_member *m = l->data;

        if (m->shrink) {
            m->shrink(m->arg, share);
        }
    }
}

void memory_budget_shrink(struct memory_budget *b)
{
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        shrink_all(b, i);
    }
}

void memory_budget_set_total(struct memory_budget *b, uint64_t total)
{
    __atomic_store_n(&b->sum->total, MAX(total, MEMORY_MIN), __ATOMIC_RELAXED);
    memory_budget_shrink(b);
    sum_wake_others(b->sum, b);
}

/* --- cleaning --- */

static void set_timer(struct memory_budget *b, unsigned seconds)
{
    if (b->timer_fn && seconds != b->timer_s) {
        b->timer_s = seconds;
        b->timer_fn(b->timer_arg, seconds);
    }
}

/* The time until the first of them is due. */
static unsigned next_due(const struct memory_budget *b)
{
    unsigned least = 0;

    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        for (GList *l = b->members[i].head; l; l = l->next) {
            const struct memory_member *m = l->data;

            if (m->idle_s && m->clean && (!least || m->left_s < least)) {
                least = m->left_s;
            }
        }
    }
    return least;
}

void memory_budget_set_timer(struct memory_budget *b,
                             void (*fn)(void *arg, unsigned seconds), void *arg)
{
    b->timer_fn = fn;
    b->timer_arg = arg;
}

static void clean_one(struct memory_member *m, unsigned seconds)
{
    if (!m->idle_s || !m->clean) {
        return;
    }
    if (m->left_s > seconds) {
        m->left_s -= seconds;
    } else {
        m->left_s = m->idle_s;
        m->clean(m->arg);
    }
}

void memory_budget_clean(struct memory_budget *b, unsigned seconds)
{
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        for (GList *l = b->members[i].head, *next; l; l = next) {
            next = l->next;
            clean_one(l->data, seconds);
        }
    }
    b->timer_s = 0; /* it has gone off */
    set_timer(b, next_due(b));
}

/* --- members --- */

void memory_join(struct memory_budget *b, struct memory_member *m)
{
    if (!b || m->budget) {
        return;
    }
    m->budget = b;
    m->left_s = m->idle_s;
    m->link = (GList) { .data = m };
    g_queue_push_tail_link(&b->members[m->kind], &m->link);
    __atomic_add_fetch(&b->sum->members[m->kind], 1, __ATOMIC_RELAXED);
    shrink_all(b, m->kind);
    sum_wake_others(b->sum, b);
    if (m->idle_s && m->clean && (!b->timer_s || m->idle_s < b->timer_s)) {
        set_timer(b, m->idle_s);
    }
}

void memory_leave(struct memory_member *m)
{
    struct memory_budget *b = m->budget;

    if (b) {
        g_assert(m->used == 0);
        m->budget = NULL;
        g_queue_unlink(&b->members[m->kind], &m->link);
        __atomic_sub_fetch(&b->sum->members[m->kind], 1, __ATOMIC_RELAXED);
    }
}
