/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small world for tests of graph/: drivers in memory and a loop to run on.
 *
 *   fake   a format with clusters and a backing file. It keeps the contract of
 *          driver.h and stops the test when the dispatcher does not. With
 *          "file" it reads its backing name from a header there.
 *   ram    storage with settable limits
 *   file   a real file, read only
 *   pass   a filter that leaves out everything
 */
#pragma once
#include <glib.h>
#include <string.h>
#include "base/err.h"
#include "graph/graph-int.h"
#include "loop/co.h"
#include "loop/loop.h"

enum fake_map { FAKE_NONE, FAKE_DATA, FAKE_ZERO };

struct fake_state {
    uint32_t cluster;
    uint8_t *map;  /* enum fake_map of each cluster */
    uint8_t *busy; /* an allocating write is inside */
    uint8_t *bytes;
    char *backing, *format; /* of the header */
    /* Hooks. */
    bool hold_reads, hold_writes, hold_quiesce;
    struct co_queue held;
    unsigned held_count;
    uint64_t latency_ns;
    bool no_zero;
    int fail_flush, fail_reads, fail_writes;
    bool fail_perms;
    /* What came in. */
    unsigned reads, writes, zeroes, discards, flushes, statuses;
    uint64_t last_write_off, last_write_len;
    unsigned quiesced;
};

struct ram_state {
    uint8_t *bytes;
    uint64_t alloc;
    uint32_t align, mem_align;
    uint64_t max;
    unsigned reads, writes, flushes;
    int fail_flush;
    unsigned perm, shared;
    bool refuse_write;
    /* A flush or a reopen waits until ram_release(). */
    bool hold_flush, hold_reopen, is_held;
    struct co_queue held;
};

extern const struct node_driver fake_driver, ram_driver, test_file_driver,
    passthrough_driver, test_raw_driver;
extern const struct node_driver *const fake_drivers[];

/* Called by "file" when it is about to open @name. */
extern void (*test_file_hook)(const char *name);

/* Run @fn(@arg) as a coroutine of a new loop until nothing runs any more. */
void fake_run(void (*fn)(void *arg), void *arg);
/* In a test's coroutine. */
struct graph *fake_graph(void);
CO_FN struct node *fake_co_open(struct graph *g, const char *json_format, ...)
    PRINTF_LIKE(2, 3);
/* The error's text; fails the test when it opens. Owned. */
CO_FN char *fake_co_open_fails(struct graph *g, const char *json_format, ...)
    PRINTF_LIKE(2, 3);
struct fake_state *fake_of(struct node *n);
struct ram_state *ram_of(struct node *n);
/* Make clusters data with bytes of @fill. */
void fake_fill(struct node *n, uint64_t off, uint64_t len, int fill);
void fake_release(struct node *n);
void ram_release(struct node *n);

CO_FN void fake_co_write(struct backend *u, uint64_t off, uint64_t len,
                         int fill);
/* All of [@off, @off+@len) reads as @fill. */
CO_FN void fake_co_expect(struct backend *u, uint64_t off, uint64_t len,
                          int fill);
CO_FN struct backend *fake_co_backend(struct node *n, unsigned perm,
                                      unsigned shared);
/* Let others run until @flag or a second has passed. */
CO_FN void fake_co_wait(const bool *flag);
