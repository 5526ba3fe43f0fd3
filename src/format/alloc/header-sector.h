/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sector 0 of an image, which holds its header: what changes there changes by
 * one write of the whole sector, so that a crash leaves the old header or the
 * new one.
 *
 * A write that failed may be in the file all the same (M12): the old sector is
 * written again and made durable, then the failure is reported.  Where that
 * fails too, nobody knows which one the file has, and nothing that either of
 * them leads to may change before it is settled.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/node.h"

enum {
    HEADER_SECTOR = 512, /* bytes: a write of them never tears */
};

struct header_sector {
    uint8_t bytes[HEADER_SECTOR]; /* as it is in the file */
    bool unknown;                 /* or as it shall be again */
};

/* All of them work on the file below @n, and return 0 or -errno. */

/* Past the end of the file there are zeroes. */
CO_FN int header_sector_co_read(struct header_sector *s, struct node *n);
/* Settle it first, then write @next, which @s holds on success. Not flushed. */
CO_FN int header_sector_co_write(struct header_sector *s, struct node *n,
                                 const uint8_t next[HEADER_SECTOR]);
/* If it is unknown, write what @s holds, and flush. */
CO_FN int header_sector_co_settle(struct header_sector *s, struct node *n);
