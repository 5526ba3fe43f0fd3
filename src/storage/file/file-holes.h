/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The runs of data and holes of a file that were asked for lately.
 *
 * A format asks for the status of one cluster after the other; the file system
 * answers for whole runs.  Runs are kept while they are true: a write may turn
 * a hole into data, a zero or discard may turn data into a hole.  Answers that
 * were on their way while something changed are not kept (the generation).
 * An answer of "data" is always safe.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define FILE_HOLES_RUNS 8

struct file_run {
    uint64_t start, end; /* empty when equal */
    bool data;
};

/* Zero-initialised. */
struct file_holes {
    struct file_run runs[FILE_HOLES_RUNS];
    unsigned next;       /* whom to replace */
    uint64_t generation; /* counts changes of the file */
};

/* The run that holds @off, or NULL. Valid until the next call. */
const struct file_run *file_holes_find(const struct file_holes *h,
                                       uint64_t off);
/* Keep [@start, @end), found when the generation was @generation. */
void file_holes_add(struct file_holes *h, uint64_t generation, uint64_t start,
                    uint64_t end, bool data);
/* Something was or is about to be written to [@off, @off+@len). Call before
 * and after. */
void file_holes_wrote(struct file_holes *h, uint64_t off, uint64_t len);
/* [@off, @off+@len) was or is about to be zeroed, discarded or cut off. */
void file_holes_punched(struct file_holes *h, uint64_t off, uint64_t len);
