/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A chain of RAM disks for the populate tests: top over mid (optional) over
 * base, with latches and faults on their operations, and guest requests that run
 * as coroutines of their own.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "coro.h"
#include "graph/populate.h"
#include "ram.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define CLUSTER (64 * KIB)

struct graph;
struct node;

/* What happens to the operations of one disk. */
struct faults {
    struct latch latch[RAM_OPS];  /* passed before the effect */
    unsigned latched[RAM_OPS];    /* only so many more; 0: all while shut */
    int fail[RAM_OPS];            /* -errno of the next ... */
    unsigned fail_times[RAM_OPS]; /* ... so many operations */
};

struct env {
    struct graph *g;
    struct ram_disk *d_top, *d_mid, *d_base;
    struct node *top, *mid, *base;
    struct faults f_top, f_mid, f_base;
    uint8_t *expect; /* what a reader of top sees; top's size */
};

/* Make the disks; base holds data everywhere, mid nothing. @mid_size 0: no
 * mid. The test changes them, then opens. */
CO_FN void env_co_init(struct env *e, uint64_t top_size, uint64_t mid_size,
                       uint64_t base_size);
CO_FN void env_co_open(struct env *e);
/* As above, top without write permission. */
CO_FN void env_co_open_rdonly(struct env *e);
CO_FN void env_co_close(struct env *e);
/* All of top reads as expected, and nothing is left in flight. */
CO_FN void env_co_verify(struct env *e);

enum op_kind { OP_READ, OP_COR, OP_WRITE, OP_ZERO, OP_DISCARD, OP_POPULATE };
struct op {
    struct env *e;
    enum op_kind kind;
    struct node *base; /* of OP_COR, OP_POPULATE */
    uint64_t off, len;
    uint8_t *buf; /* read or written; @len */
    bool done;
    int result;
    struct populate_result populated;
    struct co_latch latch;
};
/* Start a guest's request; a write holds ram_fill_buf(@seed) and updates what
 * is expected at once, as does OP_ZERO. */
struct op *op_start(struct env *e, enum op_kind kind, uint64_t off,
                    uint64_t len, unsigned seed);
/* Wait for it, free it, return its result. A read that succeeded is compared
 * with what is expected now. */
CO_FN int op_co_finish(struct op *op);
/* Start and finish. */
CO_FN int env_co_do(struct env *e, enum op_kind kind, uint64_t off,
                    uint64_t len, unsigned seed);
