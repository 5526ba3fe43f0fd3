/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One budget for what a daemon holds in memory for its devices.
 *
 * Each kind of use has a part of it (an eighth is left for everything else), which
 * is divided evenly among the members that use it now: a member joins when it begins to hold memory, and
 * leaves when it holds none any more.  When one joins, the shares of the others
 * become smaller, and those that can give memory back at once are told; from the
 * others it comes back as their requests end (memory_take()).  So the sum stays
 * within the budget, and many devices do not starve one another.
 *
 * A member that cannot do with its share (one cluster of 2 MiB is larger) takes
 * what it needs for one request at a time: progress comes first.
 *
 * Pure: no clock, no I/O.  A budget and its members are used on one loop; budgets
 * of several loops may share their bytes (memory_budget_share()).
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum memory_kind {
    MEMORY_COPY,  /* windows of jobs: half */
    MEMORY_CACHE, /* metadata tables and decompressed clusters: a quarter */
    MEMORY_EARLY, /* writes that did not wait for their base: an eighth */
    MEMORY_KINDS
};

/* Default of `--memory`, bytes. */
#define MEMORY_DEFAULT (UINT64_C(256) << 20)
/* The least that makes sense. */
#define MEMORY_MIN (UINT64_C(16) << 20)

struct memory_budget;

/* In the state of who uses memory; zero before memory_join(). */
struct memory_member {
    enum memory_kind kind;
    /* The share is @share bytes now: give back what is more. May be NULL. No
     * yield. */
    void (*shrink)(void *arg, uint64_t share);
    /* Nothing was asked of it for @idle_s: give back what was not used since
     * the last call. May be NULL. No yield; it may leave. */
    void (*clean)(void *arg);
    void *arg;
    unsigned idle_s; /* seconds between calls of clean; 0: never */
    /* memory-budget.c's */
    struct memory_budget *budget; /* NULL: not joined */
    uint64_t used;                /* bytes, by memory_take() */
    unsigned left_s;
    GList link;
};

struct memory_budget *memory_budget_new(uint64_t total);
/* All members have left. NULL is fine. */
void memory_budget_free(struct memory_budget *b);
/* Divide one sum among the members of @b, which has none yet, and of @with, and of
 * those that it shares with. @with: used by nobody during the call. */
void memory_budget_share(struct memory_budget *b, struct memory_budget *with);
/* @fn is called on any thread, under a lock, when the shares of @b have become
 * smaller on account of members of another loop: memory_budget_shrink() is to be
 * called soon, on the loop of @b. */
void memory_budget_set_wake(struct memory_budget *b, void (*fn)(void *arg),
                            void *arg);
void memory_budget_shrink(struct memory_budget *b);
/* Bytes, at least MEMORY_MIN; of all that share it. */
void memory_budget_set_total(struct memory_budget *b, uint64_t total);
/* @fn is called when members that want to be cleaned are there, with the
 * seconds after which memory_budget_clean() is to be called; 0: not any more. */
void memory_budget_set_timer(struct memory_budget *b,
                             void (*fn)(void *arg, unsigned seconds),
                             void *arg);
/* So many seconds went by. */
void memory_budget_clean(struct memory_budget *b, unsigned seconds);

/* @b may be NULL: nothing is shared, and memory_share() knows no limit. Fine on
 * one that is in it already, or not. */
void memory_join(struct memory_budget *b, struct memory_member *m);
void memory_leave(struct memory_member *m);
/* Bytes that @m may hold; UINT64_MAX: it has not joined. */
uint64_t memory_share(const struct memory_member *m);

/* For members whose bytes come and go by themselves: may @len more be taken?
 * Not beyond the share, and not while others still hold what is more than
 * theirs.  One that holds nothing always may. */
bool memory_has_room(const struct memory_member *m, uint64_t len);
void memory_take(struct memory_member *m, uint64_t len);
void memory_give(struct memory_member *m, uint64_t len);
