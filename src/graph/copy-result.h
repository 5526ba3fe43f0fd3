/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a copy of one chunk went. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* What became of one chunk. */
struct copy_result {
    uint64_t copied; /* bytes that were moved; zeroes count nothing */
    uint64_t shared; /* those of them that cost no data transfer */
    bool is_read;    /* which side the error came from */
    /* Where the time went; both 0: not told. */
    uint64_t read_ns, write_ns;
};

/* @res goes on with @part, which came after it. */
static inline void copy_result_add(struct copy_result *res,
                                   const struct copy_result *part)
{
    res->copied += part->copied;
    res->shared += part->shared;
    res->read_ns += part->read_ns;
    res->write_ns += part->write_ns;
    res->is_read = part->is_read;
}
