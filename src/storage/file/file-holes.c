/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A handful of runs, replaced in turn.  So few that a linear search is all.
 */
#include "storage/file/file-holes.h"

#include <stddef.h>

const struct file_run *file_holes_find(const struct file_holes *h, uint64_t off)
{
    for (unsigned i = 0; i < FILE_HOLES_RUNS; i++) {
        const struct file_run *r = &h->runs[i];
        if (off >= r->start && off < r->end) {
            return r;
        }
    }
    return NULL;
}

void file_holes_add(struct file_holes *h, uint64_t generation, uint64_t start,
                    uint64_t end, bool data)
{
    if (generation != h->generation || start >= end) {
        return;
    }
    /* Two readers may have asked for the same place at once. */
    if (file_holes_find(h, start)) {
        return;
    }
    h->runs[h->next] = (struct file_run) { start, end, data };
    h->next = (h->next + 1) % FILE_HOLES_RUNS;
}

/* Forget runs that overlap; those of data only if @data_too. */
static void holes_forget(struct file_holes *h, uint64_t off, uint64_t len,
                         bool data_too)
{
    uint64_t end = len > UINT64_MAX - off ? UINT64_MAX : off + len;
    h->generation++;
    for (unsigned i = 0; i < FILE_HOLES_RUNS; i++) {
        struct file_run *r = &h->runs[i];
        if (r->start < end && off < r->end && (data_too || !r->data)) {
            r->end = r->start;
        }
    }
}

void file_holes_wrote(struct file_holes *h, uint64_t off, uint64_t len)
{
    holes_forget(h, off, len, false);
}

void file_holes_punched(struct file_holes *h, uint64_t off, uint64_t len)
{
    holes_forget(h, off, len, true);
}
