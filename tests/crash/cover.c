/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters of what the sequences really did: a search that never met a kind of
 * operation proves nothing about it. */
#include "crash.h"
#include <inttypes.h>
#include <stdio.h>

uint64_t cover_count[COVER_COUNT];

static const char *const cover_texts[] = {
#define X(id, text) text,
    COVERS(X)
#undef X
};

/* Of qcow2 and cow: not the journal. Compressed clusters, snapshots, bitmaps,
 * disks that shrink: of qcow2. */
static bool is_needed(enum cover c, const char *group)
{
    bool qcow2 = !g_strcmp0(group, "qcow2"), cow = !g_strcmp0(group, "cow");

    if (qcow2) {
        return c < COVER_EMPTY;
    }
    if (cow &&
        (c > COVER_EMPTY || c == COVER_AUTOCLEAR || c == COVER_OVERLAY)) {
        return false;
    }
    return c != COVER_COMPRESSED && c != COVER_SNAPSHOT && c != COVER_FORGET &&
           c != COVER_PREPARED && c != COVER_RESTORE && c != COVER_BITMAP &&
           c != COVER_BACKUP && c != COVER_AMEND && c != COVER_SHRINK;
}

bool cover_report(const char *group)
{
    bool all = true;

    for (unsigned i = 0; i < COVER_COUNT; i++) {
        printf("# %10" PRIu64 " %s\n", cover_count[i], cover_texts[i]);
        all = all && (cover_count[i] > 0 || !is_needed(i, group));
    }
    return all;
}
