/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The external copy-on-write overlay, private to format/cow/.
 *
 * The node's "file" is the sidecar (wire/cow.h), its "data-file" holds the
 * bytes of the disk, each at the offset that it has in the disk.  When it was
 * finished before it was opened there is no sidecar: "file" is the disk then,
 * and there is no "data-file".  A bit in the sidecar says whether a cluster's
 * bytes are those of the data file or of the backing file.  Where a bit is,
 * newest answer first:
 *   pending    runs of clusters in memory, by generation of their commit group:
 *              the data is in the data file, the bit is not in the sidecar
 *   summary    a whole group of clusters has its bits, or none of it
 *   blocks     cached blocks of the map, as they are in the file (plus what is
 *              being published)
 *
 * Invariants
 *   - A bit is written after the data file was flushed behind the cluster's
 *     data (W2), and never taken back while POPULATING (W3).  So bits need not be
 *     ordered against another; but for a new block, which is durable before the
 *     summary leads to it.
 *   - A cluster without a bit shows the backing file, whatever the data file
 *     holds there (W4).
 *   - COMPLETE is written when each cluster has its bit, durably; from then on
 *     the data file is the disk and the maps are not looked at (W5).
 *   - Summary and blocks change in publish.c (one pass at a time), and in
 *     empty.c while nobody uses the image; nowhere else.
 *   - Header slots are written with the group locked, or before it is there;
 *     each is flushed before the next (W1).
 *
 * An overlay
 *   POPULATING   made by cow_co_create(); the header and the maps tell
 *     -> COMPLETE    cow_co_complete(): each cluster has its bit, durably; then
 *                    the header gets the state and loses its backing file
 *   COMPLETE     ->complete; the data file, still NAME.partial, is the disk
 *     -> finished    cow_co_finish(): first the data file gets its name, then the
 *                    sidecar is removed; a crash in between leaves COMPLETE, and
 *                    another cow_co_change_backing() to nothing ends it
 *   finished     ->finished; there is the disk and nothing else.  Who opens it by
 *                the name of the sidecar comes to cow_co_open_finished()
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/alloc/group.h"
#include "format/alloc/metadata-cache.h"
#include "format/alloc/pending.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "wire/cow.h"

enum {
    OVERLAY_CACHE_BYTES = 16 << 20,      /* of blocks: 4,096 of them */
    OVERLAY_PENDING_MAX = 1 << 17,       /* runs before a writer must wait */
    OVERLAY_WORKERS = 16,                /* blocks read or written at once */
    OVERLAY_GROUP = 1 << COW_GROUP_BITS, /* clusters */
};

struct overlay {
    /* set at open */
    struct node *node;
    struct loop *loop;
    struct group *group; /* NULL on a read-only node */
    unsigned cluster_bits;

    struct cow_header hdr;
    unsigned slot; /* where it is */
    bool torn;     /* the other slot is not valid */
    bool complete; /* the data file is the disk */
    bool finished; /* ... and all that there is */

    /* maps */
    uint64_t n_groups;
    uint8_t *summary;             /* as in the file; summary_bytes */
    size_t summary_bytes;         /* whole blocks */
    uint8_t *summary_dirty;       /* a flag a block */
    struct metadata_cache blocks; /* by group */

    struct pending pending; /* first -> end of a run of clusters; none
                             * touches another one of its generation */
    GArray *items;          /* publish.c: the pass under way */
    unsigned quiesced;
};

static inline struct overlay *cow_of(const struct node *n)
{
    return n->state;
}

static inline struct node *cow_file(const struct overlay *o)
{
    return node_file(o->node);
}

static inline struct node *cow_data(const struct overlay *o)
{
    struct edge *e = node_child(o->node, "data-file");

    return e ? e->child : cow_file(o); /* finished before it was opened */
}

static inline uint64_t cow_cluster(const struct overlay *o)
{
    return UINT64_C(1) << o->cluster_bits;
}

/* --- pending.c --- */

/* Clusters [@first, @first + @n) of generation @gen. Between group_join() and
 * group_data_done(). */
void cow_pending_add(struct overlay *o, uint64_t gen, uint64_t first,
                     uint64_t n);
/* Is cluster @idx pending? *@end comes down to where the answer ends. */
bool cow_pending_find(const struct overlay *o, uint64_t idx, uint64_t *end);
/* Make one of all generations up to @gen; NULL when there is none. */
struct pending_gen *cow_pending_merge(struct overlay *o, uint64_t gen);

/* --- map.c --- */

void cow_map_init(struct overlay *o);
/* Does the data file hold guest offset @off, and how far, at most @len bytes,
 * does the answer go? Reads one block when the first cluster needs it. 0, -EIO,
 * -ENOMEM. */
CO_FN int cow_co_lookup(struct overlay *o, uint64_t off, uint64_t len,
                        bool *ret_here, uint64_t *ret_len);
/* The first cluster from @idx without a bit in the sidecar; the number of
 * clusters when there is none. */
CO_FN int cow_co_find_clear(struct overlay *o, uint64_t idx, uint64_t *ret_idx);
enum cow_group cow_summary_get(const struct overlay *o, uint64_t group);
/* Never back. */
void cow_summary_set(struct overlay *o, uint64_t group, enum cow_group what);
/* Read it whole, for a disk of @groups. What is in memory and not in the file
 * is pending, too. */
CO_FN int cow_co_summary_load(struct overlay *o, uint64_t groups, GError **err);

/* --- publish.c --- */

extern const struct group_ops cow_group_ops;
GArray *cow_items_new(void);

/* --- header.c --- */

CO_FN int cow_co_header_read(struct overlay *o, GError **err);
/* The same of a file that is not open as an overlay; no error text. */
CO_FN int cow_co_slots_read(struct node *file, struct cow_header *ret_h);
/* @h, with the next generation, into the slot that is not in use, durably;
 * o->hdr follows. On failure the old header stands. */
CO_FN int cow_co_header_write(struct overlay *o, const struct cow_header *h);

/* --- data.c: the data file --- */

/* Open and attach it: as option "data-file" says, else what the header
 * names. */
CO_FN int cow_co_data_open(struct overlay *o, struct opts *opts, GError **err);
/* Is it the one that the header means (W7)? */
CO_FN int cow_co_data_check(struct overlay *o, GError **err);
/* Make it, zeroes, durable. *@ret_path is owned. The file must not be there;
 * but when @sidecar holds an overlay that is being populated, and the file
 * belongs to that overlay, both are replaced. */
CO_FN int cow_co_data_create(struct node *sidecar, const struct cow_header *h,
                             uint64_t *ret_inode, char **ret_path,
                             GError **err);
CO_FN void cow_co_uncreate(struct node *sidecar);
/* The steps after COMPLETE: the data file gets its name, the sidecar goes. May
 * be repeated, and does what is left. */
CO_FN int cow_co_finish(struct overlay *o, GError **err);
/* May the data file get its name? -EEXIST. */
CO_FN int cow_co_name_is_free(struct overlay *o, GError **err);

/* --- finished.c: overlays that end before they are opened --- */

/* node_driver.co_successor. */
CO_FN int cow_co_successor(const char *path, char **ret_path, GError **err);
/* "file" is open, and is the disk. */
CO_FN int cow_co_open_finished(struct overlay *o, struct opts *opts,
                               GError **err);

/* --- base.c: the identity of the backing file --- */

CO_FN int cow_co_chain_opened(struct node *n, GError **err);
CO_FN int cow_co_forget_base(struct node *n, GError **err);

/* --- the rest --- */

CO_FN int cow_co_open(struct node *n, struct opts *o, unsigned flags,
                      GError **err);
CO_FN void cow_co_close(struct node *n);
CO_FN int cow_co_reopen(struct node *n, struct opts *o, unsigned flags,
                        GError **err);
void cow_describe(struct node *n);
CO_FN int cow_co_info(struct node *n, json_t *info, GError **err);
CO_FN int cow_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int cow_co_copy_in(struct node *n, uint64_t off, struct node *src,
                         uint64_t src_off, uint64_t len, unsigned flags);
bool cow_can_copy_in(struct node *n, struct node *src);
CO_FN int cow_co_zero(struct node *n, uint64_t off, uint64_t len,
                      unsigned flags);
/* Zeroes and bits where there are none yet; against guests who write there. */
CO_FN int cow_co_zero_missing(struct overlay *o, uint64_t off, uint64_t len);
CO_FN int cow_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int cow_co_flush(struct node *n);
CO_FN int cow_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
                     struct mapping *ret_map);
CO_FN int cow_co_truncate(struct node *n, uint64_t size, GError **err);
CO_FN int cow_co_change_backing(struct node *n, const char *name,
                                const char *fmt, GError **err);
CO_FN int cow_co_make_empty(struct node *n, GError **err);
CO_FN int cow_co_check(struct node *n, unsigned fix, struct check_result *res,
                       GError **err);
CO_FN int cow_co_create(struct node *file, struct opts *o, GError **err);
int cow_measure(struct opts *o, struct image_measure *ret, GError **err);
CO_FN void cow_co_quiesce(struct node *n);
void cow_resume(struct node *n);
extern const struct create_option cow_create_options[];
