/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Space in the file, for those who take it and give it back.  The state behind
 * it is in refcount.h and free.h.
 */
#pragma once
#include "format/qcow2/qcow2.h"

/* --- refcount.c: how often clusters are used --- */

/* Load the refcount table: of a writable node, or for a check. */
CO_FN int qcow2_co_refcounts_open(struct qcow2_image *img, GError **err);
void qcow2_refcounts_close(struct qcow2_image *img);
/* The refcount of the cluster at @host, changes in memory included. */
CO_FN int qcow2_co_refcount_get(struct qcow2_image *img, uint64_t host,
                                uint64_t *ret_count);
/* Add @by (> 0) to all clusters that [@host, @host+@len) touches. Durable with
 * the pass of @gen, before its pointers. -ERANGE: too large for the width. */
CO_FN int qcow2_co_refcount_up(struct qcow2_image *img, uint64_t gen,
                               uint64_t host, uint64_t len, uint64_t by);
/* Take one away once the pointers of @gen are durable; those that reach 0 are
 * free then (quarantine). */
int qcow2_refcount_decrement(struct qcow2_image *img, uint64_t gen,
                             uint64_t host, uint64_t len);
/* Write what changed up to @gen; durable needs a flush. */
CO_FN int qcow2_co_refcounts_write(struct qcow2_image *img, uint64_t gen);
/* Nothing is in memory any more: what the blocks in the file say counts.
 * Changes are lost; nobody uses the image. */
void qcow2_refcounts_forget(struct qcow2_image *img);

/* --- reftable.c: how refcounts reach the file --- */

/* Is there anything that qcow2_co_refcounts_write() would write? */
bool qcow2_refcounts_pending(const struct qcow2_image *img);

/* Blocks, and a table, that nothing in the file refers to are dropped. */
void qcow2_blocks_drop_new(struct qcow2_image *img);
/* Everything to the file, then the header becomes @h, with new clusters for the
 * table; not flushed. With @moved blocks have new clusters, which nothing
 * refers to before that write; else only what is counted too often may have
 * changed, and @exts, if any, become the header's extensions by that write. */
CO_FN int qcow2_co_refcounts_switch(struct qcow2_image *img,
                                    const struct qcow2_header *h, GArray *exts,
                                    bool moved);

/* --- empty-blocks.c: refcount blocks that count nothing --- */

/* Give back refcount blocks that count no cluster but, perhaps, their own. The
 * group is locked, and what changed is in the file. After a failure some stay:
 * no harm. */
CO_FN int qcow2_co_empty_blocks_free(struct qcow2_image *img);

/* --- alloc.c: free space --- */

/* With NODE_CHECK refcounts that cannot be read are no hindrance. */
CO_FN int qcow2_co_space_open(struct qcow2_image *img, unsigned flags,
                              GError **err);
void qcow2_space_close(struct qcow2_image *img);
/* Whole clusters, contiguous, of refcount 1 by the time that generation @gen is
 * published. *@ret_fresh: they were never written and read as zeroes. */
CO_FN int qcow2_co_alloc(struct qcow2_image *img, uint64_t gen, uint64_t bytes,
                         uint64_t *ret_host, bool *ret_fresh);
/* Room for @len bytes (at most a cluster) of compressed data anywhere; may
 * share a cluster with others. */
CO_FN int qcow2_co_alloc_compressed(struct qcow2_image *img, uint64_t gen,
                                    uint32_t len, uint64_t *ret_host);
/* Nothing ever pointed to it: give it back. */
void qcow2_unalloc(struct qcow2_image *img, uint64_t gen, uint64_t host,
                   uint64_t len);
/* The pointer to it goes with generation @gen: refcount_down, then quarantine.
 * Takes an entry, so compressed ones are freed right. */
int qcow2_free_desc(struct qcow2_image *img, uint64_t gen, struct qcow2_desc d);
/* Look for free space anew; @end: where it was that the file ends. */
void qcow2_space_rewind(struct qcow2_image *img, uint64_t end);
/* Look for the last cluster in use, and for free space, anew. */
CO_FN int qcow2_co_space_refind(struct qcow2_image *img);
/* Clusters without refcount: they may be handed out. */
void qcow2_space_add_free(struct qcow2_image *img, uint64_t first, uint64_t n);

/* --- reclaim.c: clusters become free, late enough --- */

/* A run of clusters whose refcounts go down. */
struct qcow2_decrement {
    uint64_t gen;
    uint64_t first, n; /* clusters */
};

/* Clusters [@first, @first+@n) are in use no more, but stay counted: told when
 * the image is closed, unless who freed them says so before. */
void qcow2_leak(struct qcow2_image *img, uint64_t first, uint64_t n, int error);
/* Accesses to data and tables in the file; while others may write every lookup
 * is inside one. A freed cluster waits for those before it. */
uint64_t qcow2_access_begin(struct qcow2_image *img);
void qcow2_access_end(struct qcow2_image *img, uint64_t epoch);
/* The pointers of @gen and before are durable. */
void qcow2_space_published(struct qcow2_image *img, uint64_t gen);
/* Nothing ever pointed to clusters [@first, @first+@n). */
void qcow2_reclaim_now(struct qcow2_image *img, uint64_t first, uint64_t n);
/* Wait until all that is reclaimable has been taken; nothing runs on the
 * image. */
CO_FN void qcow2_co_reclaim(struct qcow2_image *img);

/* --- prepared.c: a snapshot that was prepared (snapshot/prepare.h) --- */

/* Forget it, if there is any: its clusters belong to a snapshot now. */
void qcow2_prepared_end(struct qcow2_image *img);
/* Give it up, with its clusters, as soon as no step of it runs: before all that
 * changes tables or counts in another way than passes do. */
CO_FN void qcow2_prepared_co_drop(struct qcow2_image *img);
