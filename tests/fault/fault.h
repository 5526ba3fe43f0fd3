/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fault sweeps: the k-th call to storage fails, for every k of a scenario.
 *
 *   fault.c      the sweep: which calls fail and how; what must hold after it
 *   rig.c        one run: the simulated machine, the daemon's control plane,
 *                commands, the guest
 *   memory.c     allocations that fail, like calls
 *   forget.c     storage that fails a flush and forgets it
 *   header.c     what the header in the file says
 *   disk.c       what every sector may hold
 *   images.c     the kinds of images
 *   scenarios.c  what is done to them
 *
 * Everything of the product is real but the engine under its loop.  Afterwards
 * nothing is left over, the image has no corruption and holds what the guest
 * was promised, and the same work succeeds when it is tried again.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/loop.h"
#include "sim/sim.h"

enum {
    SECTOR = 512,
    /* The guest touches the first sectors of each area alone. An area is what
     * one L2 table of clusters of 4 KiB leads to, or two of them do. */
    AREAS = 3,
    AREA_SECTORS = 128,
    SECTORS = AREAS * AREA_SECTORS,
    AREA_BYTES = 4 << 20,
    DISK_BYTES = (AREAS - 1) * AREA_BYTES + AREA_SECTORS * SECTOR,
};
#define MS UINT64_C(1000000)
#define SEC (1000 * MS)

/* Values of sectors: zeroes, the base's, then those that the guest writes. */
enum { V_ZERO, V_BASE, V_GUEST, V_MAX = 32, V_UNKNOWN = -1 };

struct sector {
    uint32_t may; /* values it may hold after a reopen, as bits */
    int live;     /* what a read gives; V_UNKNOWN: one of may */
};
struct disk {
    struct sector s[SECTORS];
};

/* --- memory.c --- */

/* As a kind of call, beside those of the simulated machine. */
#define MEMORY ((enum sim_op)(SIM_OP_COUNT + 1))
/* The @nth allocation from now on that may fail does, or all from there; 0:
 * none. */
void memory_inject(unsigned nth, bool sticky);
uint64_t memory_count(void);

/* --- forget.c --- */

/* As a kind of call: a flush of a file fails, and its driver knows nothing of it:
 * it would succeed the next time, as that of a server does. */
#define FORGET ((enum sim_op)(SIM_OP_COUNT + 2))
/* The @nth flush of a file from now on fails; 0: none. */
void forget_inject(unsigned nth);
uint64_t forget_count(void);

/* --- header.c --- */

struct rig;
/* While nothing is under way the header in the file is the one that the driver
 * knows, whatever a write of it reported. */
void header_check(struct rig *r);
/* qcow2: is there a bitmap in the file that counts? */
bool header_bitmap_counts(struct rig *r);

/* --- disk.c --- */

uint64_t disk_offset(unsigned sector);
void disk_fill(uint8_t *buf, unsigned first, unsigned n, int value);
/* All sectors hold @value. */
void disk_set(struct disk *d, int value);
/* A change to @value is asked for; it ended, @durable or not. */
void disk_begin(struct disk *d, unsigned first, unsigned n, int value);
void disk_end(struct disk *d, unsigned first, unsigned n, int value, bool ok,
              bool durable);
/* What was trimmed holds zeroes or what it held. */
void disk_trimmed(struct disk *d, unsigned first, unsigned n);
void disk_flushed(struct disk *d);
/* It is opened anew after a fault: what was acknowledged since the last flush
 * may be lost. */
void disk_doubt(struct disk *d);
/* Could a read return @buf? NULL, or the reason why not (owned). What is read
 * stays so. */
char *disk_read(struct disk *d, unsigned first, unsigned n, const uint8_t *buf);
/* A reopened image shows @buf: the same for what a close may leave. */
char *disk_reopened(struct disk *d, unsigned first, unsigned n,
                    const uint8_t *buf);

/* --- images.c --- */

struct kind {
    const char *name;
    const char *format;       /* of the top image */
    const char *base;         /* format of the base; NULL: none */
    bool mid;                 /* another overlay between them */
    bool data_file, data_raw; /* of qcow2: data is in /top.data, which is raw */
    bool full_table;          /* of qcow2: its refcount table is nearly full */
    bool full_end; /* of qcow2: refcount blocks count the last area alone */
    bool bitmaps;  /* of qcow2: one that records, one that does not */
};
extern const struct kind kinds[];
extern const unsigned n_kinds;

struct control;
struct rig;
/* Make the files of @k. */
CO_FN void images_co_make(struct control *c, const struct kind *k);
/* blockdev-add arguments of the whole chain; owned. */
json_t *images_options(const struct rig *r);
/* The top image: an overlay that has ended is a raw file. */
const char *images_top(const struct rig *r, const char **ret_format);
/* Where the data of @path is, if not in the image: into @options. */
void images_add_data(const struct kind *k, const char *path, json_t *options);
/* Make @path of kind @k's top format, without a base. */
CO_FN int images_co_create(struct control *c, const struct kind *k,
                           const char *path, GError **err);

/* --- rig.c --- */

struct scenario;
struct rig {
    const struct kind *kind;
    const struct scenario *scenario;
    struct sim_fault fault; /* as injected; op SIM_OP_COUNT: none */
    uint64_t before;        /* sim_count() of its kind at the start */
    uint64_t at_open;       /* and when the disk was opened */
    bool hit;               /* the fault came, at the end of a run */
    bool strict;            /* nothing may fail */
    bool independent;       /* the base was said to be dispensable */
    uint64_t size;          /* the disk has at least so much */
    unsigned failed;        /* operations and commands that did */
    unsigned flushes_failed;
    int value; /* last one given out */
    struct disk disk;
    struct loop *loop;
    struct sim *sim;
    struct control *control;
    struct backend *backend; /* the guest's; NULL: not open */
};

void die(struct rig *r, const char *fmt, ...) PRINTF_LIKE(2, 3)
    __attribute__((noreturn));
/* How often what is to fail has been called. */
uint64_t rig_calls(struct rig *r);
/* Has the fault come? */
bool rig_hit(struct rig *r);
/* Nobody may notice it: a short transfer, a signal. */
bool rig_harmless(const struct rig *r);
/* Has it come, and may it make something fail? */
bool rig_may_fail(struct rig *r);

/* Open and close the disk; false when the fault prevented it. */
CO_FN bool rig_co_open(struct rig *r);
CO_FN bool rig_co_open_as(struct rig *r, json_t *options, const char *root);
CO_FN void rig_co_close(struct rig *r);

/* Run a command: 0 or -errno. Only the fault may make it fail. */
CO_FN int rig_co_command(struct rig *r, const char *name, json_t *args);
/* The same, and whatever it says is right. */
CO_FN int rig_co_try(struct rig *r, const char *name, json_t *args);
/* Wait for the end of job "j" and dismiss it: 0, or -1 when it failed. */
CO_FN int rig_co_job(struct rig *r);

/* The guest. Nothing happens when the disk is not open. */
CO_FN void guest_co_write(struct rig *r, unsigned first, unsigned n,
                          unsigned flags);
CO_FN void guest_co_zero(struct rig *r, unsigned first, unsigned n,
                         unsigned flags);
CO_FN void guest_co_trim(struct rig *r, unsigned first, unsigned n);
CO_FN void guest_co_read(struct rig *r, unsigned first, unsigned n);
CO_FN bool guest_co_flush(struct rig *r); /* did it succeed? */
CO_FN void guest_co_status(struct rig *r);
/* @n writes at once, from @first on, each of @len sectors. */
CO_FN void guest_co_storm(struct rig *r, unsigned first, unsigned n,
                          unsigned len);

/* One whole run: @files as they are at the start, *@ret_files (owned) what they
 * are at the end; both may be NULL. */
void rig_run(struct rig *r, void (*fn)(struct rig *r),
             const struct sim_image *files, struct sim_image **ret_files);
/* The image as it lies there: no corruption, right content. */
CO_FN void rig_co_aftermath(struct rig *r);

/* --- scenarios.c --- */

struct scenario {
    const char *name;
    CO_FN_PTR void (*co_run)(struct rig *r);
    unsigned needs; /* NEEDS_... of the kind */
};
enum { NEEDS_BASE = 1, NEEDS_MID = 2, NEEDS_FORMAT = 4, NEEDS_BITMAPS = 8 };
extern const struct scenario scenarios[];
extern const unsigned n_scenarios;
