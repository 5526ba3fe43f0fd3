/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which bytes of a READ its reply has brought so far.
 *
 * libnbd takes any chunks inside the request for an answer, none at all
 * included; what no chunk filled would then be old memory.  A reply is good
 * when its chunks cover the request once.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define NBD_COVER_RUNS 32

/* Sorted, disjoint, never adjacent. Begins zeroed. */
struct nbd_cover {
    struct nbd_cover_run {
        uint64_t start, end;
    } runs[NBD_COVER_RUNS];
    unsigned n;
};

/* [@start, @end) came. False: some of it was there already, or the pieces are
 * in greater disorder than any server has reason for. */
bool nbd_cover_add(struct nbd_cover *c, uint64_t start, uint64_t end);
/* Did all of [@start, @end) come, and nothing else? */
bool nbd_cover_is(const struct nbd_cover *c, uint64_t start, uint64_t end);
