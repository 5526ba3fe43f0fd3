/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash simulator: a workload runs on the simulated machine, then every
 * legal state after a power loss is built from its log, opened by the product,
 * and compared with what the guest was promised.  See doc/testing.rst.
 *
 *   world.c    images, opening them, running a sequence of operations
 *   oracle.c   what each sector may hold at an instant (G1 to G3, G8)
 *   history.c  the log: what is durable when, what each write is
 *   states.c   which states are tried
 *   verify.c   what is asked of a state; recovery, and a crash during it
 *   crash-qed.c  the program
 *
 * One process works on one loop at a time; its state is in `world`.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"
#include "loop/sim.h"

#define SECTOR 512u
/* Who wrote a sector: operation i writes id_base + i + 1. */
#define ID_BASE_FILE UINT64_C(1000000)
#define ID_RECOVERY  UINT64_C(500000)

struct crash_config {
    const char *name;
    bool raw;                   /* raw over file, else QED over file */
    bool backing;
    uint32_t cluster, table;
    uint64_t size, base_size;   /* bytes */
    bool shares;                /* the file system shares extents */
};
extern const struct crash_config crash_configs[];
extern const unsigned crash_n_configs;

/* --- world.c --- */

struct oracle;

struct world {
    const struct crash_config *config;
    struct loop *loop;
    struct sim *sim;
    struct graph *graph;
    struct jobs *jobs;
    uint64_t job_done;          /* instant of the COMPLETED event, 0 = none */
};
extern struct world world;

/* Run @fn(@arg) as a coroutine on a new machine with @seed. */
void world_run(const struct crash_config *c, uint64_t seed,
               void (*fn)(void *arg), void *arg);
CO_FN void world_co_make_base(void);
CO_FN void world_co_make_image(void);
/* The image, writable with copy-on-read above it where there is a base, or
 * read-only without. */
CO_FN int world_co_open(bool writable, struct node **ret_n, GError **err);
/* Run @sequence (see the table in world.c) and close; fills @o. */
CO_FN void world_co_run(const char *sequence, GRand *rnd, struct oracle *o);
/* What a guest does after a crash: write, flush, stream to the end. */
CO_FN char *world_co_recover(struct node *n, struct oracle *o);

/* --- oracle.c --- */

enum op_kind {
    OP_WRITE, OP_ZERO, OP_TRIM, OP_FLUSH, OP_READ, OP_STEP, OP_STREAM,
    OP_STREAM_BG, OP_CANCEL, OP_RESIZE, OP_WAIT,
};
struct op {
    enum op_kind kind;
    bool fua;
    uint64_t first, n;          /* sectors; resize: n = new size; wait: ms */
    uint64_t begun, ended;      /* instants, 0 = not */
    int result;
    bool promised;              /* oracle_set_instant() */
};

/* Places of the disk that are written and looked at: runs of sectors, each
 * sector of which has a slot. */
struct window {
    uint64_t first, n;
};
#define N_WINDOWS 2
unsigned windows_get(const struct crash_config *c, struct window *w);
unsigned windows_slots(const struct crash_config *c);

struct oracle {
    const struct crash_config *config;
    struct op *ops;
    unsigned n_ops;
    uint64_t id_base;
    uint64_t *init;             /* per slot: id at the start */
    uint64_t init_size;         /* sectors */
    uint64_t gone;              /* instant from which on the base is gone */
    uint64_t created;           /* from which on the image must be there */
    uint64_t at;
    GArray **by_slot;           /* unsigned: operations that touch it */
};
void oracle_init(struct oracle *o, const struct crash_config *c);
void oracle_done(struct oracle *o);
struct op *oracle_add(struct oracle *o, const struct op *op);
void oracle_index(struct oracle *o);
/* Crash at @at: what was promised by then? */
void oracle_set_instant(struct oracle *o, uint64_t at);
bool oracle_may_hold(const struct oracle *o, unsigned slot, uint64_t id);
/* May a read that began at @begun and ends now see @id? */
bool oracle_may_read(const struct oracle *o, uint64_t begun, uint64_t sector,
                     uint64_t id);
bool oracle_may_have_size(const struct oracle *o, uint64_t sectors);
uint64_t oracle_hash(const struct oracle *o);
/* "base, 3, zeroes": for the story. */
char *oracle_describe(const struct oracle *o, unsigned slot);
char *op_describe(const struct op *op, unsigned i);
unsigned slot_of(const struct crash_config *c, uint64_t sector);

void stamp_put(uint8_t *buf, uint64_t id, uint64_t sector);
/* 0 for zeroes, an id, UINT64_MAX for anything else. */
uint64_t stamp_get(const uint8_t *buf, uint64_t sector);
uint64_t hash_words(uint64_t h, const void *buf, size_t len);

/* --- history.c --- */

enum rec_class { CLASS_DATA, CLASS_HEADER, CLASS_L1, CLASS_L2, CLASS_NAME,
                 CLASS_COUNT };
struct rec {
    struct sim_record r;        /* a copy, data included */
    uint64_t durable;           /* instant, UINT64_MAX = never */
    enum rec_class cls;
};
struct history {
    struct sim_image *start;
    struct rec *recs;           /* in order of completion */
    unsigned n;
    uint64_t last;              /* latest instant */
    GArray *touched;            /* struct spot, sorted, unique */
    GArray *instants;           /* uint64_t, sorted: where to crash */
};
struct spot {
    uint64_t file, sector;
};
/* Take over @start; the log since it was made. */
void history_take(struct history *h, struct sim *s, struct sim_image *start,
                  const struct crash_config *c);
void history_done(struct history *h);
uint64_t history_hash(const struct history *h, const struct sim_image *img);

/* --- states.c --- */

enum choice_kind {
    KEEP_NONE, KEEP_ALL, KEEP_SIZE,     /* only the growth of the file */
    KEEP_ONE, KEEP_BUT_ONE, KEEP_HEAD, KEEP_TAIL, KEEP_RANDOM
};
struct choice {
    enum choice_kind kind;
    uint64_t arg;               /* sector of the write, or a seed */
};
struct state {
    struct history *h;
    struct oracle *o;
    uint64_t at;
    unsigned *open;             /* records that are not durable at @at */
    struct choice *choices;     /* one each */
    unsigned n;
    struct sim_image *img;
    uint64_t hash;
    const char *how;            /* the rule that made it */
};

struct limits {
    unsigned per_instant;       /* states at one instant at most */
    unsigned exhaustive;        /* 2^n up to this n */
    unsigned random;            /* random states per instant */
    unsigned instants;          /* at most; 0 = all */
};
struct tally {
    uint64_t built, distinct, deep, twice, outside;
};
extern struct tally tally;
/* Hashes of all states tried. */
extern GHashTable *states_seen;

/* Try states of @h. NULL, or the story of the first that breaks a promise. */
CO_FN char *states_co_try(struct history *h, struct oracle *o,
                          const struct limits *lim, GRand *rnd, unsigned depth);

/* --- verify.c --- */

/* NULL, or what is wrong with @st. @depth 0: may crash again. */
CO_FN char *state_co_verify(struct state *st, unsigned depth);
extern bool verify_outside;     /* ask qemu-img about a sample */
char *state_story(const struct state *st, const char *bad);

/* --- crash-qed.c --- */
/* ACE: short sequences, all of them; then longer ones by seed. */
struct suite {
    const char *name;
    unsigned length;            /* of the exhaustive sequences */
    unsigned stride;            /* every so many of the longest ones */
    unsigned random;            /* random sequences per image */
    struct limits limits, random_limits;
};
