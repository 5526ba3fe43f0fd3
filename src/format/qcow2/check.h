/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What check.c, check-tables.c and repair.c share. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/qcow2/counts.h"
#include "format/qcow2/space.h"

/* What a table of tables weighs against one of clusters: it is seldom read, and
 * every entry of it is looked at, though there be nothing behind. */
enum { ROOT_WEIGHT = 8 };

struct qcow2_check {
    struct qcow2_image *img;
    unsigned fix;
    struct check_result *res;
    struct qcow2_counts *counts;
    uint64_t file_clusters;
    uint64_t budget;              /* bytes of tables that may be read still */
    uint8_t *table;               /* one L2 table */
    bool *bad_blocks;             /* by number: not to be read */
    bool rebuild;                 /* the refcount structure is not usable */
    bool changed;                 /* something was repaired */
};

/* One more line of the report. */
void PRINTF_LIKE(2, 3) qcow2_check_report(struct qcow2_check *c,
                                          const char *fmt, ...);
/* Something is wrong that CHECK_FIX_ERRORS repairs: count it. True when it is to
 * be repaired. */
bool PRINTF_LIKE(2, 3) qcow2_check_bad(struct qcow2_check *c,
                                       const char *fmt, ...);
/* @bytes of @what are about to be read. -EFBIG, reported: they are too many. */
int qcow2_check_spend(struct qcow2_check *c, const char *what, uint64_t bytes);
/* Count a reference to [@host, @host+@len). -ERANGE: beyond the file, reported;
 * -ENOMEM. */
int qcow2_check_count(struct qcow2_check *c, uint64_t host, uint64_t len);

/* --- check-tables.c --- */

/* Count all that the active tables and those of snapshots refer to. */
CO_FN int qcow2_co_check_tables(struct qcow2_check *c);
/* COPIED stands where the refcount is 1, and nowhere else. */
CO_FN int qcow2_co_check_copied(struct qcow2_check *c);

/* --- repair.c --- */

/* Compare refcounts with what was counted. */
CO_FN int qcow2_co_check_refcounts(struct qcow2_check *c);
/* A whole new refcount structure from what was counted. */
CO_FN int qcow2_co_rebuild_refcounts(struct qcow2_check *c);
