/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The story of a seed: a line for everything that a client or a disk saw, each
 * folded into a hash, the last ones kept to be shown with a failure.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "dst.h"

enum { KEPT = 60 };

gboolean story_loud;

static struct {
    uint64_t hash;
    char *lines[KEPT];
    unsigned n;
} told;

void story_begin(struct world *w)
{
    told.hash = 0xcbf29ce484222325u;
    told.n = 0;
}

static void tell(char *line)
{
    for (const char *p = line; *p; p++) {
        told.hash = (told.hash ^ (uint8_t)*p) * 0x100000001b3u;
    }
    if (story_loud) {
        puts(line);
    }
    g_free(told.lines[told.n % KEPT]);
    told.lines[told.n++ % KEPT] = line;
}

static char *PRINTF_LIKE(2, 0)
    format(struct world *w, const char *fmt, va_list ap)
{
    uint64_t ns = w->loop ? loop_clock_ns(w->loop) : 0;
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    return g_strdup_printf("%10.3f ms  %s", (double)ns / 1e6, text);
}

void story(struct world *w, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tell(format(w, fmt, ap));
    va_end(ap);
}

uint64_t story_end(struct world *w)
{
    for (unsigned i = 0; i < KEPT; i++) {
        g_clear_pointer(&told.lines[i], g_free);
    }
    return told.hash;
}

void fail(struct world *w, const char *fmt, ...)
{
    unsigned first = told.n > KEPT ? told.n - KEPT : 0;
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = format(w, fmt, ap);
    va_end(ap);
    for (unsigned i = first; i < told.n && !story_loud; i++) {
        printf("# %s\n", told.lines[i % KEPT]);
    }
    printf("# FAILED %s\n# replay: dst --story --seed %" PRIu64 "\n", text,
           w->seed);
    fflush(stdout);
    if (g_getenv("DST_ABORT")) {
        abort();
    }
    _exit(1);
}
