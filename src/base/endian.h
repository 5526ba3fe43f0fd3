/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Integers in byte buffers, of either order and any alignment. */
#pragma once
#include <endian.h>
#include <stdint.h>
#include <string.h>

#define ENDIAN_ACCESSORS(order, bits) \
    static inline uint##bits##_t get_##order##bits(const void *p) \
    { \
        uint##bits##_t v; \
        memcpy(&v, p, sizeof(v)); \
        return order##bits##toh(v); \
    } \
    static inline void put_##order##bits(void *p, uint##bits##_t v) \
    { \
        v = hto##order##bits(v); \
        memcpy(p, &v, sizeof(v)); \
    }

ENDIAN_ACCESSORS(le, 16)
ENDIAN_ACCESSORS(le, 32)
ENDIAN_ACCESSORS(le, 64)
ENDIAN_ACCESSORS(be, 16)
ENDIAN_ACCESSORS(be, 32)
ENDIAN_ACCESSORS(be, 64)
