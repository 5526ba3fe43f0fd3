/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes a copy keeps in flight; the rules stand in window.h.
 *
 * The window follows the rate, not the latency: a base behind a cache has two
 * latencies and a disk queue hides its own, but more requests in flight that
 * move no more bytes are of no use anywhere.
 */
#include "job/copy/window.h"
#include <glib.h>

#define START_CHUNKS 4
#define FILL_GROWTH 1.15 /* of the rate, for the pipe not to be full */
#define FILL_PLATEAU 2   /* rounds without it */
#define UP_GROWTH 1.05
#define DOWN_KEEP 0.98
#define HOLD_ROUNDS 6
#define DOWN_BACKOFF_MAX 15
#define MIN_ROUND_NS (5 * UINT64_C(1000000))

static void round_begin(struct window *w, uint64_t now_ns)
{
    w->round_mark = w->delivered;
    w->round_bytes = 0;
    w->round_start_ns = now_ns;
    w->prev_size = w->round_size;
    w->round_size = w->size;
    w->round_limited = false;
}

static uint64_t floor_size(const struct window *w)
{
    return MIN(START_CHUNKS * w->chunk, w->max);
}

static void set_size(struct window *w, double size, enum window_phase phase)
{
    w->size = CLAMP((uint64_t)size, floor_size(w), w->max);
    w->phase = phase;
    w->settling = true;
}

void window_init(struct window *w, uint64_t chunk, uint64_t max,
                 uint64_t now_ns)
{
    *w = (struct window) {
        .chunk = chunk,
        .max = MAX(max, chunk),
        .phase = WINDOW_FILL,
    };
    w->size = floor_size(w);
    round_begin(w, now_ns);
    w->prev_size = w->size;
}

uint64_t window_limit(const struct window *w)
{
    return w->size;
}

uint64_t window_sent(const struct window *w)
{
    return w->delivered;
}

void window_not_full(struct window *w)
{
    w->round_limited = true;
}

/* The bytes of this round were sent during the one before, by its window. */
static void fill_round(struct window *w, double rate)
{
    if (rate > w->best_rate * FILL_GROWTH) {
        w->best_rate = rate;
        w->best_size = w->prev_size;
        w->plateau = 0;
    } else if (++w->plateau >= FILL_PLATEAU) {
        w->hold_rate = 0;
        w->hold_rounds = 0;
        /* A quarter above what reached the rate: it is known from doublings,
         * so it may be just short of enough. */
        set_size(w, (double)w->best_size * 1.25, WINDOW_HOLD);
    }
}

static void hold_round(struct window *w, double rate)
{
    /* A mean of the rounds, so that one lucky round does not rule. */
    w->hold_rate += (rate - w->hold_rate) / ++w->hold_rounds;
    if (w->hold_rounds < HOLD_ROUNDS) {
        return;
    }
    w->hold_rounds = 0;
    if (w->next_down && w->down_skip > 0) {
        w->down_skip--;
    } else if (w->next_down && w->size > floor_size(w)) {
        set_size(w, (double)w->size * 0.8, WINDOW_DOWN);
    } else if (!w->next_down && w->size < w->max) {
        set_size(w, (double)w->size * 1.25, WINDOW_UP);
    }
    w->next_down = !w->next_down;
}

static void probe_round(struct window *w, double rate)
{
    bool up = w->phase == WINDOW_UP;
    double want = w->hold_rate * (up ? UP_GROWTH : DOWN_KEEP);

    if (!up) {
        w->down_backoff = rate >= want
                              ? 0
                              : MIN(2 * w->down_backoff + 1, DOWN_BACKOFF_MAX);
        w->down_skip = w->down_backoff;
    }
    if (rate >= want) {
        w->next_down = !up; /* go on in the direction that paid */
        set_size(w, (double)w->size, WINDOW_HOLD);
    } else {
        set_size(w, (double)w->size * (up ? 0.8 : 1.25), WINDOW_HOLD);
    }
}

static void round_end(struct window *w, uint64_t now_ns)
{
    double rate = (double)w->round_bytes /
                  (double)MAX(now_ns - w->round_start_ns, 1);

    if (w->round_limited) {
        /* Teaches nothing, but a limit met while filling is no plateau. */
    } else if (w->settling) {
        w->settling = false;
    } else {
        switch (w->phase) {
        case WINDOW_FILL: fill_round(w, rate); break;
        case WINDOW_HOLD: hold_round(w, rate); break;
        case WINDOW_UP:
        case WINDOW_DOWN: probe_round(w, rate); break;
        }
    }
    round_begin(w, now_ns);
}

void window_done(struct window *w, uint64_t mark, uint64_t bytes,
                 uint64_t now_ns)
{
    w->delivered += bytes;
    w->round_bytes += bytes;
    if (w->phase == WINDOW_FILL && !w->round_limited) {
        w->size = MIN(w->size + bytes, w->max);
    }
    if (mark < w->round_mark) {
        return;
    }
    /* Very short rounds measure the timer.  While filling they are let be:
     * only growth counts there. */
    if (w->phase == WINDOW_FILL || w->settling ||
        now_ns - w->round_start_ns >= MIN_ROUND_NS) {
        round_end(w, now_ns);
    }
}
