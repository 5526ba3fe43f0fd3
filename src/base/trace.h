/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trace events.  One typed line per event stands in trace-events of its
 * folder; tools/gen-trace makes trace_NAME(...) of each.  An event costs one
 * predictable branch while it is off.  Switched on by glob patterns
 * (sluiced -T 'qed_*'), printed to stderr with a monotonic time stamp.
 */
#pragma once
#include <stdbool.h>
#include "base/annot.h"

struct trace_event {
    const char *name;
    bool enabled;
    struct trace_event *next;
};

/* Enable every event that matches glob @pattern ("-glob" disables).
 * Returns how many matched. */
unsigned trace_enable(const char *pattern);
void trace_list(void (*fn)(const struct trace_event *ev, void *arg), void *arg);

/* For the generated code. */
void trace_register(struct trace_event *ev);
void trace_print(const struct trace_event *ev, const char *fmt, ...)
    PRINTF_LIKE(2, 3);
