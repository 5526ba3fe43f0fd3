/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcounts: the state that refcount.c and reftable.c share, and what a check
 * may look at.
 *
 * A block of refcounts in memory is what stands in the file, plus everything
 * that was allocated since, minus only what is durably unreferenced.  So any
 * block may be written at any time: the file never counts less than what its
 * tables refer to.
 *
 * Invariants
 *   - A changed block is held in `dirty` until it is written.
 *   - table[] leads to blocks that the file's table does not know yet
 *     (`unlinked`); their pointers follow a flush behind them (M4).
 */
#pragma once
#include "loop/co.h"
#include "format/qcow2/space/space.h"

enum { QCOW2_BLOCK_CACHE_BYTES = 8 << 20 };

struct qcow2_refcounts {
    unsigned order;               /* a refcount has 1 << order bits */
    unsigned block_bits;          /* log2 of the clusters one block counts */
    uint64_t max;                 /* largest refcount */
    uint64_t *table;              /* file offset by block; 0 = none */
    uint32_t len;                 /* entries allocated */
    uint32_t used;                /* one more than the last that has a block */
    bool reserved_bits;           /* some entry had them set: for the check */
    struct metadata_cache blocks; /* by number */
    GHashTable *dirty;            /* number -> qcow2_dirty_block */
    GTree *unlinked;              /* numbers */
    struct co_mutex grow;         /* one new block at a time */
    struct co_mutex writing;
    uint64_t moved_to; /* room for a larger table, or 0 */
    uint32_t moved_clusters;
};

struct qcow2_dirty_block {
    struct table *t;     /* held */
    uint32_t first, end; /* bytes */
};

/* Host offsets in entries may lie far beyond what a table can reach: numbers of
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

/* --- count.c --- */

/* Of keys of trees that are numbers. */
gint qcow2_compare_numbers(gconstpointer a, gconstpointer b);
/* Value @i of a block as in the file. */
uint64_t qcow2_count_get(unsigned order, const void *block, uint64_t i);
void qcow2_count_put(unsigned order, void *block, uint64_t i, uint64_t value);
/* Of blocks that are ready (no block: 0). */
uint64_t qcow2_count_at(struct qcow2_image *img, uint64_t cluster);
void qcow2_count_set(struct qcow2_image *img, uint64_t cluster, uint64_t value);
/* The first cluster in [@first, @end) of refcount 0 (@used: not 0), or @end. */
uint64_t qcow2_count_find(struct qcow2_image *img, uint64_t first, uint64_t end,
                          bool used);
/* Block @block was changed in bytes [@first, @end). */
void qcow2_block_dirty(struct qcow2_image *img, struct table *t, uint32_t first,
                       uint32_t end);
void qcow2_dirty_free(void *dirty_block);

/* --- refcount.c --- */

/* Have the blocks of clusters [@first, @first+@n) in memory; with @make those
 * that do not exist are made. 0: so it is, nothing else had a turn; 1: others
 * had one, ask again; -errno. */
CO_FN int qcow2_co_blocks_ready(struct qcow2_image *img, uint64_t first,
                                uint64_t n, bool make);

/* --- reftable.c --- */

/* Make block @block. Others get their turn. */
CO_FN int qcow2_co_block_add(struct qcow2_image *img, uint64_t block);
/* Let the file's table lead to the blocks in @numbers (uint64_t) no more,
 * durably. `grow` and `writing` are held. From here on, and after a failure,
 * they are in `unlinked`; their content in the file is what it is in memory. */
CO_FN int qcow2_co_blocks_unlink(struct qcow2_image *img,
                                 const GArray *numbers);
/* Write changed blocks when they begin to fill the cache. 0: no need; 1: it was
 * done, others had a turn. */
CO_FN int qcow2_co_blocks_trim(struct qcow2_image *img);
