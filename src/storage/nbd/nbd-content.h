/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksums of some blocks that were read from an export, by which it is known
 * again.  NBD has no name for content: who finds the same size and name may
 * still have found another version of a disk.  Pure.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define NBD_CONTENT_BLOCK 4096u
#define NBD_CONTENT_BLOCKS 8

/* Begins zeroed. */
struct nbd_content {
    struct nbd_content_block {
        uint64_t off;
        uint32_t len; /* bytes, at most NBD_CONTENT_BLOCK */
        uint8_t sum[32];
    } blocks[NBD_CONTENT_BLOCKS];
    unsigned n;
    uint64_t reads;
};

/* @len bytes were read at @off: the beginning is kept if it is not all zeroes,
 * of the first reads and then of ever fewer. */
void nbd_content_add(struct nbd_content *c, uint64_t off, const void *buf,
                     uint64_t len);
/* Is what was read at the place of @b now, b->len bytes, the same? */
bool nbd_content_is(const struct nbd_content_block *b, const void *buf);
