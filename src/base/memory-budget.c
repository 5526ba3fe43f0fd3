/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See base/memory-budget.h. */
#include "base/memory-budget.h"

struct memory_budget {
    uint64_t total;
    GQueue members[MEMORY_KINDS]; /* struct memory_member, borrowed */
    uint64_t used[MEMORY_KINDS];  /* sum of theirs */
    unsigned timer_s;             /* as told to timer_fn */
    void (*timer_fn)(void *arg, unsigned seconds);
    void *timer_arg;
};

struct memory_budget *memory_budget_new(uint64_t total)
{
    struct memory_budget *b = g_new0(struct memory_budget, 1);

    b->total = MAX(total, MEMORY_MIN);
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        g_queue_init(&b->members[i]);
    }
    return b;
}

void memory_budget_free(struct memory_budget *b)
{
    for (unsigned i = 0; b && i < MEMORY_KINDS; i++) {
        g_assert(g_queue_is_empty(&b->members[i]));
    }
    g_free(b);
}

static uint64_t part_of(const struct memory_budget *b, enum memory_kind kind)
{
    return kind == MEMORY_COPY ? b->total / 2 : b->total / 4;
}

static uint64_t share_of(const struct memory_budget *b, enum memory_kind kind)
{
    return part_of(b, kind) / MAX(b->members[kind].length, 1);
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
            b->used[m->kind] + len <= part_of(b, m->kind));
}

void memory_take(struct memory_member *m, uint64_t len)
{
    if (m->budget) {
        m->used += len;
        m->budget->used[m->kind] += len;
    }
}

void memory_give(struct memory_member *m, uint64_t len)
{
    if (m->budget) {
        g_assert(m->used >= len);
        m->used -= len;
        m->budget->used[m->kind] -= len;
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

void memory_budget_set_total(struct memory_budget *b, uint64_t total)
{
    b->total = MAX(total, MEMORY_MIN);
    for (unsigned i = 0; i < MEMORY_KINDS; i++) {
        shrink_all(b, i);
    }
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
    shrink_all(b, m->kind);
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
    }
}
