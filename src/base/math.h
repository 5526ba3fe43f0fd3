/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rounding to powers of two and range arithmetic that cannot overflow. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

static inline bool is_power_of_two(uint64_t v)
{
    return v != 0 && (v & (v - 1)) == 0;
}

/* @unit: a power of two. */
static inline uint64_t round_down(uint64_t v, uint64_t unit)
{
    return v & ~(unit - 1);
}

/* The caller knows that the result fits. */
static inline uint64_t round_up(uint64_t v, uint64_t unit)
{
    return round_down(v + unit - 1, unit);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Do [@a, @a+@alen) and [@b, @b+@blen) share a byte? */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b,
                                  uint64_t blen)
{
    return alen && blen && a <= b + (blen - 1) && b <= a + (alen - 1);
}

/* Does [@off, @off+@len) lie within [0, @size)? Safe for any values. */
static inline bool range_inside(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}
