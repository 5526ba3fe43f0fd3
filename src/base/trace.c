/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list of trace events and their printing.  Events are registered by
 * generated code on first use of their folder and switched before loops run;
 * patterns given earlier are kept and applied to events that come later.
 */
#include "base/trace.h"

#include <glib.h>
#include <stdarg.h>
#include <stdio.h>

static GMutex lock;
static struct trace_event *events;
static GPtrArray *patterns;

/* Apply one pattern; true when it matched. */
static bool apply(struct trace_event *ev, const char *pattern)
{
    bool on = pattern[0] != '-';

    if (!g_pattern_match_simple(on ? pattern : pattern + 1, ev->name)) {
        return false;
    }
    ev->enabled = on;
    return true;
}

unsigned trace_enable(const char *pattern)
{
    unsigned n = 0;

    g_mutex_lock(&lock);
    for (struct trace_event *ev = events; ev; ev = ev->next) {
        n += apply(ev, pattern);
    }
    if (!patterns) {
        patterns = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(patterns, g_strdup(pattern));
    g_mutex_unlock(&lock);
    return n;
}

void trace_list(void (*fn)(const struct trace_event *ev, void *arg), void *arg)
{
    for (struct trace_event *ev = events; ev; ev = ev->next) {
        fn(ev, arg);
    }
}

void trace_register(struct trace_event *ev)
{
    g_mutex_lock(&lock);
    ev->next = events;
    events = ev;
    for (unsigned i = 0; patterns && i < patterns->len; i++) {
        apply(ev, g_ptr_array_index(patterns, i));
    }
    g_mutex_unlock(&lock);
}

void trace_print(const struct trace_event *ev, const char *fmt, ...)
{
    char line[1024];
    gint64 us = g_get_monotonic_time();
    va_list ap;

    va_start(ap, fmt);
    g_vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    fprintf(stderr, "%" G_GINT64_FORMAT ".%06d %s %s\n", us / 1000000,
            (int)(us % 1000000), ev->name, line);
}
