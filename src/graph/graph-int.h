/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a graph, a node and a backend are inside of graph/: the parts that
 * nobody else sees.
 *
 * Everything belongs to the graph's loop.  Changes of the graph (edges,
 * permissions) happen under graph_co_lock(), which the same coroutine may take
 * again; requests never take it.  A change that requests could notice is made
 * while the nodes are drained.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/ranges.h"
#include "graph/track.h"
#include "loop/co.h"
#include "loop/loop.h"

struct chain_map;
struct drain;
struct memory_budget;
struct memory_wake;
struct names;
struct registry;
struct storage_control;

/* Guests' requests: graph/demand.h. */
struct demands {
    struct demand **list; /* by number, from 1 */
    uint32_t list_len, free;
};

struct graph {
    struct loop *loop;
    const struct node_driver *const *drivers;
    GHashTable *by_name; /* name -> node, borrowed */
    GPtrArray *nodes;    /* in order of opening */
    GPtrArray *devices;
    struct backend *backends;
    struct drain *drains; /* latest first */
    struct co_mutex lock;
    struct co *lock_owner;
    unsigned lock_depth;
    unsigned next_auto_name;
    uint64_t last_serial;
    struct memory_budget *memory; /* model/memory.c */
    struct memory_wake *memory_wake;
    struct loop_timer memory_timer;
    unsigned memory_seconds; /* it was armed for */
    GPtrArray *controls;     /* struct storage_control, borrowed */
    struct demands demands;
    struct co_latch detached; /* copies that nobody waits for: copy/before.c */
    bool early_always; /* keep writes also above a base that is near: tests */
    unsigned max_depth;
    unsigned noting;      /* nodes that note reads */
    unsigned debuggers;   /* nodes that hear debug events */
    uint64_t walk;        /* number of the latest walk: model/walk.c */
    unsigned chain_pages; /* of all chain maps */
    enum backing_policy policy;
    char *beneath;
    void (*event_fn)(const char *name, json_t *data, void *arg);
    void *event_arg;
    struct registry *registry;
    struct names *names;              /* shared with other graphs; or NULL */
    void *names_owner;                /* by which they know this one */
    void (*notice)(const char *text); /* NULL: nobody listens */
    char *last_notice;
};

/* What node_co_open_backing() asked for, until it is opened. */
struct backing_request {
    char *header_name; /* or NULL: @options say it all */
    char *format;      /* of the header, or NULL */
    json_t *options;   /* object, node name, or NULL */
};

struct track_set {
    struct tracked *writes, *allocs; /* roots */
    uint64_t next_seq;
    uint32_t rand;
    unsigned reads;
};

struct drain {
    struct node *node;
    GPtrArray *backends; /* stopped; borrowed */
    GPtrArray *quiet;    /* nodes whose driver is quiesced; borrowed */
    bool begun;          /* all is quiet: it may be ended */
    struct co *owner;    /* who began it; compared, nothing else */
    struct drain *next;
};

enum detect_zeroes { DETECT_OFF, DETECT_ON, DETECT_UNMAP };

struct node_int {
    struct node_limits limits;
    uint32_t mem_align;   /* that buffers must have here */
    bool tracked;         /* writes are tracked */
    bool growable;        /* writes past the end extend it */
    bool end_held;        /* write_co_tail() is at work */
    bool no_discard;      /* discard=ignore */
    bool open;            /* co_open succeeded */
    bool ready;           /* its chain, too: names find it */
    bool explicit_rdonly; /* read-only=on was given */
    bool ends_writing;    /* turns read-only: no writer may come */
    uint64_t walk;        /* the latest that has seen it */
    uint64_t serial;      /* of no other node of this graph */
    uint64_t part_of; /* whose options opened it, or whose header; 0: none */
    char *followed;   /* the name in a header that led here, or NULL */
    enum detect_zeroes detect_zeroes;
    struct edge *file, *backing;
    struct chain_map *chain_map; /* its own, or NULL: model/chain-map.h */
    GSList *chain_maps;          /* those that it is in */
    struct track_set track;
    GQueue far_reads;          /* io/join.c */
    struct early_table *early; /* NULL: nothing was kept; model/early.c */
    GSList *blockers;
    unsigned notes_reads; /* reads are in @reads, while it is > 0 */
    struct ranges reads;
    GPtrArray *bitmaps;       /* struct bitmap; NULL: none, in memory */
    GHashTable *busy_bitmaps; /* name -> how often; NULL: none */
    /* Held by who changes the image as a whole: its size, snapshots, bitmaps, a
     * repair, its kind. Taken before the drain. */
    struct co_mutex changing;
    unsigned quiesced; /* drains that hold the driver quiet */
    bool quieting;     /* the first of them is still asking it */
    struct co_queue quieted;
    struct storage_control *control; /* of storage: graph/background.h */
    uint64_t write_gen;              /* completed changes ... */
    uint64_t flushed_gen;            /* ... and how many a flush has covered */
    int failure;                     /* 0, or what every flush gets (G6) */
    uint64_t write_highest;
    uint64_t write_threshold; /* 0: none; io/threshold.c */
    bool corruption_told;     /* one that is not fatal was */
    unsigned perm, shared;    /* cumulative, as the driver last accepted */
    struct backing_request *pending;
    /* Storage that is open in place of an image that is gone: the format of
     * that image and its name. */
    const struct node_driver *ended;
    char *ended_name;
};

struct backend {
    char *name;
    struct graph *graph;
    struct edge *edge;
    const struct backend_ops *ops;
    void *arg;
    unsigned quiesced;
    unsigned n_drain_waiters;
    bool ending; /* requests that are let go are not made again */
    struct co_queue drain_waiters; /* waiting for the drain to end */
    struct co_queue idle;          /* waiting for in_flight == 0 */
    struct backend_stats stats;
    struct backend *next;
};

static inline uint64_t round_down(uint64_t v, uint64_t to)
{
    return v - v % to;
}

static inline uint64_t round_up(uint64_t v, uint64_t to)
{
    return round_down(v + to - 1, to);
}
