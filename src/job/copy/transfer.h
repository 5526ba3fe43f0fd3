/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One chunk of a copy from one disk to another, as commit and mirror make it:
 * zeroes stay zeroes, extents that the file systems can share are shared, and
 * the rest goes through memory.
 *
 * A backend is entered for each piece of work, so the graph stays as it is
 * meanwhile and drains wait for the piece alone.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "job/copy/copy.h"

struct backend;

struct transfer {
    struct backend *src, *dst; /* borrowed */
    unsigned zero_flags;       /* enum io_flags: of zeroes on the target */
};

/* Copy [@off, @off+@len), or make it zeroes where the source is known to be
 * @zero. For a copy_ops.co_copy. */
CO_FN int transfer_co_copy(struct transfer *t, uint64_t off, uint64_t len,
                           bool zero, struct copy_result *res);
/* Whatever waits for storage that does not answer fails, now and later. No
 * yield. */
void transfer_let_go(struct transfer *t);
