/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs of zeroes in data, as a sparse file should leave them out.  Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* How long the first run of @buf is: zeroes that are worth a hole, or data.
 * The buffer begins at a multiple of @unit, a power of two; runs begin and end
 * at such multiples (or with the buffer). Zeroes shorter than @min are data,
 * except where a whole buffer is zero. @len > 0. */
size_t sparse_run(const void *buf, size_t len, size_t unit, size_t min,
                  bool *ret_zero);
