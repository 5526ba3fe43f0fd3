/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of a host cache: which blocks of the base it holds, and their bytes.
 *
 * Whatever is read is checked against its checksum; what does not match is
 * forgotten and is not there.  So the file may be torn by a power loss, damaged
 * or written by others: no wrong byte comes out.  Where it has no more room, the
 * block that was not used for the longest time goes.
 *
 * One graph's loop.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct cache_store;

struct cache_store_options {
    const char *path;
    uint64_t limit; /* of the file, bytes */
    uint32_t block_bits;
    uint64_t base_size;
    const char *version; /* of the base; NULL: unknown, nothing is kept */
    /* It takes nothing any more: why. Damage was found in a block. No yield. */
    void (*full)(void *arg, int error);
    void (*damaged)(void *arg, uint64_t block);
    void *arg;
};

/* Open the file, or make it. What it holds of another base, or of another
 * version of the base, goes. -EAGAIN: in use; -EINVAL: it is no cache. */
CO_FN int cache_store_co_open(const struct cache_store_options *o,
                              struct cache_store **ret, GError **err);
/* Nobody reads or writes. NULL is fine. */
CO_FN void cache_store_co_close(struct cache_store *s);
/* How many blocks from @block on, at most @max, can be read at once; 0: it is
 * not there. */
unsigned cache_store_run(const struct cache_store *s, uint64_t block,
                         unsigned max);
/* Read @n such blocks into @buf, all bytes of each that the base has.  The
 * first *@ret_good are what they were. */
CO_FN void cache_store_co_read(struct cache_store *s, uint64_t block,
                               unsigned n, uint8_t *buf, unsigned *ret_good);
/* Keep @n blocks, if that can be done. */
CO_FN void cache_store_co_write(struct cache_store *s, uint64_t block,
                                unsigned n, const uint8_t *buf);
bool cache_store_is_off(const struct cache_store *s);
