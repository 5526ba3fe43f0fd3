/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deterministic simulation of the whole daemon.
 *
 *   main.c    seeds: each in a process of its own; replay
 *   world.c   one seed: the machine, the images, phases, the end
 *   config.c  what a seed switches on
 *   guest.c   NBD clients: what they ask; guest-wire.c: how they speak
 *   manager.c the QMP client
 *   faults.c  errors, short transfers, slow and hanging storage
 *   model.c   what every sector may hold
 *   copies.c  mirrors, commits and backups, and what they must hold
 *   snapshot.c internal snapshots, and what they must hold
 *   power.c   states that power cuts leave
 *   story.c   what happened, its hash, failures
 *
 * Everything of the product is real but the engine under its loop and the
 * sockets.  All runs on one thread and one loop; every choice comes from the
 * seed, so a seed is a replay.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "sim/sim.h"

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)

enum { SECTOR = 512 };

/* --- random numbers: splitmix64 --- */

struct rng {
    uint64_t state;
};
static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
/* 0 .. @n - 1 */
static inline uint32_t rng_below(struct rng *r, uint64_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}
static inline bool rng_percent(struct rng *r, unsigned percent)
{
    return rng_below(r, 100) < percent;
}

/* --- model.c --- */

struct model;
/* A change that was asked for and not answered yet. */
struct change {
    uint64_t id;          /* of the pattern; 0: zeroes */
    bool trim;            /* may leave what was there */
    uint64_t off, len;    /* bytes */
    uint64_t begun, lost; /* instants; the model's */
};

/* @sectors of zeroes. */
struct model *model_new(uint64_t sectors);
void model_free(struct model *m);
/* The bytes that pattern @id puts into sector number @sector. */
void model_pattern(uint64_t id, uint64_t sector, uint8_t out[SECTOR]);
/* Before the run: sectors hold @id. */
void model_set(struct model *m, uint64_t first, uint64_t n, uint64_t id);
/* New sectors are zero. */
void model_grow(struct model *m, uint64_t sectors);
uint64_t model_sectors(const struct model *m);
/* Instants order what clients send and receive. */
uint64_t model_now(const struct model *m);
/* Can the range bear one more change in flight? */
bool model_has_room(const struct model *m, uint64_t off, uint64_t len);
void model_begin(struct model *m, struct change *c);
/* @ok: it took place (a trim may have); else it may have, and never will.
 * @durable: if it did, it survives a crash. */
void model_end(struct model *m, struct change *c, bool ok, bool durable);
/* Whoever asked for @c is gone: what is begun from now on stays on top of it
 * where they overlap (G9). */
void model_lost(struct model *m, struct change *c);
/* A flush that was sent at instant @since has succeeded. */
void model_flushed(struct model *m, uint64_t since);
/* Could a read that was sent at @since have returned @data? False: *@ret_why
 * says what is wrong with it (owned). A sector that nobody changed meanwhile
 * is fixed to what was read. */
bool model_check_read(struct model *m, uint64_t since, uint64_t off,
                      const uint8_t *data, uint64_t len, char **ret_why);
/* Could every byte of the range have been zero at some time from @since? */
bool model_check_zero(const struct model *m, uint64_t since, uint64_t off,
                      uint64_t len, char **ret_why);
/* What a crash now may leave. */
struct model_cut;
struct model_cut *model_cut_new(const struct model *m);
/* What the disk has shown at some time between @since and now. */
struct model_cut *model_view_new(const struct model *m, uint64_t since);
void model_cut_free(struct model_cut *cut);
uint64_t model_cut_sectors(const struct model_cut *cut);
/* @data is the whole of sector @sector. */
bool model_cut_check(const struct model_cut *cut, uint64_t sector,
                     const uint8_t *data, char **ret_why);

/* --- config.c --- */

enum guest_op {
    G_READ,
    G_WRITE,
    G_ZERO,
    G_TRIM,
    G_FLUSH,
    G_CACHE,
    G_STATUS,
    G_OPS
};
enum fault_kind {
    F_BASE_READ,
    F_BASE_HANG,
    F_BASE_SLOW,
    F_TOP_READ,
    F_TOP_WRITE,
    F_TOP_NOSPACE,
    F_TOP_SYNC,
    F_SHORT,
    F_COPY_WRITE, /* from here on: of what copies are written to */
    F_COPY_NOSPACE,
    F_COPY_SLOW,
    F_KINDS
};
enum layer { L_TOP, L_MID, L_BASE, L_COUNT };
enum image_format { IMG_RAW, IMG_QED, IMG_QCOW2, IMG_COW };

struct config {
    /* images */
    enum image_format format[L_COUNT];
    bool v2[L_COUNT], lazy[L_COUNT], extended[L_COUNT]; /* of qcow2 */
    bool compressed; /* some of the base is compressed */
    bool view;       /* a raw node over the top image */
    bool early;      /* partial writes do not wait for their base */
    unsigned cache;  /* blocks of a cache of the base; 0: none */
    bool has_mid, is_drive, copy_on_read, stream_at_start, throttle,
        writethrough, discard, detect_zeroes, direct;
    uint64_t size[L_COUNT]; /* bytes */
    uint32_t cluster[L_COUNT];
    unsigned written[L_COUNT]; /* percent */
    /* guests */
    unsigned guests, ops, window, weight[G_OPS];
    unsigned unaligned, fua, hot, leave; /* percent */
    /* the manager */
    unsigned commands, jobs, resize, exports, snapshots, copies; /* percent but
                                                                  * the first */
    bool slow_speed;
    bool crowd; /* more in flight than is allowed */
    /* trouble */
    bool fault[F_KINDS];
    unsigned fault_gap_ms;
    unsigned cuts;
    unsigned shuffle; /* percent; coroutines out of order */
    bool journal;
};
void config_make(struct config *c, uint64_t seed);
char *config_describe(const struct config *c);
/* "raw", "qed", "qcow2", "cow" */
const char *config_driver(const struct config *c, enum layer l);
/* The file that users name as the disk. */
const char *config_top_path(const struct config *c);

/* --- world.c --- */

/* Which file is the disk, and what is in it? */
struct disk_file {
    char path[16], driver[8];
};
struct graph;
struct node;

struct world {
    uint64_t seed;
    struct rng rng;
    struct config cfg;
    struct loop *loop;
    struct sim *sim;
    struct control *control;
    struct nbd_server *server;
    struct model *model;
    const char *root; /* node or device that is exported */
    uint64_t last_id; /* of patterns */
    unsigned phase;   /* 1: trouble, 2: none any more */
    bool trouble_ends;
    bool broken;             /* a flush of the image failed: G6 */
    unsigned asked;          /* requests that guests sent so far */
    struct co_latch busy;    /* guests and manager */
    struct co_latch trouble; /* faults and cuts */
    GPtrArray *guests;       /* struct guest */
    GPtrArray *cuts;         /* struct cut */
    struct model_cut *final; /* what the image must hold at the end */
    struct disk_file final_disk;
    struct sim_image *start; /* the files when the log began */
    uint64_t command_since;  /* when the manager's command began; 0: none */
    char *command;
    bool ended; /* the watchdog may go */
    struct manager *manager;
    bool managed;         /* it has given its commands */
    GPtrArray *snapshots; /* struct snapshot: those that must exist */
    GPtrArray *copies;    /* struct copy */
    bool breaks_guests;   /* a target that fails makes guests' writes fail */
    bool committed;       /* lower images may have changed */
};

/* Run @seed to its end. Returns the hash of its trace; a failure prints and
 * ends the process. */
uint64_t world_run(uint64_t seed);
/* Export the disk as e1, unless it is. */
CO_FN void world_co_export(struct world *w);
/* A pattern that no one else writes. */
uint64_t world_new_id(struct world *w);

/* --- guest.c --- */

struct guest;
/* Begin guest @i; counts in w->busy. */
void guest_start(struct world *w, unsigned i);
/* A guest that flushes, and reads all of the disk unless @flush_only. Returns 0
 * or minus the error of the flush (NBD's number). */
CO_FN int guest_co_sweep(struct world *w, bool flush_only);
/* Requests of connections that the server has let go end now, unknown. */
void guests_collect(struct world *w);
/* The oldest request under way: its age in ns and what it is (owned). */
uint64_t guests_oldest(struct world *w, char **ret_text);
void guests_free(struct world *w);

/* --- manager.c --- */

/* Connect; then give the commands of the seed, counting in w->busy. */
CO_FN void manager_co_connect(struct world *w);
void manager_start(struct world *w);
/* Bring all jobs to their end. */
CO_FN void manager_co_settle(struct world *w);
CO_FN void manager_co_disconnect(struct world *w);
/* Run a command; @args is taken over. Owned answer. */
CO_FN json_t *manager_co_command(struct world *w, const char *name,
                                 json_t *args);

/* --- faults.c --- */

void faults_start(struct world *w);
/* No more of it; waits for what was hit and is still under way. */
CO_FN void faults_co_stop(struct world *w);
/* Has storage under the top image refused a change or a sync? */
bool faults_hit_top(struct world *w);

/* --- snapshot.c --- */

struct snapshot;
struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unref(struct snapshot *s);
/* Make one, or delete one that exists, by a command of the manager's. */
CO_FN void snapshots_co_ask(struct world *w);
/* Open the image in @g and compare each of @snapshots with what the disk was. */
CO_FN void snapshots_co_verify(struct world *w, struct graph *g,
                               const GPtrArray *snapshots, const char *what);
GPtrArray *snapshots_copy(struct world *w);

/* --- copies.c --- */

/* Files "/copyN.img" are there for so many. */
enum { COPIES = 4 };
GPtrArray *copies_new(void);
/* Start one, or do something to one, by a command of the manager's. */
CO_FN void copies_co_ask(struct world *w);
/* Is there one that has not ended? */
bool copies_run(const struct world *w);
/* An event says that it is ready. */
void copies_ready(struct world *w, const char *id);
/* The event says that job @id has ended: is the target what it has to be? */
void copies_ended(struct world *w, const char *id, bool ok);
/* The image that is the disk now, or NULL. */
struct node *copies_disk(struct world *w);
/* Is it another than at the start? */
bool copies_moved(struct world *w);

/* --- power.c --- */

void disk_file_get(struct world *w, struct disk_file *ret);

/* Remember this instant as one where power may be cut. */
void power_mark(struct world *w);
/* Does the daemon use the top image without any base? */
bool power_is_independent(struct world *w);
/* Build and check the states that the marked instants may leave. */
void power_check(struct world *w);
/* Open the chain of w's images from @img, check it, compare every sector.
 * @independent: it must not need a base. @snapshots are there, too. */
void power_verify(struct world *w, const struct sim_image *img,
                  const struct model_cut *cut, const struct disk_file *disk,
                  bool independent, const GPtrArray *snapshots,
                  const char *what);

/* --- story.c --- */

extern gboolean story_loud;
void story_begin(struct world *w);
uint64_t story_end(struct world *w);
/* One line of what happens. */
void story(struct world *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Something that must not be; does not return. */
void fail(struct world *w, const char *fmt, ...) PRINTF_LIKE(2, 3)
    __attribute__((noreturn));
