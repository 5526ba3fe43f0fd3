/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a blockdev-reopen is going to do: of each node that is named its new
 * options, of those that were opened as a part of it, too, and which edges
 * move.  Nothing is done to make a plan but to look.
 */
#pragma once
#include "graph/graph-int.h"
#include "graph/model/model.h"

struct reopen_change {
    struct node *n;       /* a reference */
    json_t *options;      /* the whole set, owned */
    bool kept;            /* it is the old one; only inherited flags change */
    unsigned flags;       /* from now on */
    bool explicit_rdonly; /* read-only=on is among the options */
    bool old_explicit_rdonly;
    bool swaps_file; /* "file" leads to another node */
    int discard, detect_zeroes;
};

struct reopen {
    struct graph *graph;
    GPtrArray *changes;   /* struct reopen_change; parents before children */
    GArray *moves;        /* struct edge_move */
    GPtrArray *drained;   /* nodes; references */
    GArray *log;          /* struct reopened */
    unsigned log_at_move; /* how long it was when the edges moved */
    bool moved;
};

struct reopen *reopen_new(struct graph *g);
CO_FN void reopen_co_free(struct reopen *r);
/* @list: of option sets with "node-name". An earlier plan is forgotten first;
 * nothing yields after that. */
CO_FN int reopen_co_plan(struct reopen *r, const json_t *list, GError **err);
