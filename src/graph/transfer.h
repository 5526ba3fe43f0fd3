/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One chunk of a copy from one disk to another, as commit, mirror and
 * backup make it:
 * zeroes stay zeroes, extents that the file systems can share are shared, and
 * the rest goes through memory.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/copy-result.h"

struct node;

struct transfer {
    struct node *src, *dst; /* borrowed */
    unsigned zero_flags;    /* enum io_flags: of zeroes on the target */
    unsigned write_flags; /* of other bytes there; IO_COMPRESSED: no sharing */
    bool urgent;          /* a guest waits: no background work */
};

/* Copy [@off, @off+@len), or make it zeroes where the source is known to be
 * @zero. The caller has entered a backend, or drained, so that the graph stays
 * as it is meanwhile; *@res is zeroed. */
CO_FN int transfer_co_copy(const struct transfer *t, uint64_t off, uint64_t len,
                           bool zero, struct copy_result *res);
