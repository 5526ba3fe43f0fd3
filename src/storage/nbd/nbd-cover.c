/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/nbd/nbd-cover.h"

#include <string.h>

static void remove_run(struct nbd_cover *c, unsigned i)
{
    c->n--;
    memmove(c->runs + i, c->runs + i + 1, (c->n - i) * sizeof(c->runs[0]));
}

bool nbd_cover_add(struct nbd_cover *c, uint64_t start, uint64_t end)
{
    unsigned i = c->n;

    /* Servers send in order: from the back it is the first that fits. */
    while (i > 0 && c->runs[i - 1].start >= end) {
        i--;
    }
    if (start >= end || (i > 0 && c->runs[i - 1].end > start)) {
        return false;
    }
    if (i > 0 && c->runs[i - 1].end == start) {
        c->runs[i - 1].end = end;
        if (i < c->n && c->runs[i].start == end) {
            c->runs[i - 1].end = c->runs[i].end;
            remove_run(c, i);
        }
        return true;
    }
    if (i < c->n && c->runs[i].start == end) {
        c->runs[i].start = start;
        return true;
    }
    if (c->n == NBD_COVER_RUNS) {
        return false;
    }
    memmove(c->runs + i + 1, c->runs + i, (c->n - i) * sizeof(c->runs[0]));
    c->runs[i] = (struct nbd_cover_run) { start, end };
    c->n++;
    return true;
}

bool nbd_cover_is(const struct nbd_cover *c, uint64_t start, uint64_t end)
{
    return c->n == 1 && c->runs[0].start == start && c->runs[0].end == end;
}
