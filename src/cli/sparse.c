/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/sparse.h"

#include <glib.h>
#include <stdint.h>

#include "base/iov.h"

/* Bytes from @at that are all zero or (@zero false) all not, in units. */
static size_t same_units(const uint8_t *buf, size_t at, size_t len, size_t unit,
                         bool zero)
{
    size_t end = at;

    while (end < len) {
        size_t step = MIN(unit, len - end);
        if (buf_is_zero(buf + end, step) != zero) {
            break;
        }
        end += step;
    }
    return end - at;
}

size_t sparse_run(const void *buf, size_t len, size_t unit, size_t min,
                  bool *ret_zero)
{
    size_t at = same_units(buf, 0, len, unit, true);

    *ret_zero = at > 0 && (at >= min || at == len);
    if (*ret_zero) {
        return at;
    }
    while (at < len) {
        size_t zeroes;

        at += same_units(buf, at, len, unit, false);
        zeroes = same_units(buf, at, len, unit, true);
        if (zeroes >= min) {
            break;
        }
        at += zeroes;
    }
    return at;
}
