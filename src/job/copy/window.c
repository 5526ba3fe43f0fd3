/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes a copy keeps in flight; the rules stand in window.h.
 *
 * The rate decides, not the latency: a base behind a cache has two latencies
 * and a disk queue hides its own, but more requests in flight that move no more
 * bytes are of no use anywhere.  Latency tells when to stop growing blindly, and
 * when it is worth while to ask whether less would do.
 */
#include "job/copy/window.h"
#include <glib.h>

#define MS UINT64_C(1000000)
#define KIB UINT64_C(1024)

#define START_CHUNKS 4
#define START_SIZE (1024 * KIB)
/* What a line moves in so short a time disturbs nobody, and is enough for what
 * is near. */
#define FLOOR_NS (20 * MS)
/* What answers so fast need not be felt for. */
#define NEAR_NS (3 * MS)
#define PIECE_MIN (64 * KIB)
#define PIECES 4
#define PIECES_FAR 8 /* wait less for one another, and tell more of the line */
#define FILL_GROWTH 1.15 /* of the rate, for the pipe not to be full */
#define FILL_PLATEAU 2   /* rounds without it */
#define GROWTH_MIN 1.4
#define GROWTH_MAX 4.0
#define TRAIN_MIN 4 /* replies that tell the rate of a line */
/* Above what a line holds, because neither its rate nor its length is known
 * well. */
#define SPARE 1.3
#define QUEUE_TRIPS 1.8
#define QUEUE_MIN_NS (10 * MS)
#define STEP 1.25
#define UP_GROWTH 1.05
#define DOWN_KEEP 0.98
#define DOWN_UNFILLED 0.9
#define DOWN_STEP 0.6
#define HOLD_ROUNDS 6
#define HOLD_ROUNDS_FIRST 2 /* until more was of no use */
#define UP_BACKOFF_MAX 3
#define DOWN_BACKOFF_MAX 15
#define MIN_ROUND_NS (5 * MS)

static void round_begin(struct window *w, uint64_t now_ns)
{
    w->round_mark = w->delivered;
    w->round_bytes = 0;
    w->first_bytes = 0;
    w->round_replies = 0;
    w->round_trip_ns = UINT64_MAX;
    w->round_start_ns = now_ns;
    w->prev_size = w->round_size;
    w->round_size = w->size;
    w->round_limited = false;
}

static uint64_t floor_size(const struct window *w)
{
    uint64_t most = MIN(START_CHUNKS * w->chunk, w->max);

    if (!w->is_line) {
        return most;
    }
    uint64_t least = MIN(2 * MIN(PIECE_MIN, w->chunk), most);

    return CLAMP((uint64_t)(w->rate * (double)FLOOR_NS), least, most);
}

static void set_size(struct window *w, double size, enum window_phase phase)
{
    w->size = CLAMP((uint64_t)size, floor_size(w), w->max);
    w->phase = phase;
    w->settling = true;
}

void window_init(struct window *w, uint64_t chunk, uint64_t max, bool is_line,
                 uint64_t now_ns)
{
    *w = (struct window) {
        .chunk = chunk,
        .max = MAX(max, chunk),
        .is_line = is_line,
        .phase = WINDOW_FILL,
    };
    w->size = MIN(START_CHUNKS * chunk, w->max);
    if (is_line) {
        w->size = MIN(w->size, START_SIZE);
    }
    round_begin(w, now_ns);
    w->prev_size = w->size;
}

uint64_t window_limit(const struct window *w)
{
    return w->size;
}

uint64_t window_piece(const struct window *w)
{
    uint64_t piece = w->chunk;

    bool is_near = !w->is_line || (w->trip_ns && w->trip_ns <= FLOOR_NS);
    unsigned pieces = is_near ? PIECES : PIECES_FAR;

    while (piece > w->size / pieces && piece / 2 >= PIECE_MIN) {
        piece /= 2;
    }
    return piece;
}

struct window_mark window_sent(struct window *w, uint64_t bytes,
                               uint64_t now_ns)
{
    w->in_flight += bytes;
    return (struct window_mark) { .delivered = w->delivered, .ns = now_ns };
}

void window_not_full(struct window *w)
{
    w->round_limited = true;
}

/* --- how long requests take --- */

static void trip_add(struct window *w, uint64_t bytes, uint64_t took_ns)
{
    w->recent_ns[w->recent_at] = took_ns;
    w->recent_at = (w->recent_at + 1) % WINDOW_RECENT;
    w->recent_n = MIN(w->recent_n + 1, WINDOW_RECENT);
    if (took_ns < w->round_trip_ns) {
        w->round_trip_ns = took_ns;
        w->round_trip_bytes = bytes;
    }
    if (!w->trip_ns || took_ns < w->trip_ns) {
        w->trip_ns = took_ns;
        w->trip_bytes = bytes;
    }
}

/* What the line holds at @rate, and some more: what comes back during a trip,
 * but for the request itself. */
static double line_holds(const struct window *w, double rate)
{
    double bytes = rate * (double)w->trip_ns - (double)w->trip_bytes;

    return SPARE * MAX(bytes, 0) + (double)window_piece(w);
}

/* Do all requests of late wait before the line?  Of a disk that is no news. */
static bool has_queue(const struct window *w)
{
    uint64_t least = UINT64_MAX;

    if (!w->is_line) {
        return false;
    }
    for (unsigned i = 0; i < WINDOW_RECENT; i++) {
        least = MIN(least, w->recent_ns[i]);
    }
    return w->recent_n == WINDOW_RECENT && least >= w->trip_ns + QUEUE_MIN_NS &&
           (double)least >= (double)w->trip_ns * QUEUE_TRIPS;
}

/* --- the phases --- */

static void hold_begin(struct window *w, double size)
{
    w->hold_rate = 0;
    w->hold_rounds = 0;
    set_size(w, size, WINDOW_HOLD);
}

/* A reply that waited for others says what the line can do: what came back
 * since it was asked for. If that is more than in the last round, the wait was not for
 * the line: TCP, which begins slowly, makes replies wait, too. */
static bool fill_found_queue(struct window *w, const struct window_mark *mark,
                             uint64_t now_ns)
{
    uint64_t took = MAX(now_ns - mark->ns, 1);
    double rate = (double)(w->delivered - mark->delivered) / (double)took;

    if (!has_queue(w) || rate > w->round_rate * FILL_GROWTH) {
        return false;
    }
    w->rate = rate;
    hold_begin(w, line_holds(w, rate));
    round_begin(w, now_ns);
    return true;
}

/* What the line holds as far as it can be told from how close the replies of
 * this round follow one another; 0: not at all yet. */
static double train_holds(const struct window *w, uint64_t now_ns)
{
    double bytes = (double)(w->round_bytes - w->first_bytes);

    return w->round_replies < TRAIN_MIN
               ? 0
               : line_holds(w, bytes / (double)MAX(now_ns - w->first_ns, 1));
}

/* @used: so much was under way.  A window that is not made use of does not grow
 * without end. */
static void fill_grow(struct window *w, uint64_t used, uint64_t bytes,
                      uint64_t now_ns)
{
    double most;

    if (used < w->size / 4 * 3) {
        return;
    }
    w->train_holds = MAX(w->train_holds, train_holds(w, now_ns));
    most = MAX(w->train_holds, GROWTH_MIN * (double)w->round_size);
    if (w->train_holds > 0 && (double)w->size + (double)bytes <= most) {
        w->size += (uint64_t)MIN((double)bytes * (GROWTH_MAX - 1),
                                 most - (double)w->size);
    } else if (w->train_holds == 0) {
        w->size += bytes;
    }
    w->size = MIN(w->size, w->max);
}

/* The bytes of this round were sent during the one before, by its window. */
static void fill_round(struct window *w, double rate)
{
    if (rate > w->best_rate * FILL_GROWTH) {
        w->best_rate = rate;
        w->best_size = w->prev_size;
        w->plateau = 0;
    } else if (++w->plateau >= FILL_PLATEAU) {
        /* Some more than what reached the rate: it is known from steps, so it
         * may be just short of enough. */
        hold_begin(w, (double)w->best_size * SPARE);
    }
}

static void probe(struct window *w, double factor, enum window_phase phase)
{
    double size = (double)w->size * factor;

    if (factor > 1) {
        size = MAX(size, (double)(w->size + window_piece(w)));
    }
    w->kept_size = w->size;
    set_size(w, size, phase);
}

/* What the line takes grows with what it is given for some time: TCP behaves so.
 * Of two rounds the slower one counts, for one may have been lucky. */
static void hold_follow(struct window *w, double rate)
{
    double holds = line_holds(w, MIN(rate, w->prev_rate));

    w->size = MIN(MAX(w->size, (uint64_t)holds), w->max);
}

static bool is_turn(unsigned *skip)
{
    *skip -= *skip > 0;
    return *skip == 0;
}

static void hold_probe(struct window *w)
{
    bool queue = has_queue(w);

    if (queue || w->next_down) {
        if ((queue || is_turn(&w->down_skip)) && w->size > floor_size(w)) {
            probe(w, DOWN_STEP, WINDOW_DOWN);
        }
    } else if (w->size < w->max && is_turn(&w->up_skip)) {
        probe(w, STEP, WINDOW_UP);
    }
    w->next_down = !w->next_down;
}

static void hold_round(struct window *w, double rate)
{
    /* A mean of the rounds, so that one lucky round does not rule. */
    w->hold_rate += (rate - w->hold_rate) / ++w->hold_rounds;
    if (w->is_line) {
        hold_follow(w, rate);
    }
    if (w->hold_rounds >= (w->settled ? HOLD_ROUNDS : HOLD_ROUNDS_FIRST)) {
        w->hold_rounds = 0;
        hold_probe(w);
    }
}

static void back_off(unsigned *backoff, unsigned most)
{
    *backoff = MIN(2 * *backoff + 1, most);
}

static void up_round(struct window *w, double rate)
{
    if (rate < w->hold_rate * UP_GROWTH) {
        w->settled = true;
        back_off(&w->up_backoff, UP_BACKOFF_MAX);
        set_size(w, (double)w->kept_size, WINDOW_HOLD);
    } else {
        w->up_backoff = 0;
        w->hold_rate = rate;
        if (w->size < w->max) {
            probe(w, STEP, WINDOW_UP);
        } else {
            hold_begin(w, (double)w->size);
        }
    }
    w->up_skip = w->up_backoff + 1;
}

static void down_round(struct window *w, double rate)
{
    if (rate >= w->hold_rate * DOWN_KEEP) {
        w->down_backoff = 0;
        w->next_down = true; /* go on in the direction that paid */
        set_size(w, (double)w->size, WINDOW_HOLD);
    } else {
        if (rate < w->hold_rate * DOWN_UNFILLED) {
            /* The line was not full: so long it takes without a queue. */
            w->trip_ns = w->round_trip_ns;
            w->trip_bytes = w->round_trip_bytes;
        }
        back_off(&w->down_backoff, DOWN_BACKOFF_MAX);
        set_size(w, (double)w->kept_size, WINDOW_HOLD);
    }
    w->down_skip = w->down_backoff + 1;
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
        w->prev_rate = w->rate;
        w->rate = rate;
        switch (w->phase) {
        case WINDOW_FILL: fill_round(w, rate); break;
        case WINDOW_HOLD: hold_round(w, rate); break;
        case WINDOW_UP: up_round(w, rate); break;
        case WINDOW_DOWN: down_round(w, rate); break;
        }
    }
    w->round_rate = rate;
    round_begin(w, now_ns);
}

static void round_add(struct window *w, uint64_t bytes, uint64_t now_ns)
{
    if (!w->first_bytes) {
        w->first_bytes = bytes;
        w->first_ns = now_ns;
    }
    w->round_bytes += bytes;
    w->round_replies++;
}

void window_done(struct window *w, const struct window_mark *mark,
                 uint64_t bytes, uint64_t now_ns)
{
    uint64_t used = w->in_flight;

    w->in_flight -= bytes;
    w->delivered += bytes;
    trip_add(w, bytes, now_ns - mark->ns);
    round_add(w, bytes, now_ns);
    if (w->phase == WINDOW_FILL && fill_found_queue(w, mark, now_ns)) {
        return;
    }
    if (w->phase == WINDOW_FILL && w->trip_ns <= NEAR_NS) {
        w->size = MAX(w->size, MIN(START_CHUNKS * w->chunk, w->max));
    }
    if (w->phase == WINDOW_FILL && !w->round_limited) {
        fill_grow(w, used, bytes, now_ns);
    }
    if (mark->delivered < w->round_mark) {
        return;
    }
    /* Very short rounds measure the timer.  While filling they are let be:
     * only growth counts there. */
    if (w->phase == WINDOW_FILL || w->settling ||
        now_ns - w->round_start_ns >= MIN_ROUND_NS) {
        round_end(w, now_ns);
    }
}
