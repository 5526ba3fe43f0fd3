/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How many bytes a copy keeps in flight.  Pure: the caller brings the clock
 * and tells what was sent and what came back.
 *
 *   FILL    every byte that comes back admits one more, so the window doubles
 *           each round trip; ends when the rate stops growing
 *   HOLD    keep the window, know its rate
 *   UP      a quarter more for one round: kept if the rate grew with it
 *   DOWN    a fifth less for one round: kept if the rate did not fall; asked
 *           more and more seldom while it did
 *
 *   FILL -> HOLD       fill_round(): the rate grows no more
 *   HOLD -> UP, DOWN   hold_round(): after some rounds, in turn
 *   UP, DOWN -> HOLD   probe_round(): the new size stays, or the old one is back
 *
 * A round ends when something that was sent after it began comes back; the
 * first round after a change only lets the change take hold.  Rounds in which
 * something else than the window held the sender back teach nothing.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum window_phase { WINDOW_FILL, WINDOW_HOLD, WINDOW_UP, WINDOW_DOWN };

struct window {
    uint64_t chunk, max; /* bytes */
    uint64_t size;       /* bytes that may be in flight */
    enum window_phase phase;

    uint64_t delivered;  /* bytes that came back, all time */
    uint64_t round_mark; /* the round ends with a mark from here on */
    uint64_t round_bytes;
    uint64_t round_start_ns;
    uint64_t round_size; /* size when the round began */
    uint64_t prev_size;  /* and the round before */
    bool round_limited;
    bool settling;

    double best_rate; /* FILL: bytes/ns and what it took */
    uint64_t best_size;
    unsigned plateau;
    double hold_rate;
    unsigned hold_rounds;
    bool next_down;
    unsigned down_backoff; /* turns of DOWN to leave out after a failure */
    unsigned down_skip;    /* of which are still to go */
};

void window_init(struct window *w, uint64_t chunk, uint64_t max,
                 uint64_t now_ns);
/* Bytes that may be in flight now. */
uint64_t window_limit(const struct window *w);
/* A request leaves; the mark belongs to its window_done(). */
uint64_t window_sent(const struct window *w);
void window_done(struct window *w, uint64_t mark, uint64_t bytes,
                 uint64_t now_ns);
/* The sender had room and did not use it (speed limit, nothing found yet). */
void window_not_full(struct window *w);
