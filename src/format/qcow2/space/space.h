/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Space in a qcow2 file: what refcount.c, reftable.c, alloc.c and reap.c share,
 * and what a check may look at.
 *
 * A block of refcounts in memory is what stands in the file, plus everything
 * that was allocated since, minus only what is durably unreferenced.  So any
 * block may be written at any time: the file never counts less than what its
 * tables refer to.
 *
 * Invariants
 *   - A cluster is handed out when its refcount in memory is 0 and made 1 before
 *     anybody else gets a turn.
 *   - A refcount goes down in reap.c alone: after the pass that took the pointer
 *     away, the accesses before that and the discard (M3), or when nothing ever
 *     pointed to the cluster.
 *   - A changed block is held in `dirty` until it is written.
 *   - table[] leads to blocks that the file's table does not know yet
 *     (`unlinked`); their pointers follow a flush behind them (M4).
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/qcow2/qcow2.h"
#include "format/alloc/metadata-cache.h"
#include "loop/co.h"

enum {
    QCOW2_BLOCK_CACHE_BYTES = 8 << 20,
    QCOW2_SPACE_WORKERS = 16,
};

struct qcow2_refcounts {
    unsigned order;               /* a refcount has 1 << order bits */
    unsigned block_bits;          /* log2 of the clusters one block counts */
    uint64_t max;                 /* largest refcount */
    uint64_t *table;              /* file offset by block; 0 = none */
    uint32_t len;                 /* entries allocated */
    uint32_t used;                /* one more than the last that has a block */
    bool reserved_bits;           /* some entry had them set: for the check */
    struct metadata_cache blocks;         /* by number */
    GHashTable *dirty;            /* number -> struct dirty_block */
    GTree *unlinked;              /* numbers */
    struct co_mutex grow;         /* one new block at a time */
    struct co_mutex writing;
    uint64_t moved_to;            /* room for a larger table, or 0 */
    uint32_t moved_clusters;
};

/* A run of clusters whose refcounts go down. */
struct qcow2_decrement {
    uint64_t gen;
    uint64_t first, n;            /* clusters */
};

/* Accesses that began in one period, and what waits for their end. */
struct qcow2_epoch {
    uint64_t number;
    unsigned running;
    GArray *decrements;                /* struct qcow2_decrement */
};

struct qcow2_space {
    /* clusters */
    uint64_t end;                 /* the search goes on from here */
    uint64_t limit;               /* the storage cannot grow past it */
    uint64_t virgin;              /* never written from here on */
    GTree *free;                  /* first -> how many: refcount 0, below end */
    uint64_t n_free;
    uint32_t scan, scan_end;      /* blocks not looked at yet for free ones */
    bool scanning;
    uint64_t compressed;              /* next byte for compressed data, or 0 */

    /* reap.c */
    GArray *decrements;                /* wait for their generation */
    GQueue epochs;                /* struct qcow2_epoch, oldest first */
    GArray *reclaimable;                 /* nothing holds them back */
    bool reclaiming;
    struct co_latch background;
};

/* --- refcount.c --- */

/* Of keys of trees that are numbers. */
gint qcow2_compare_numbers(gconstpointer a, gconstpointer b);

/* Places that entries name may lie far beyond what a table can reach: numbers of
 * blocks take 64 bits until they were compared with `len`. */
static inline uint64_t qcow2_block_of(const struct qcow2_refcounts *r,
                                      uint64_t cluster)
{
    return cluster >> r->block_bits;
}

static inline uint64_t qcow2_block_first(const struct qcow2_refcounts *r,
                                         uint64_t block)
{
    return block << r->block_bits;
}

/* Value @i of a block as in the file. */
uint64_t qcow2_count_get(unsigned order, const void *block, uint64_t i);
void qcow2_count_put(unsigned order, void *block, uint64_t i, uint64_t value);
/* Have the blocks of clusters [@first, @first+@n) in memory; with @make those
 * that do not exist are made. 0: so it is, nothing else had a turn; 1: others
 * had one, ask again; -errno. */
CO_FN int qcow2_co_blocks_ready(struct qcow2_image *img, uint64_t first,
                                uint64_t n, bool make);
/* Of blocks that are ready (no block: 0). */
uint64_t qcow2_count_at(struct qcow2_image *img, uint64_t cluster);
void qcow2_count_set(struct qcow2_image *img, uint64_t cluster,
                     uint64_t value);
/* The first cluster in [@first, @end) of refcount 0 (@used: not 0), or @end. */
uint64_t qcow2_count_find(struct qcow2_image *img, uint64_t first,
                          uint64_t end, bool used);

/* Nothing is in memory any more: what the blocks in the file say counts. Changes
 * are lost; nobody uses the image. */
void qcow2_refcounts_forget(struct qcow2_image *img);

/* --- reftable.c --- */

/* Blocks, and a table, that nothing in the file leads to are given up. */
void qcow2_blocks_drop_new(struct qcow2_image *img);

/* Make block @block. Others get their turn. */
CO_FN int qcow2_co_block_add(struct qcow2_image *img, uint64_t block);
/* Block @block was changed in bytes [@first, @end). */
void qcow2_block_dirty(struct qcow2_image *img, struct table *t,
                       uint32_t first, uint32_t end);
void qcow2_dirty_free(void *dirty_block);
/* Write changed blocks when they begin to fill the cache. 0: no need; 1: it was
 * done, others had a turn. */
CO_FN int qcow2_co_blocks_trim(struct qcow2_image *img);

/* Everything to the file, then the header becomes @h, with a place for the table
 * that is its own; not flushed. With @moved blocks have new places, and nothing
 * leads there before that write; else only what is counted too often may have
 * changed, and @exts, if any, become the header's extensions by that write. */
CO_FN int qcow2_co_refcounts_switch(struct qcow2_image *img,
                                    const struct qcow2_header *h,
                                    GArray *exts, bool moved);

/* --- alloc.c --- */

/* Look for free space anew; @end: where it was that the file ends. */
void qcow2_space_rewind(struct qcow2_image *img, uint64_t end);
/* Clusters without refcount: they may be handed out. */
void qcow2_space_add_free(struct qcow2_image *img, uint64_t first, uint64_t n);

/* --- writable.c, dirty.c: --- */

/* Read everything about free space anew: it was rebuilt. */
CO_FN int qcow2_co_space_reload(struct qcow2_image *img, GError **err);
/* All to the file, what was set free included. */
CO_FN int qcow2_co_settle(struct qcow2_image *img);

/* --- publish.c, overlap.c, claim.c: state of a writable image --- */

void qcow2_publish_open(struct qcow2_image *img);
void qcow2_publish_close(struct qcow2_image *img);
void qcow2_overlap_open(struct qcow2_image *img, const uint64_t *reftable,
                        uint32_t n);
void qcow2_overlap_close(struct qcow2_image *img);
/* Is the cluster at @host known to hold metadata? */
bool qcow2_meta_is_at(const struct qcow2_image *img, uint64_t host);
void qcow2_cluster_locks_open(struct qcow2_image *img);
void qcow2_cluster_locks_close(struct qcow2_image *img);

/* --- reap.c --- */

void qcow2_reclaim_init(struct qcow2_image *img);
void qcow2_reclaim_done(struct qcow2_image *img);
/* The pointers of @gen and before are durable. */
void qcow2_space_published(struct qcow2_image *img, uint64_t gen);
/* Nothing ever pointed to clusters [@first, @first+@n). */
void qcow2_reclaim_now(struct qcow2_image *img, uint64_t first, uint64_t n);
/* Wait until all that is ripe has been taken; nothing runs on the image. */
CO_FN void qcow2_co_reclaim(struct qcow2_image *img);
