/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What check.c, the files beside it and repair.c share. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/check/counts.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/refcount.h"

/* What a table of tables weighs against one of clusters: it is seldom read, and
 * every entry of it is looked at, though there be nothing behind. */
enum { ROOT_WEIGHT = 8 };

/* What is where, found before anything is repaired: how often each cluster is
 * referred to. */
struct qcow2_look {
    struct qcow2_counts *all;        /* by anything */
    struct qcow2_counts *data;       /* as guest data that are not compressed */
    struct qcow2_counts *compressed; /* as recorded */
    struct qcow2_counts *refcounts;  /* as the refcount structure; not in all */
};

struct qcow2_check {
    struct qcow2_image *img;
    unsigned fix;
    struct check_result *res;
    struct qcow2_counts *counts;
    uint64_t file_clusters;   /* with what was appended */
    uint64_t found_clusters;  /* without: what entries may lead to */
    uint64_t budget;          /* bytes of tables that may be read still */
    uint8_t *table;           /* one L2 table */
    bool *bad_blocks;         /* by number: not to be read */
    bool rebuild;             /* the refcount structure is not usable */
    bool changed;             /* something was repaired */
    bool hold;                /* what is found now is not to be repaired */
    bool looking;             /* this is a first look, before a repair */
    struct qcow2_look look;   /* what it found; all NULL: there was none */
    struct qcow2_look before; /* what the look before that one found */
    uint64_t zeroes;          /* check/entry.c: a cluster of zeroes, or 0 */

    /* check/lists.c */
    bool unknown;     /* not all references can be known */
    uint64_t n_flaws; /* that new lists repair */
    bool new_snapshots, new_bitmaps, new_exts; /* are to be written */
    GPtrArray *snapshots, *bitmaps; /* those that stay; they own nothing */
    uint64_t snapshots_offset, snapshots_bytes; /* of the new table */
    struct qcow2_bitmap_dir dir;                /* the new one */
};

/* An L2 table in c->table. */
struct qcow2_table_at {
    uint32_t l1_idx;
    uint64_t host;
    bool active;
    uint64_t next;       /* offset that would be contiguous */
    uint32_t first, end; /* changed descriptors */
};

/* node_driver.co_check */
CO_FN int qcow2_co_check(struct node *n, unsigned fix, struct check_result *res,
                         GError **err);

/* --- report.c --- */

/* One more line of the report. */
void PRINTF_LIKE(2, 3)
    qcow2_check_report(struct qcow2_check *c, const char *fmt, ...);
/* Something is wrong that CHECK_FIX_ERRORS repairs: count it. True when it is
 * to be repaired. */
bool PRINTF_LIKE(2, 3)
    qcow2_check_bad(struct qcow2_check *c, const char *fmt, ...);
/* @bytes of @what are about to be read. -EFBIG, reported: they are too many. */
int qcow2_check_spend(struct qcow2_check *c, const char *what, uint64_t bytes);
/* Count a reference to [@host, @host+@len). -ERANGE: beyond the file, reported;
 * -ENOMEM. */
int qcow2_check_count(struct qcow2_check *c, uint64_t host, uint64_t len);
/* The same for guest data. */
int qcow2_check_count_data(struct qcow2_check *c, uint64_t host, uint64_t len,
                           bool compressed);
/* Write @len bytes behind all that is there, and count them. */
CO_FN int qcow2_co_check_append(struct qcow2_check *c, const void *buf,
                                uint64_t len, uint64_t *ret_host);

/* --- look.c: what is where, before a repair --- */

/* A new look begins; what the last one found is that of the look before. */
void qcow2_check_look_begin(struct qcow2_check *c);
/* All was counted. True: compressed data reach into what is not compressed. */
int qcow2_check_look_end(struct qcow2_check *c, bool *ret_overlap);
void qcow2_check_look_free(struct qcow2_check *c);
/* Does a cluster of [@host, @host+@len) hold data or refcounts? Known in a
 * repair alone. / Was one counted before, or does it hold such? */
bool qcow2_check_is_other(struct qcow2_check *c, uint64_t host, uint64_t len);
bool qcow2_check_is_used(struct qcow2_check *c, uint64_t host, uint64_t len);
/* The file offset where something else begins inside of the compressed data
 * [@host, @host+@len), behind their first cluster; UINT64_MAX: nowhere, or not
 * known. */
uint64_t qcow2_check_other_inside(const struct qcow2_check *c, uint64_t host,
                                  uint64_t len);

/* --- entry.c: one L2 entry --- */

/* What is wrong with @d, the entry of guest offset @guest, wherever the file
 * ends; NULL: nothing. */
const char *qcow2_check_entry_fault(const struct qcow2_image *img,
                                    struct qcow2_desc d, uint64_t guest);
/* Is the cluster that it leads to in use, whatever is wrong? */
bool qcow2_check_has_place(const struct qcow2_image *img, struct qcow2_desc d,
                           uint64_t guest);
/* Can a repair say that a cluster is zero? */
bool qcow2_check_can_replace(const struct qcow2_image *img);
/* What replaces @d, which cannot stay. @lost: its data are not in the file. */
CO_FN int qcow2_co_check_replace(struct qcow2_check *c, struct qcow2_desc d,
                                 uint64_t guest, bool lost,
                                 struct qcow2_desc *ret);
/* Does @d lead to zeroes that a repair made, and counted? */
bool qcow2_check_is_zeroes(const struct qcow2_check *c, struct qcow2_desc d);
/* Can compressed data that are recorded to pass file offset @end be read
 * without what is there? *@ret then says that they end before it. */
CO_FN bool qcow2_co_check_shorten(struct qcow2_check *c, struct qcow2_desc d,
                                  uint64_t guest, uint64_t end,
                                  struct qcow2_desc *ret);

/* --- lists.c: snapshots, bitmaps, header extensions --- */

/* Count the lists and what bitmaps refer to; what of them is damaged is left
 * out of new ones. */
CO_FN int qcow2_co_check_lists(struct qcow2_check *c);
/* The L1 table of @s, one of img->snapshots, lies where something else is. */
void qcow2_check_drop_snapshot(struct qcow2_check *c, struct qcow2_snapshot *s);
/* Write new lists, if there are any, to clusters that nothing refers to yet. /
 * All is durable: let the header lead to them. */
CO_FN int qcow2_co_check_lists_store(struct qcow2_check *c);
CO_FN int qcow2_co_check_lists_switch(struct qcow2_check *c);
/* What was found is not repaired after all. */
void qcow2_check_lists_give_up(struct qcow2_check *c);
/* Forget what was found. */
void qcow2_check_lists_reset(struct qcow2_check *c);

/* --- tables.c --- */

/* Read an L2 table into c->table; -EFBIG: see qcow2_check_spend(). */
CO_FN int qcow2_co_check_table_read(struct qcow2_check *c, uint64_t host);
/* A hole has no entries; saves reading tables of a sparse file. */
CO_FN bool qcow2_co_check_table_is_hole(struct qcow2_check *c, uint64_t host);
/* Descriptor @i becomes @d, in memory wherever it is. */
void qcow2_check_desc_set(struct qcow2_check *c, struct qcow2_table_at *t,
                          uint32_t i, struct qcow2_desc d);
/* Write what of it was changed. */
CO_FN int qcow2_co_check_table_store(struct qcow2_check *c,
                                     const struct qcow2_table_at *t);
/* Write an L1 table of @n entries at @at. */
CO_FN int qcow2_co_check_l1_store(struct qcow2_check *c, enum qcow2_meta what,
                                  uint64_t at, const uint64_t *l1, uint32_t n);

/* Count all that the active tables and those of snapshots refer to. */
CO_FN int qcow2_co_check_tables(struct qcow2_check *c);

/* --- copied.c --- */

/* COPIED stands where the refcount is 1, and nowhere else. */
CO_FN int qcow2_co_check_copied(struct qcow2_check *c);

/* --- repair.c --- */

/* Compare refcounts with what was counted. */
CO_FN int qcow2_co_check_refcounts(struct qcow2_check *c);
/* A whole new refcount structure from what was counted. */
CO_FN int qcow2_co_rebuild_refcounts(struct qcow2_check *c);
