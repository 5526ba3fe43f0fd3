/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Persistent bitmaps.
 *
 * A persistent bitmap is true in the file or in memory, never in both:
 *
 *   stored    bits == NULL, not in use: what the file holds counts
 *   held      bits != NULL: what memory holds counts, and the file says
 *             durably that its own is in use, that is, not true; while it could
 *             not be told, nothing that the bitmap records is written
 *   broken    bits == NULL, in use: whoever held it did not store it; it can
 *             only be removed
 *
 * One that records (QCOW2_BITMAP_AUTO) is held before the first change of what
 * the guest sees, all are when the disk changes as a whole, and all are stored
 * when writing ends or one of them is edited.
 */
#pragma once
#include "format/qcow2/qcow2.h"
#include "graph/image.h"
#include "loop/co.h"

#define QCOW2_BITMAP_IN_USE UINT32_C(1) /* what is in the file is not true */
#define QCOW2_BITMAP_AUTO UINT32_C(2)   /* it records writes */

enum {
    QCOW2_BITMAPS_MAX = 65535,
    QCOW2_BITMAP_NAME_MAX = 1023,
    QCOW2_BITMAP_GRANULARITY_MIN = 9,
    QCOW2_BITMAP_GRANULARITY_MAX = 31,
};
/* A table entry leads to a cluster of bits; or all of them are 1, or 0. */
#define QCOW2_BITMAP_OFFSET UINT64_C(0x00fffffffffffe00)
#define QCOW2_BITMAP_ONES UINT64_C(1)
/* Most that one may take, in memory and in the file, and that all of an image
 * that are held may take together, their tables included. */
#define QCOW2_BITMAP_BYTES_MAX (UINT64_C(512) << 20)

struct qcow2_bitmap {
    char *name;
    uint64_t table_offset;
    uint32_t table_size; /* entries, one a cluster of bits */
    uint32_t flags;      /* as in the file */
    uint8_t granularity_bits;
    uint8_t *bits;    /* bit i: byte i / 8, lowest first */
    uint64_t n_bytes; /* of bits */
    /* While it is stored as a copy: what of, or NULL. */
    struct qcow2_image *from_image;
    struct qcow2_bitmap *from;
};

struct qcow2_bitmaps {
    GPtrArray *list; /* struct qcow2_bitmap */
    uint64_t dir_offset, dir_bytes;
    char *damage;         /* of the directory, or NULL */
    bool recording;       /* those that record are held, or broken */
    uint64_t stored;      /* how often they have been */
    bool untold;          /* flags in memory that the file may lack */
    struct co_mutex hold; /* by who makes it so */
};

/* --- bitmap.c, edit.c: the state, and what changes it --- */

/* Load the directory, as far as it makes sense. */
CO_FN int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err);
/* Writes are over, all else is published: store what was recorded. What cannot
 * be stored stays marked as not true. */
CO_FN void qcow2_co_bitmaps_end_writes(struct qcow2_image *img);
void qcow2_bitmaps_close(struct qcow2_image *img);
/* The guest is about to change [@off, @off+@len): record it. 0, or the file
 * could not be told that its bitmaps are out of date. Yields at most once
 * between two times that they are stored. */
CO_FN int qcow2_co_bitmaps_mark(struct qcow2_image *img, uint64_t off,
                                uint64_t len);
/* The disk is about to change as a whole, its size for example: all bitmaps are
 * stored anew afterwards. / It has become @size bytes; what is in
 * [@off, @off+@len) of it is different now. */
CO_FN int qcow2_co_bitmaps_hold(struct qcow2_image *img);
void qcow2_bitmaps_changed(struct qcow2_image *img, uint64_t size, uint64_t off,
                           uint64_t len);
/* Where the directory is; 0, 0: nowhere. */
void qcow2_bitmaps_range(const struct qcow2_image *img, uint64_t *ret_host,
                         uint64_t *ret_len);
/* node_driver.co_bitmap */
CO_FN int qcow2_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                          const struct bitmap_args *args, GError **err);
/* node_driver.bitmap_at */
bool qcow2_bitmap_at(const struct node *n, unsigned i, struct bitmap_look *ret);
CO_FN int qcow2_co_bitmaps_info(struct qcow2_image *img, json_t *data,
                                GError **err);

/* --- commit.c --- */

/* What there is, to be changed and stored; owns no bitmap. */
GPtrArray *qcow2_bitmaps_list_copy(const struct qcow2_image *img);
/* May there be a bitmap @name beside @n others? -errno with a text. */
int qcow2_bitmap_check_new(const struct qcow2_image *img, const char *name,
                           uint64_t granularity, guint n, GError **err);
/* Publish all, then store @list; -errno with a text. */
CO_FN int qcow2_co_bitmaps_commit(struct qcow2_image *img, GPtrArray *list,
                                  GError **err);

/* --- copy.c --- */

/* Add copies of all bitmaps of @from that are not broken: all or none. */
CO_FN int qcow2_co_bitmaps_copy(struct qcow2_image *img,
                                struct qcow2_image *from, GError **err);

/* --- dir.c --- */

void qcow2_bitmap_free(struct qcow2_bitmap *b);
struct qcow2_bitmap *qcow2_bitmap_find(const struct qcow2_image *img,
                                       const char *name);
bool qcow2_bitmap_is_broken(const struct qcow2_bitmap *b);
/* The bitmaps of @list, to look them up; owned by the caller. */
GHashTable *qcow2_bitmaps_set(const GPtrArray *list);
/* @list, which owns nothing so far, becomes the list; bitmaps that are not in
 * it are freed. */
void qcow2_bitmaps_replace(struct qcow2_bitmaps *bs, GPtrArray *list);
/* Where the directory is; 0, 0: nowhere. */
struct qcow2_bitmap_dir {
    uint64_t offset, bytes;
};
/* Read the directory as far as it makes sense: bitmaps that are known are added
 * to @list, and @tell is called for each flaw, all of which are grave. 0, or
 * the file could not be read. */
CO_FN int qcow2_co_bitmaps_read(struct qcow2_image *img, GPtrArray *list,
                                struct qcow2_bitmap_dir *ret,
                                qcow2_flaw_fn *tell, void *arg);
/* The directory of @list as it stands in a file; free with g_free(). */
uint8_t *qcow2_bitmaps_encode(const GPtrArray *list, uint64_t *ret_bytes);
/* The table of @b, in host order: table_size entries. Free with g_free().
 * -EINVAL: it makes no sense. */
CO_FN int qcow2_co_bitmap_table(struct qcow2_image *img,
                                const struct qcow2_bitmap *b,
                                uint64_t **ret_table, GError **err);

/* --- bits.c --- */

/* Bytes of the bits of a disk of @size bytes. */
uint64_t qcow2_bitmap_bytes(const struct qcow2_bitmap *b, uint64_t size);
/* Let ->bits be for a disk of @size bytes: new bits are 0. -ENOMEM. */
int qcow2_bitmap_fit(struct qcow2_bitmap *b, uint64_t size);
/* Set the bits of [@off, @off+@len). */
void qcow2_bitmap_set(struct qcow2_bitmap *b, uint64_t off, uint64_t len);
/* Set in @b what is set in @from, which may have another granularity. */
void qcow2_bitmap_merge(struct qcow2_bitmap *b, const struct qcow2_bitmap *from,
                        uint64_t size);
/* What holding @b takes: its bits, and its table in the file. */
uint64_t qcow2_bitmap_cost(const struct qcow2_image *img,
                           const struct qcow2_bitmap *b);
/* Read what the file holds of @b into memory. */
CO_FN int qcow2_co_bitmap_load(struct qcow2_image *img, struct qcow2_bitmap *b,
                               GError **err);
/* What bitmap @name marks now; the caller frees it. */
CO_FN int qcow2_co_bitmap_read(struct qcow2_image *img, const char *name,
                               struct dirty_map **ret_bits, GError **err);
/* Give @b the bits of what it is a copy of. */
CO_FN int qcow2_co_bitmap_copy_bits(struct qcow2_image *img,
                                    struct qcow2_bitmap *b, GError **err);

/* --- store.c --- */

/* Let @exts say that there are @n bitmaps, whose directory is at @host; none
 * for 0. */
void qcow2_bitmaps_set_ext(GArray *exts, guint n, uint64_t host,
                           uint64_t bytes);

/* Store what is held, and let @list be the bitmaps from now on: some of those
 * there are and new ones, which are held. Everything is durable. On failure
 * nothing has changed; -ENOSPC also where the header has no room. The image is
 * drained, its group locked, all is published. Takes a reference to @list. */
CO_FN int qcow2_co_bitmaps_store(struct qcow2_image *img, GPtrArray *list);
