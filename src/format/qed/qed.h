/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The QED driver, private to format/qed/.
 *
 * Where a cluster is, newest answer first:
 *   pending    pointers in memory, by generation of their commit group; the
 *              data is in the file, the pointer is not
 *   L2 cache   tables as they are in the file (plus what is being published)
 *   file       the tables
 *
 * Invariants
 *   - A pointer enters a cached table only when its group is published, so a
 *     sector written for generation N never carries a pointer of N+1 (M2).
 *   - Tables and l1[] change in publish.c (one pass at a time), and in check.c
 *     while passes are held off; nowhere else.
 *   - alloc_end only grows while the image is in use: a cluster handed out is
 *     never handed out again, and lies past all that was ever written, so what
 *     nobody wrote of it reads as zeroes.
 *   - The header sector is written with the group locked or by its pass.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/alloc/group.h"
#include "format/alloc/header-sector.h"
#include "format/alloc/metadata-cache.h"
#include "format/alloc/pending.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "wire/qed.h"

enum {
    QED_CACHE_BYTES = 32 << 20, /* of L2 tables, per image */
    QED_PENDING_MAX = 1 << 20,  /* pointers before a writer must wait */
    QED_GAPS_MAX = 64,
    QED_WORKERS = 16, /* tables read or written at once */
};

/* File offsets behind the end of the file that entries of the file point to:
 * never allocated, and never valid although the file may grow past them: see
 * qed_note_offset(). */
struct qed_gap {
    uint64_t start, end;
};

/* Pointers of one table in the pass under way; publish.c. */
struct qed_item {
    uint32_t l1_idx;
    bool fresh; /* the table is not in the file's L1 yet */
    GTreeNode *first;
};

struct qed_image {
    /* set at open */
    struct node *node;
    struct loop *loop;
    unsigned cluster_bits;
    unsigned entry_bits; /* log2 of the entries of a table */
    uint64_t table_bytes;
    uint64_t header_bytes;
    uint64_t *l1;        /* as in the file; table_bytes */
    struct group *group; /* NULL on a read-only node */

    /* header: hdr mirrors sector */
    struct qed_header hdr;
    struct header_sector sector;
    char *backing_name; /* or NULL */

    /* allocation */
    uint64_t alloc_end; /* next free cluster */
    uint64_t file_end;  /* the file is at least this long */
    bool extending;     /* a truncate to alloc_end is under way */
    struct co_queue extended;
    struct qed_gap gaps[QED_GAPS_MAX];
    unsigned n_gaps;

    /* Pointers that wait: cluster index -> table entry; `end`: of the highest
     * cluster that they lead to. */
    struct pending pending;

    /* publish.c: the pass under way */
    GArray *items;     /* struct qed_item */
    GHashTable *fresh; /* l1_idx -> offset of a table not yet in l1 */

    struct metadata_cache l2; /* the cache */
    bool checking;            /* tables that overlap are its business */

    /* NEED_CHECK */
    struct loop_timer clear_timer;
    struct co_latch background;
    unsigned quiesced;
};

static inline struct qed_image *qed_image(const struct node *n)
{
    return n->state;
}

static inline struct node *qed_file(const struct qed_image *img)
{
    return node_file(img->node);
}

static inline uint64_t qed_cluster_size(const struct qed_image *img)
{
    return UINT64_C(1) << img->cluster_bits;
}

static inline uint32_t qed_entries(const struct qed_image *img)
{
    return UINT32_C(1) << img->entry_bits;
}

/* --- map.c: what is where --- */

enum qed_kind { QED_ABSENT, QED_ZERO, QED_DATA };
struct qed_run {
    enum qed_kind kind;
    uint64_t len;  /* bytes */
    uint64_t host; /* QED_DATA: file offset of the first byte */
};
/* The longest run of one kind (data: contiguous in the file) from guest offset
 * @off that memory can tell, at most @len bytes; reads one table when the first
 * cluster needs it. Returns 0; -EINVAL for a corrupt entry; -EIO, -ENOMEM. */
CO_FN int qed_co_lookup(struct qed_image *img, uint64_t off, uint64_t len,
                        struct qed_run *ret_run);
/* Pointers of generation @gen: @n clusters from @idx; the first entry is
 * @entry, those that follow it count up by clusters unless it is
 * QED_ENTRY_ZERO. Between group_join() and group_data_done(). */
void qed_pending_add(struct qed_image *img, uint64_t gen, uint64_t idx,
                     uint64_t n, uint64_t entry);
/* Make one of all generations up to @gen; NULL when there is none. */
struct pending_gen *qed_pending_merge(struct qed_image *img, uint64_t gen);

/* --- l2.c: tables in memory; keys are indices into the L1 table --- */

void qed_l2_init(struct qed_image *img);
/* Entries of @t as in the file (little-endian). */
static inline uint64_t *qed_l2_entries(const struct table *t)
{
    return t->data;
}
/* Where the table of @l1_idx is; 0 = none. */
uint64_t qed_l2_offset(const struct qed_image *img, uint32_t l1_idx);

/* --- alloc.c --- */

/* Reserve @bytes (whole clusters) in the file. Waits while the file is being
 * extended. -EFBIG. */
CO_FN int qed_co_reserve(struct qed_image *img, uint64_t bytes,
                         uint64_t *ret_offset);
/* Make the file reach @end at least; @end <= alloc_end. */
CO_FN int qed_co_extend(struct qed_image *img, uint64_t end);
/* Bytes up to @end were written. */
void qed_note_written(struct qed_image *img, uint64_t end);
/* May an entry that came from the file point to @len bytes at @offset? */
bool qed_offset_valid(const struct qed_image *img, uint64_t offset,
                      uint64_t len);
/* A table read from the file points at @offset: never allocate it (M7). */
void qed_note_offset(struct qed_image *img, uint64_t offset, uint64_t len);

/* --- open.c --- */

CO_FN int qed_co_open(struct node *n, struct opts *o, unsigned flags,
                      GError **err);
CO_FN void qed_co_close(struct node *n);
CO_FN int qed_co_reopen(struct node *n, struct opts *o, unsigned flags,
                        GError **err);

/* --- header.c --- */

/* Write @h into sector 0; img->hdr follows on success. Not flushed. While it is
 * unknown which header the file has (img->sector), nothing is published before
 * qed_co_header_settle() has put it right: with the group locked or by its
 * pass. */
CO_FN int qed_co_header_settle(struct qed_image *img);
CO_FN int qed_co_write_header(struct qed_image *img,
                              const struct qed_header *h);

/* --- status.c --- */

CO_FN int qed_co_map(struct node *n, uint64_t off, uint64_t len, unsigned flags,
                     struct mapping *ret_map);
CO_FN int qed_co_info(struct node *n, json_t *info, GError **err);

/* --- dirty.c: NEED_CHECK, drain --- */

void qed_init_clear(struct qed_image *img);
/* NEED_CHECK is set and all is published: clear it after a while. */
void qed_arm_clear(struct qed_image *img);
/* Clear NEED_CHECK if it is set and nothing is pending. */
CO_FN int qed_co_mark_clean(struct qed_image *img);
CO_FN void qed_co_quiesce(struct node *n);
void qed_resume(struct node *n);

/* --- the rest --- */

CO_FN int qed_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                         unsigned flags);
CO_FN int qed_co_copy_in(struct node *n, uint64_t off, struct node *src,
                         uint64_t src_off, uint64_t len, unsigned flags);
CO_FN int qed_co_flush(struct node *n);
CO_FN int qed_co_zero(struct node *n, uint64_t off, uint64_t len,
                      unsigned flags);
CO_FN int qed_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int qed_co_truncate(struct node *n, uint64_t size, GError **err);
int qed_check_backing_name(struct node *n, const char *name, const char *fmt,
                           GError **err);
CO_FN int qed_co_change_backing(struct node *n, const char *name,
                                const char *fmt, GError **err);
CO_FN int qed_co_make_empty(struct node *n, GError **err);
CO_FN int qed_co_check(struct node *n, unsigned fix, struct check_result *res,
                       GError **err);
CO_FN int qed_co_create(struct node *file, struct opts *o, GError **err);
extern const struct create_option qed_create_options[];
extern const struct group_ops qed_group_ops;

/* Write entries [@first, @end) of @t, widened to sectors, to its table at file
 * offset @table. */
CO_FN int qed_co_write_entries(struct qed_image *img, const uint64_t *entries,
                               uint64_t table, uint32_t first, uint32_t end);
