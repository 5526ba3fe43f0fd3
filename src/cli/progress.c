/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A progress bar: done, rate, time left.  The rate is that of the last few
 * seconds, so that the estimate follows a change of speed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/cli.h"

#define WIDTH 28
#define REDRAW_US 100000
#define SAMPLES 32 /* a rate window of about three seconds */

struct progress {
    char *what;
    const char *note; /* instead of speed and time left, or NULL */
    bool shown;
    gint64 last_draw_us;
    struct {
        gint64 us;
        uint64_t done;
    } sample[SAMPLES];
    unsigned n;
    const json_t *eta; /* or NULL */
};

struct progress *progress_new(const char *what, bool force)
{
    struct progress *p = g_new0(struct progress, 1);

    p->what = g_strdup(what);
    p->shown = force || isatty(STDOUT_FILENO);
    return p;
}

/* Bytes per second between the oldest sample and now; 0 = not known. */
static double rate(const struct progress *p, gint64 now, uint64_t done)
{
    unsigned oldest = p->n > SAMPLES ? p->n % SAMPLES : 0;

    if (p->n < 2 || now <= p->sample[oldest].us ||
        done < p->sample[oldest].done) {
        return 0;
    }
    return (double)(done - p->sample[oldest].done) * 1e6 /
           (double)(now - p->sample[oldest].us);
}

static void draw(struct progress *p, gint64 now, uint64_t done, uint64_t total)
{
    g_autofree char *told = p->eta ? progress_eta_text(p->eta) : NULL;
    char bar[WIDTH + 1], left[64] = "";
    double speed = rate(p, now, done);
    double part = total ? (double)done / (double)total : 1;
    int full = (int)(part * WIDTH);
    g_autofree char *speed_text = size_format((uint64_t)speed);
    g_autofree char *pace = g_strdup_printf("%s/s", speed_text);

    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)CLAMP(full, 0, WIDTH));
    bar[WIDTH] = '\0';
    if (told && !p->note) {
        snprintf(left, sizeof(left), "  %s", told);
    } else if (speed > 0 && done < total && !p->note) {
        unsigned s = (unsigned)((double)(total - done) / speed);
        snprintf(left, sizeof(left), "  %u:%02u left", s / 60, s % 60);
    }
    printf("\r%s [%s] %5.1f%%  %s%s\033[K", p->what, bar, part * 100,
           p->note ? p->note : pace, left);
    fflush(stdout);
    cli_begin_line();
}

void progress_update(struct progress *p, uint64_t done, uint64_t total)
{
    gint64 now = g_get_monotonic_time();

    if (!p || !p->shown ||
        (done < total && now - p->last_draw_us < REDRAW_US)) {
        return;
    }
    p->last_draw_us = now;
    draw(p, now, done, total);
    p->sample[p->n % SAMPLES].us = now;
    p->sample[p->n % SAMPLES].done = done;
    p->n++;
}

void progress_eta(struct progress *p, const json_t *eta)
{
    if (p) {
        p->eta = eta;
    }
}

/* "1:05", "2:10:00" */
static char *time_text(const json_t *seconds)
{
    long long s = json_integer_value(seconds);

    return s < 3600 ? g_strdup_printf("%lld:%02lld", s / 60, s % 60)
                    : g_strdup_printf("%lld:%02lld:%02lld", s / 3600,
                                      s / 60 % 60, s % 60);
}

char *progress_eta_text(const json_t *eta)
{
    const json_t *latest = json_object_get(eta, "latest");
    g_autofree char *expected = time_text(json_object_get(eta, "expected"));
    g_autofree char *from = time_text(json_object_get(eta, "earliest"));
    g_autofree char *to = latest ? time_text(latest) : g_strdup("?");

    return g_strdup_printf("%s left (%s to %s)", expected, from, to);
}

void progress_note(struct progress *p, const char *note)
{
    if (p && p->note != note) {
        p->note = note;
        p->last_draw_us = 0;
        p->n = 0; /* a pause is not to count for the speed */
    }
}

void progress_free(struct progress *p)
{
    if (p) {
        cli_end_line();
        g_free(p->what);
        g_free(p);
    }
}
