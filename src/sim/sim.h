/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The simulated machine under a loop with SIM_OPTIONS(): files in memory, a
 * clock that only moves while nothing can run, latencies and thereby the order
 * of completions from a seed, faults on demand, and a log that misses nothing.
 *
 * The same seed and the same work give the same log.  A request takes effect
 * when it completes, at once and as a whole; the data of a write is that at its
 * submission.  After a crash a write may be on disk in any part if it was not
 * followed by a sync that was *submitted* after the write *completed*; whoever
 * builds such states has both numbers of every operation here.
 *
 * One thread only, that of the loop or, while no loop runs, any.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "loop/io.h"
#include "loop/loop.h"

struct sim;

/* The machine as an engine, and the options of a loop that runs on one. */
extern const struct io_engine engine_sim;
#define SIM_OPTIONS(seed) \
    { \
        .custom = &engine_sim, .custom_seed = (seed) \
    }

/* The machine of @l, or NULL on a real engine. */
struct sim *loop_sim(struct loop *l);

/* ---- images: files and their names ------------------------------------- */

/*
 * All files of a machine at one instant.  Copies share memory until written.
 * Files have ids, never used twice on one machine, and any number of names;
 * names are absolute paths, and their directories exist by themselves.
 */
struct sim_image;

struct sim_image *sim_image_new(void);
struct sim_image *sim_image_copy(const struct sim_image *img);
void sim_image_free(struct sim_image *img);

/* Id of the file called @path, or 0. Relative paths begin at "/". */
uint64_t sim_image_find(const struct sim_image *img, const char *path);
/* Make empty file @id without a name. It must not exist. */
void sim_image_create(struct sim_image *img, uint64_t id);
bool sim_image_has(const struct sim_image *img, uint64_t id);
/* Forget file @id, which has no name. */
void sim_image_remove(struct sim_image *img, uint64_t id);
bool sim_image_has_name(const struct sim_image *img, uint64_t id);
/* The highest id, or 0. */
uint64_t sim_image_last_id(const struct sim_image *img);
/* Let @path name file @id, instead of what it named before; 0: remove it.
 * Files without a name stay. */
void sim_image_link(struct sim_image *img, const char *path, uint64_t id);
void sim_image_foreach(const struct sim_image *img,
                       void (*fn)(const char *path, uint64_t id, void *arg),
                       void *arg);

/* Contents of file @id, which must exist. Reads give zeroes past the end. */
uint64_t sim_image_size(const struct sim_image *img, uint64_t id);
/* Grows with every change; stands for the modification time. */
uint64_t sim_image_changes(const struct sim_image *img, uint64_t id);
void sim_image_read(const struct sim_image *img, uint64_t id, uint64_t off,
                    void *buf, size_t len);
void sim_image_write(struct sim_image *img, uint64_t id, uint64_t off,
                     const void *buf, size_t len);
void sim_image_truncate(struct sim_image *img, uint64_t id, uint64_t size);
/* fallocate(2). 0 or -ENOTSUP. */
int sim_image_fallocate(struct sim_image *img, uint64_t id, int mode,
                        uint64_t off, uint64_t len);
/* As io_co_extent(). */
int sim_image_extent(const struct sim_image *img, uint64_t id, uint64_t off,
                     bool *ret_data, uint64_t *ret_end);

/* What the loop's files hold now. To look at, and to write to while no file is
 * open. Borrowed. */
struct sim_image *sim_live(struct sim *s);
/* Shall its file system share extents? From the start it does not, and clones
 * are refused. One that is carried out is a write of what the source held when
 * it was asked for, and may be torn by a crash like any other. */
void sim_set_shares(struct sim *s, bool on);
/* Replace everything by a copy of @img. No file may be open. */
void sim_restore(struct sim *s, const struct sim_image *img);

/* ---- the log ------------------------------------------------------------ */

enum sim_op {
    SIM_CREATE,    /* file path: an open that made a file */
    SIM_OPEN,      /* file path */
    SIM_CLOSE,     /* file */
    SIM_READ,      /* file off len; counted, never logged */
    SIM_WRITE,     /* file off len data tag; copies and clones, too */
    SIM_TRUNCATE,  /* file off = new size; also O_TRUNC */
    SIM_FALLOCATE, /* file off len mode */
    SIM_FDATASYNC, /* file */
    SIM_FSYNC,     /* file */
    SIM_RENAME,    /* file path path2, file2 = what path2 named or 0 */
    SIM_UNLINK,    /* file path */
    SIM_FSYNC_DIR, /* path */
    SIM_MARK,      /* path = name, off = value: put there by a test */
    SIM_OTHER,     /* stat, extents, locks...; counted, never logged */
    SIM_OP_COUNT
};
const char *sim_op_name(enum sim_op op);

struct sim_record {
    enum sim_op op;
    /* Instants: one counter for submissions, completions and marks, from 1.
     * @completed is 0 while under way. */
    uint64_t submitted, completed;
    int64_t result; /* bytes or 0, else -errno: no effect */
    enum io_tag tag;
    uint64_t file, file2;
    uint64_t off, len; /* a short write has @result < @len */
    int mode;
    unsigned char *data;
    char *path, *path2;
};

/* All records in order of submission. Valid until the loop runs again. */
const struct sim_record *const *sim_log(struct sim *s, size_t *ret_n);
/* Forget what is complete; later records are kept only if @enable. */
void sim_log_reset(struct sim *s, bool enable);
/* Latest instant. */
uint64_t sim_instant(struct sim *s);
/* Put a mark; returns its instant. */
uint64_t sim_mark(struct sim *s, const char *name, uint64_t value);
/* A digest of the whole log. */
uint64_t sim_log_hash(struct sim *s);

/* ---- faults and times --------------------------------------------------- */

struct sim_fault {
    enum sim_op op;
    unsigned nth;      /* 1 = the next of its kind from now on */
    const char *path;  /* only files opened by this name; NULL = any */
    bool sticky;       /* every later one, too */
    int err;           /* fail with -@err; 0: */
    bool lands;        /* ... after it took place */
    size_t short_len;  /* move only so many bytes; 0: all */
    uint64_t delay_ns; /* complete so much later */
};
void sim_inject(struct sim *s, const struct sim_fault *f);
void sim_faults_clear(struct sim *s);
/* Let @percent of the coroutines that become ready on @l run before those that
 * already are: nothing promises their order. */
void sim_shuffle(struct loop *l, unsigned percent, uint64_t seed);
/* Is anything under way that was submitted by @instant? */
bool sim_is_pending(const struct sim *s, uint64_t instant);
/* Descriptors that are open; for leak checks. */
unsigned sim_open_files(const struct sim *s);
/* Operations of a kind submitted so far. */
uint64_t sim_count(const struct sim *s, enum sim_op op);

/* Descriptors opened with O_DIRECT from now on want blocks of @bytes; 512 at
 * first. */
void sim_set_block(struct sim *s, uint32_t bytes);
/* Draw what comes from @seed: the same from here on, whatever came before. */
void sim_reseed(struct sim *s, uint64_t seed);
/* Latencies of @op are spread evenly over [@min_ns, @max_ns]. */
void sim_set_latency(struct sim *s, enum sim_op op, uint64_t min_ns,
                     uint64_t max_ns);

/* A disk under all files: so many channels, each of which serves one read or
 * write after the other, in order of arrival.  Takes the place of their
 * latencies. */
struct sim_disk {
    unsigned channels;    /* 1 .. SIM_CHANNELS_MAX; 0: no disk, latencies */
    uint64_t request_ns;  /* of any request */
    uint64_t bytes_per_s; /* of all channels together */
    unsigned spread;      /* percent up and down, of each request; under 100 */
};
#define SIM_CHANNELS_MAX 32
/* What waits already stays where it is. */
void sim_set_disk(struct sim *s, const struct sim_disk *d);
