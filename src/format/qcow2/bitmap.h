/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to bitmap-dir.c, bitmap-store.c and bitmap.c. */
#pragma once
#include "format/qcow2/qcow2.h"

#define QCOW2_BITMAP_IN_USE UINT32_C(1)  /* what is in the file is not true */
#define QCOW2_BITMAP_AUTO   UINT32_C(2)  /* it records writes */

struct qcow2_bitmap {
    char *name;
    uint64_t table_offset;
    uint32_t table_size;           /* entries, one a cluster of bits */
    uint32_t flags;                /* as in the file */
    uint8_t granularity_bits;
    uint64_t entry_at;             /* of its directory entry in the file */
    uint8_t *bits;                 /* NULL: not loaded; bit i: byte i / 8 */
    uint64_t n_bits;
};

struct qcow2_bitmaps {
    GPtrArray *list;               /* struct qcow2_bitmap */
    uint64_t dir_offset, dir_bytes;
};

void qcow2_bitmap_free(struct qcow2_bitmap *b);
/* The table of @b, in host order: table_size entries. Free with g_free(). */
CO_FN int qcow2_co_bitmap_table(struct qcow2_image *img,
                                const struct qcow2_bitmap *b,
                                uint64_t **ret_table, GError **err);
