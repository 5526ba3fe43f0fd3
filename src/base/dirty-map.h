/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which parts of a disk have changed: a bit for each granule.  Pure.
 *
 * Bits stand in pages that are there only while one of their bits is set.  In
 * all they take at most size / granularity / 8 bytes; dirty_map_new() refuses
 * what would be more than DIRTY_MAX_BYTES.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct dirty_map;

/* Of the bits of one map: 16 TiB in granules of 64 KiB. */
#define DIRTY_MAX_BYTES (UINT64_C(32) << 20)
#define DIRTY_DEFAULT_GRANULARITY (UINT32_C(64) << 10)

/* All clean. @granularity: a power of two, bytes; 0: the default, or as large
 * as the size of the disk asks for. NULL with @err: that many bits are too
 * many; the text says from which granularity on they are not. */
struct dirty_map *dirty_map_new(uint64_t size, uint32_t granularity,
                                GError **err);
/* The same with a bound of its own, in bytes, instead of DIRTY_MAX_BYTES. */
struct dirty_map *dirty_map_new_within(uint64_t size, uint32_t granularity,
                                       uint64_t max_bytes, GError **err);
struct dirty_map *dirty_map_copy(const struct dirty_map *m);
/* NULL is fine. */
void dirty_map_free(struct dirty_map *m);
uint32_t dirty_map_granularity(const struct dirty_map *m);
uint64_t dirty_map_size(const struct dirty_map *m);
/* The disk has become @size bytes: what is new of it is clean. */
void dirty_map_resize(struct dirty_map *m, uint64_t size);
/* Mark what is marked in @from, of a disk of the same size. */
void dirty_map_merge(struct dirty_map *m, const struct dirty_map *from);
/* Every granule that [@off, @off+@len) touches. */
void dirty_map_set(struct dirty_map *m, uint64_t off, uint64_t len);
/* Those that lie wholly in it; the end of the disk ends the last one (L2). */
void dirty_map_clear(struct dirty_map *m, uint64_t off, uint64_t len);
/* Bytes that are dirty, in whole granules, the last one cut at the end. */
uint64_t dirty_map_bytes(const struct dirty_map *m);
/* How many granules are dirty. */
uint64_t dirty_map_count(const struct dirty_map *m);
/* The bits in words of 64, the lowest bit first: how many words, and one. */
uint64_t dirty_map_words(const struct dirty_map *m);
uint64_t dirty_map_word(const struct dirty_map *m, uint64_t i);
/* Is @off dirty? *@ret_len: how far that holds, at most @max; > 0. */
bool dirty_map_run(const struct dirty_map *m, uint64_t off, uint64_t max,
                   uint64_t *ret_len);
/* The first run that is dirty from @off on, cut at the end of the disk. False:
 * there is none. */
bool dirty_map_next(const struct dirty_map *m, uint64_t off, uint64_t *ret_off,
                    uint64_t *ret_len);
