/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash simulator: a workload runs on the simulated machine, then every
 * legal state after a power loss is built from its log, opened by the product,
 * and compared with what the guest was promised.  See doc/testing.rst.
 *
 *   images.c   the images, and opening them
 *   world.c    the machine; running a sequence of operations on an image
 *   oracle.c   what each grain may hold at an instant (G1 to G3, G8)
 *   formats.c  what the records of a format are, and rules of its own;
 *   qcow2.c, overlay.c  of these two
 *   history.c  the log: what is durable when
 *   states.c   which states are tried
 *   verify.c   what is asked of a state; recovery, and a crash during it
 *   far.c      a base on a machine that may be away
 *   outside.c  what qemu-img says
 *   cover.c    counters of what happened
 *   journal.c  the job journal and new files, instead of an image
 *   checkpoint.c  jobs that go on after a crash
 *   mutate.c   barriers taken out
 *   crash.c    the program
 *
 * One process works on one loop at a time; its state is in `world`.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"
#include "sim/sim.h"

/* What a disk writes as a whole (A1). */
#define SECTOR 512u
/* What the guest's data is compared by: less than a sector, for writes that are
 * not aligned to one. */
#define GRAIN 256u
/* Who wrote a grain: operation i writes id_base + i + 1. */
#define ID_BASE_FILE UINT64_C(1000000)
#define ID_MID UINT64_C(1000001)
#define ID_BEFORE UINT64_C(1000002)
#define ID_LITTER UINT64_C(1000003)
#define ID_RECOVERY UINT64_C(500000)

struct history;
struct oracle;
struct state;
struct crash_config;

/* formats.c: what the simulator must know of a format to aim well. */
struct crash_format {
    const char *name;
    const struct node_driver *drv;
    bool is_raw; /* no header, no check */
    /* What is each record? NULL: all of it is data. */
    void (*classify)(struct history *h, const struct crash_config *c);
    /* Rules that a state must keep whatever it holds. NULL, or what is wrong. */
    char *(*check_rules)(const struct state *st);
    /* Break an image that holds data. */
    void (*damage)(struct sim_image *img, const struct crash_config *c,
                   bool worse);
    bool loses;       /* clusters 1 and 2 are lost by that */
    bool loses_table; /* and the second table, where it is worse */
    void (*set_autoclear)(struct sim_image *img);
    /* Compress @n clusters from @first of @path. */
    void (*compress)(struct sim_image *img, const char *path, uint64_t first,
                     unsigned n);
    /* Is it a whole image, by its first bytes? */
    bool (*is_whole)(const struct sim_image *img);
    /* So that it can be made once more. */
    void (*abandon)(struct sim_image *img);
    /* Leave there what a crash may have left, and nobody may see. */
    void (*litter)(struct sim_image *img, const struct crash_config *c);
    /* The raw file that it has become, or NULL. */
    const char *(*ended_as)(const struct sim_image *img);
};
extern const struct crash_format format_raw, format_qed, format_qcow2,
    format_cow;
/* Bits that are not known are cleared before anything else changes. */
char *rules_autoclear(const struct state *st, uint64_t top);

struct crash_config {
    const char *name;
    const struct crash_format *format;
    uint32_t cluster, table;  /* bytes; clusters, or 1 where it is fixed */
    uint64_t size, base_size; /* bytes */
    bool backing, mid;        /* over /base; with /mid in between */
    bool far;                 /* /base is on another machine: far.c */
    bool direct, throttle;    /* 4,096 byte blocks; a filter above */
    bool snapshots;           /* internal ones, too */
    bool shares;              /* the file system shares extents */
    bool bitmap;              /* qcow2: with a dirty bitmap, 512 bytes a bit */
    bool data_file, data_raw; /* qcow2: data is in /data, which is raw */
    const char *base_format;  /* NULL: raw; else compressed in part */
    const char *options;      /* more for its creation, JSON */
    unsigned fill;            /* clusters of written zeroes at 64 KiB */
    /* Instead of a guest on an image: journal.c and the like. */
    CO_FN_PTR void (*co_run)(const char *sequence, GRand *rnd,
                             struct oracle *o);
    CO_FN_PTR char *(*co_verify)(struct state *st);
    CO_FN_PTR void (*co_prepare)(void); /* make the files, unlogged */
    const char *alphabet;
    const char *const *sequences; /* NULL: all short ones of the alphabet */
};
extern const struct crash_config crash_configs[];
extern const unsigned crash_n_configs;

/* --- cover.c: did what is to be tested happen at all? --- */

#define COVERS(X) \
    X(UNALIGNED, "writes of parts of sectors") \
    X(FUA, "writes with FUA") \
    X(ZERO, "zeroes") \
    X(TRIM, "trims") \
    X(COPY_ON_READ, "reads that populated") \
    X(STREAM, "streams of the whole chain") \
    X(STREAM_TO, "streams down to a base") \
    X(COMMIT, "commits into the base") \
    X(MERGE, "disks that were merged into their base") \
    X(MOVE, "disks that went on on their base") \
    X(OVERLAY, "overlays that took the place of a disk") \
    X(STREAM_STEP, "last steps of a stream in steps") \
    X(CANCEL, "streams that were cancelled on the way") \
    X(RESIZE, "disks that grew") \
    X(SHRINK, "disks that shrank and grew back") \
    X(REOPEN, "images that became read-only and writable again") \
    X(COMPRESSED, "images with compressed clusters") \
    X(SNAPSHOT, "snapshots that were made") \
    X(PREPARED, "snapshots that were prepared") \
    X(FORGET, "snapshots that were deleted") \
    X(RESTORE, "snapshots that were gone back to") \
    X(BITMAP, "bitmaps that counted") \
    X(AMEND, "images that went back to version 2") \
    X(BACKUP, "backups by a bitmap") \
    X(AUTOCLEAR, "autoclear bits that were cleared") \
    X(FAR, "requests to a base that was away") \
    X(FAR_OP, "operations that failed for that") \
    X(FAR_STREAM, "streams that failed for that") \
    X(CREATE, "images that were made") \
    X(BESIDE, "operations that began while others ran") \
    X(GO_ON, "states that a guest went on with") \
    X(TWICE, "second crashes, while going on") \
    X(TORN, "torn writes of metadata") \
    X(EMPTY, "images that were emptied") \
    X(REPAIR, "images that were repaired") \
    X(JOURNAL, "journals read after a crash") \
    X(CHECKPOINT, "parts that a checkpoint said need not be copied") \
    X(RESUME, "jobs that went on with a checkpoint") \
    X(RESUME_CANCEL, "jobs with a checkpoint that were cancelled")
enum cover {
#define X(id, text) COVER_##id,
    COVERS(X)
#undef X
        COVER_COUNT
};
extern uint64_t cover_count[COVER_COUNT];
static inline void cover(enum cover c)
{
    cover_count[c]++;
}
/* Print the counters; false when one is zero that must not be. */
bool cover_report(const char *group);

/* --- world.c --- */

struct world {
    const struct crash_config *config;
    struct loop *loop;
    struct sim *sim;
    struct graph *graph;
    struct jobs *jobs;
    uint64_t job_done; /* instant of the COMPLETED event, 0 = none */
    bool job_cancelled;
    bool made_again; /* an image is made where one was */
    bool moved;      /* the base is the disk */
    bool over;       /* "/over" is, an overlay of the image */
    bool lost;       /* an image closed while its base was away (E4) */
    char *bad_read;  /* what a guest read that it may not (G7) */
};
extern struct world world;

/* Run @fn(@arg) as a coroutine on a new machine with @seed. */
void world_run(const struct crash_config *c, uint64_t seed,
               void (*fn)(void *arg), void *arg);
CO_FN void world_co_make_base(void);
CO_FN void world_co_make_image(void);
/* Write to the image and close it, then break it; or set an autoclear bit. */
CO_FN void world_co_damage(struct oracle *o, bool worse);
/* The same, and compress some of it. */
CO_FN void world_co_compress(struct oracle *o);
void world_set_autoclear(void);
/* Write to the image and close it, and leave it for another. */
CO_FN void world_co_abandon(void);
/* The image, writable with copy-on-read above it where there is a base, or
 * read-only without. */
CO_FN int world_co_open(bool writable, struct node **ret_n, GError **err);
/* Of "/over", without what it stands on; caller owns. */
json_t *world_over_options(const struct node *disk);
/* What the disk holds at the start. */
void world_init(struct oracle *o);
/* --- far.c --- */

/* How addresses of it begin. */
#define FAR_PREFIX "far:"
extern const struct node_driver far_driver;
/* It is there, and nothing has failed yet.  @seed: of what it does from now
 * on. */
void far_reset(uint64_t seed);
/* It goes away for some time: now, or @later, at one of the next requests. */
void far_leave(bool later);
/* Requests that have failed so far. */
uint64_t far_failed(void);

/* --- sequence.c --- */

/* Run @sequence (see the table of letters) and close; fills @o. */
CO_FN void world_co_run(const char *sequence, GRand *rnd, struct oracle *o);
/* What a guest does after a crash: write, flush, stream to the end. */
CO_FN char *world_co_recover(struct node *n, struct oracle *o);

/* --- oracle.c --- */

enum op_kind {
    OP_WRITE,
    OP_ZERO,
    OP_EMPTY,
    OP_SHRINK, /* to first, and back */
    OP_TRIM,
    OP_FLUSH,
    OP_READ,
    OP_STEP,
    OP_STREAM,
    OP_STREAM_BG,
    OP_STREAM_TO,
    OP_COMMIT,
    OP_MERGE,
    OP_MOVE,
    OP_OVERLAY,
    OP_BACKUP,
    OP_CANCEL,
    OP_RESIZE,
    OP_WAIT,
    OP_LEAVE, /* a far base goes away */
    OP_DRAIN,
    OP_REOPEN,
    OP_REPAIR,
    OP_AMEND,   /* to the other version */
    OP_PREPARE, /* what can be done of a snapshot beside requests */
    OP_SNAPSHOT,
    OP_FORGET,
    OP_RESTORE,
    OP_CLOSE,
    OP_RECORD,
    OP_ERASE,
    OP_REFUSE,
};
struct op {
    enum op_kind kind;
    bool fua;
    uint64_t first, n;     /* grains; resize: n = new size; wait: ms */
    uint64_t begun, ended; /* instants, 0 = not */
    int result;
    bool promised; /* oracle_set_instant() */
};

/* Places of the disk that hold data and are looked at: runs of grains, each
 * grain of which has a slot.  Guests write to the first two. */
struct window {
    uint64_t first, n;
};
#define N_WINDOWS 3
#define N_GUEST_WINDOWS 2
unsigned windows_get(const struct crash_config *c, struct window *w);
unsigned windows_slots(const struct crash_config *c);

struct oracle {
    const struct crash_config *config;
    struct op *ops;
    unsigned n_ops;
    uint64_t id_base;
    uint64_t *init;          /* per slot: id at the start */
    bool *loose;             /* per slot: anything until it is repaired */
    uint64_t init_size;      /* grains */
    uint64_t gone, mid_gone; /* instants from which on a file is gone */
    uint64_t moved, over;    /* from which on another file is the disk */
    uint64_t repaired;       /* the image was broken before; 0 = never */
    uint64_t created;        /* from which on the image must be there */
    uint64_t at;
    bool killed;      /* not power: the process died (M9) */
    GArray **by_slot; /* unsigned: operations that touch it */
};
void oracle_init(struct oracle *o, const struct crash_config *c);
void oracle_done(struct oracle *o);
struct op *oracle_add(struct oracle *o, const struct op *op);
void oracle_index(struct oracle *o);
/* Crash at @at: what was promised by then? */
void oracle_set_instant(struct oracle *o, uint64_t at, bool killed);
bool oracle_may_hold(const struct oracle *o, unsigned slot, uint64_t id);
/* Was the sector that holds @grain ever written in part? */
bool oracle_may_mix(const struct oracle *o, uint64_t grain);
/* May a read that began at @begun and ends now see @id? */
bool oracle_may_read(const struct oracle *o, uint64_t begun, uint64_t grain,
                     uint64_t id);
bool oracle_may_have_size(const struct oracle *o, uint64_t grains);
uint64_t oracle_hash(const struct oracle *o);
/* "base, 3, zeroes": for the story. */
char *oracle_describe(const struct oracle *o, unsigned slot);
char *op_describe(const struct op *op, unsigned i);
unsigned slot_of(const struct crash_config *c, uint64_t grain);

void stamp_put(uint8_t *buf, uint64_t id, uint64_t grain);
/* 0 for zeroes, an id, UINT64_MAX for anything else. */
uint64_t stamp_get(const uint8_t *buf, uint64_t grain);
uint64_t hash_words(uint64_t h, const void *buf, size_t len);

/* --- history.c --- */

enum rec_class {
    CLASS_DATA,
    CLASS_HEADER,
    CLASS_L1,
    CLASS_L2,
    CLASS_REFCOUNT,
    CLASS_NAME,
    CLASS_COUNT
};
struct rec {
    struct sim_record r; /* a copy, data included */
    uint64_t durable;    /* instant, UINT64_MAX = never */
    enum rec_class cls;
};
struct history {
    struct sim_image *start;
    struct rec *recs; /* in order of completion */
    unsigned n;
    uint64_t last;    /* latest instant */
    GArray *touched;  /* struct spot, sorted, unique */
    GArray *instants; /* uint64_t, sorted: where to crash */
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
    KEEP_NONE,
    KEEP_ALL,
    KEEP_SIZE, /* only the growth of the file */
    KEEP_ONE,
    KEEP_BUT_ONE,
    KEEP_HEAD,
    KEEP_TAIL,
    KEEP_RANDOM
};
struct choice {
    enum choice_kind kind;
    uint64_t arg; /* sector of the write, or a seed */
};
struct state {
    struct history *h;
    struct oracle *o;
    uint64_t at;
    unsigned *open;         /* records that are not durable at @at */
    struct choice *choices; /* one each */
    unsigned n;
    struct sim_image *img;
    uint64_t hash;
    const char *how; /* the rule that made it */
};

struct limits {
    unsigned per_instant; /* states at one instant at most */
    unsigned exhaustive;  /* 2^n up to this n */
    unsigned random;      /* random states per instant */
    unsigned instants;    /* at most; 0 = all */
};
struct tally {
    uint64_t built, distinct, deep, twice, outside, compared;
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
extern bool verify_outside; /* ask qemu-img about a sample */
char *state_story(const struct state *st, const char *bad);

/* --- bitmap.c --- */

struct bitmap_view {
    uint64_t cluster, dir, dir_bytes, table;
    uint32_t entries, flags;
};
/* The first bitmap of the image in @file; false: it has none that counts. */
bool model_bitmap_find(const struct sim_image *img, uint64_t file,
                       struct bitmap_view *b);
uint64_t bitmap_entry(const struct sim_image *img, uint64_t file,
                      const struct bitmap_view *b, uint32_t i);
/* NULL, or which change of the disk it misses. */
char *bitmap_check(const struct state *st, const uint64_t *ids,
                   uint64_t grains);

/* --- outside.c --- */

/* qemu-img's opinion of @st, which holds @ids. NULL: none, or a good one. */
char *outside_check(const struct state *st);
char *outside_compare(const struct state *st, const uint64_t *ids,
                      uint64_t grains);

/* --- journal.c, files.c --- */

CO_FN void journal_co_play(const char *sequence, GRand *rnd, struct oracle *o);
CO_FN char *journal_co_verify(struct state *st);

/* --- checkpoint.c --- */

CO_FN void checkpoint_co_prepare(void);
CO_FN void checkpoint_co_play(const char *sequence, GRand *rnd,
                              struct oracle *o);
CO_FN char *checkpoint_co_verify(struct state *st);
extern const char *const checkpoint_mirrors[], *const checkpoint_commits[];
CO_FN void file_co_play(const char *sequence, GRand *rnd, struct oracle *o);
CO_FN char *file_co_verify(struct state *st);

/* --- crash.c --- */
/* ACE: short sequences, all of them; then longer ones by seed. */
struct suite {
    const char *name;
    unsigned length; /* of the exhaustive sequences */
    unsigned stride; /* every so many of the longest ones */
    unsigned pairs;  /* every so many of two, when longer ones are */
    unsigned random; /* random sequences per image */
    struct limits limits, random_limits;
};
/* The story of the first state that breaks a promise, or NULL. */
char *sequence_try(const struct crash_config *c, const char *sequence,
                   guint32 seed, const struct limits *limits);
char *short_try(const struct crash_config *c, const struct suite *s,
                guint32 seed);
char *random_try(const struct crash_config *c, const struct suite *s,
                 guint32 seed);
const struct crash_config *image_find(const char *name);
/* Replays and mutants look at everything a short sequence gives. */
extern const struct limits limits_full;
/* The line that replays what runs now. */
extern char replay[600];

/* --- mutate.c --- */

/* Take barrier @name, or "all" in turn, out; false when one is not missed. */
bool mutants_run(const char *name, guint32 seed);
/* Do without barrier @name from here on; false: there is none. */
bool barrier_take_out(const char *name);
