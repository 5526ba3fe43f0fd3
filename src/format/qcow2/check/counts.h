/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How often the tables of an image refer to each cluster of its file, for the
 * check.
 *
 * A file may be sparse and its tables may say anything, so the counts are kept
 * in small pieces that exist only where something was counted, with a limit in
 * bytes for all of them.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct qcow2_counts;

struct qcow2_counts *qcow2_counts_new(void);
void qcow2_counts_free(struct qcow2_counts *c);
/* One more for each of @n clusters from @first. -ENOMEM at the limit. */
int qcow2_counts_add(struct qcow2_counts *c, uint64_t first, uint64_t n);
/* One less; they were counted. */
void qcow2_counts_remove(struct qcow2_counts *c, uint64_t first, uint64_t n);
uint32_t qcow2_counts_get(struct qcow2_counts *c, uint64_t cluster);
/* The first cluster from @from on that is counted, or UINT64_MAX. */
uint64_t qcow2_counts_next(struct qcow2_counts *c, uint64_t from);
/* One more than the highest cluster that was ever counted. */
uint64_t qcow2_counts_end(const struct qcow2_counts *c);
