/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes a copy keeps in flight.  Pure: the caller brings the clock
 * and tells what was sent and what came back.
 *
 *   FILL    grows each round, up to fourfold: as far as the replies, by how
 *           close they follow one another, say that the line can take, and by
 *           a quarter at least.  Ends when the rate stops growing, or when
 *           replies take longer than they did: a queue has begun.  Then the
 *           window shrinks to what the line itself holds, and the queue drains
 *   HOLD    keep the window, know its rate; follow a rate that grows by itself
 *   UP      a quarter more for one round: kept if the rate grew with it, and
 *           tried again at once
 *   DOWN    less for one round: kept if the rate did not fall. The round also
 *           tells how long requests take without a queue
 *
 * Steps that did not pay are asked for more and more seldom, DOWN always while
 * requests wait long before the line.
 *
 *   FILL -> HOLD       fill_round(): the rate grows no more;
 *                      fill_found_queue(): replies wait
 *   HOLD -> UP, DOWN   hold_probe(): after some rounds, in turn
 *   UP -> UP           up_round(): the rate grew
 *   UP, DOWN -> HOLD   up_round(), down_round(): the new size stays, or the old
 *                      one is back
 *
 * A round ends when something that was sent after it began comes back; the
 * first round after a change only lets the change take hold.  Rounds in which
 * something else than the window held the sender back teach nothing.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum window_phase { WINDOW_FILL, WINDOW_HOLD, WINDOW_UP, WINDOW_DOWN };

/* Replies of which the quickest tells whether there is a queue. */
#define WINDOW_RECENT 8

/* When a request left, and what had come back by then. */
struct window_mark {
    uint64_t delivered, ns;
};

struct window {
    uint64_t chunk, max; /* bytes */
    bool is_line;
    uint64_t size; /* bytes that may be in flight */
    enum window_phase phase;

    uint64_t in_flight;  /* bytes */
    uint64_t delivered;  /* bytes that came back, all time */
    uint64_t round_mark; /* the round ends with a mark from here on */
    uint64_t round_bytes;
    uint64_t round_start_ns;
    uint64_t first_bytes, first_ns; /* what came back first in the round */
    unsigned round_replies;
    uint64_t round_trip_ns;    /* the quickest reply of the round ... */
    uint64_t round_trip_bytes; /* ... and its length */
    uint64_t round_size;       /* size when the round began */
    uint64_t prev_size;        /* and the round before */
    double round_rate;         /* of the round before, bytes/ns */
    bool round_limited;
    bool settling;

    uint64_t trip_ns;    /* a request takes without a queue; 0: not known */
    uint64_t trip_bytes; /* if it has so many */
    uint64_t recent_ns[WINDOW_RECENT]; /* what the last ones took */
    unsigned recent_at, recent_n;

    double train_holds; /* FILL: what the line seems to hold, bytes */
    double best_rate;   /* bytes/ns and what it took */
    uint64_t best_size;
    unsigned plateau;
    double hold_rate;
    unsigned hold_rounds;
    uint64_t kept_size;     /* UP, DOWN: before the step */
    double rate, prev_rate; /* of the last rounds that taught something */
    bool settled;           /* there was an UP that was of no use */
    bool next_down;
    unsigned up_backoff, down_backoff; /* turns to leave out after a failure */
    unsigned up_skip, down_skip;       /* of which are still to go */
};

/* @is_line: storage at the end of a line, before which a queue can build up that
 * makes others wait and moves nothing.  A disk takes more at once the deeper its
 * queue is, so there the rate alone counts and the window stays at 4 @chunk or
 * more. */
void window_init(struct window *w, uint64_t chunk, uint64_t max, bool is_line,
                 uint64_t now_ns);
/* Bytes that may be in flight now. */
uint64_t window_limit(const struct window *w);
/* Bytes that one request should have at most: a line that holds little is
 * shared with guests better by small ones. */
uint64_t window_piece(const struct window *w);
/* A request of so many bytes leaves; the mark belongs to its window_done(). */
struct window_mark window_sent(struct window *w, uint64_t bytes,
                               uint64_t now_ns);
void window_done(struct window *w, const struct window_mark *mark,
                 uint64_t bytes, uint64_t now_ns);
/* The sender had room and did not use it (speed limit, nothing found yet). */
void window_not_full(struct window *w);
