/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the commands that copy between images have in common: the copy engine
 * with its percents on stdout, and an end at the first error.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/annot.h"
#include "cli/cli.h"

struct copy_ops;
struct graph;
struct backend;

/* First member of whatever is the argument of the copy_ops. */
struct copy_run {
    struct percent percent; /* begun and ended by the caller */
    uint64_t total;         /* bytes */
    uint64_t speed;         /* bytes/s; 0 = as fast as it goes */
    uint32_t cluster;       /* bytes; at most COPY_RUN_CHUNK */
    int error;              /* what ended it, and where */
    uint64_t error_offset;
    bool error_is_read;
};
#define COPY_RUN_CHUNK (UINT32_C(1) << 20)

/* For the tables: */
void copy_run_progress(void *arg, uint64_t offset);
CO_FN int copy_run_co_error(void *arg, uint64_t off, bool is_read, int errnum);
CO_FN int copy_run_co_pause_point(void *arg);

/* Run the engine over [0, total). No chunk that is not zeroes is longer than
 * COPY_RUN_CHUNK. 0 or -errno, then with a text: "error while reading at byte
 * N: ...". */
CO_FN int copy_run_co_run(struct copy_run *p, const struct copy_ops *ops,
                          struct graph *g, GError **err);

/* Read or write one plain buffer. */
CO_FN int copy_run_co_read(struct backend *u, uint64_t off, void *buf,
                           uint64_t len);
CO_FN int copy_run_co_write(struct backend *u, uint64_t off, void *buf,
                            uint64_t len);
