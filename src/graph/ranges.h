/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ranges of a disk that somebody is at work on: who takes one waits until none
 * overlaps.  A mirror's chunks and the guest's writes that go to both sides
 * keep out of each other's way by it.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"

struct range {
    uint64_t off, len;
    struct range *next;
};
struct ranges {
    struct range *first;
    struct co_queue freed;
};

/* Is anybody at work there? No yield. */
bool ranges_any(const struct ranges *rs, uint64_t off, uint64_t len);
/* @r is the caller's, and in the list until ranges_drop(). */
CO_FN void ranges_co_take(struct ranges *rs, struct range *r, uint64_t off,
                          uint64_t len);
/* The same beside others that overlap. No yield. */
void ranges_add(struct ranges *rs, struct range *r, uint64_t off, uint64_t len);
/* Until none overlaps. */
CO_FN void ranges_co_wait(struct ranges *rs, uint64_t off, uint64_t len);
void ranges_drop(struct ranges *rs, struct range *r);
