/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between the throttle filter and its groups; private to filter/. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct graph;
struct throttle_group;

/* One filter node of a group. The struct belongs to the filter. */
struct throttle_member {
    struct throttle_group *group;
    struct throttle_wait *head[2], *tail[2]; /* reads, writes that wait */
    unsigned draining; /* > 0: requests pass without waiting */
};

/* Join group @id, leaving another; nothing may wait. -ENOENT "Throttle group
 * 'X' does not exist"; the member then stays where it is. */
int throttle_member_join(struct throttle_member *m, struct graph *g,
                         const char *id, GError **err);
/* Nothing may wait. Harmless when it never joined. */
void throttle_member_leave(struct throttle_member *m);
/* Wait until a request of @bytes may pass; it is counted then. */
CO_FN void throttle_member_co_wait(struct throttle_member *m, bool is_write,
                                   uint64_t bytes);
/* What waits and what comes passes at once, counted, until the end. */
void throttle_member_drain_begin(struct throttle_member *m);
void throttle_member_drain_end(struct throttle_member *m);
