/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which clusters of a file are referred to, for the check.
 *
 * A file may be sparse and of any size, so the map is made of small pieces that
 * exist only where something was marked, and has a limit in bytes.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct qed_usemap;

struct qed_usemap *qed_usemap_new(void);
void qed_usemap_free(struct qed_usemap *m);
/* Mark @n clusters from @first. 0; -EEXIST when any was marked already (none
 * is marked then); -ENOMEM at the limit. */
int qed_usemap_mark(struct qed_usemap *m, uint64_t first, uint64_t n);
/* Clusters marked; one more than the highest. */
uint64_t qed_usemap_count(const struct qed_usemap *m);
uint64_t qed_usemap_end(const struct qed_usemap *m);
