/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to snapshot-table.c and snapshot.c. */
#pragma once
#include "format/qcow2/qcow2.h"

struct qcow2_snapshots {
    GPtrArray *list;               /* struct qcow2_snapshot, in order */
    uint64_t bytes;                /* of the table in the file */
};

void qcow2_snapshot_free(struct qcow2_snapshot *s);
/* The table of @list as it stands in a file; NULL when memory is short. Free
 * with g_free(). */
uint8_t *qcow2_snapshots_encode(const GPtrArray *list, uint64_t *ret_bytes);
