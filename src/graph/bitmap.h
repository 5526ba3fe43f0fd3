/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty bitmaps of nodes, by name: which parts of a disk have changed.
 *
 * A bitmap is in memory, and ends with its node, or it is persistent: then the
 * format keeps it in the image (node_driver.co_bitmap).  Both kinds share their
 * names.  One that records takes in every change of what the node shows;
 * populating is none.
 *
 * A bitmap that an operation works with is busy: nobody else changes it.
 *
 * Texts of errors are those of QEMU 7.2.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/dirty-map.h"

struct node;

struct bitmap_look {
    char name[1024];
    uint32_t granularity; /* bytes */
    bool recording, persistent, inconsistent, busy;
};

/* What an operation can do with a bitmap in which state. */
enum bitmap_use {
    BITMAP_MAY_BE_READ_ONLY = 1 << 0,
    BITMAP_MAY_BE_INCONSISTENT = 1 << 1,
    BITMAP_MAY_BE_BUSY = 1 << 2,
};

/* Bitmap number @i of @n, those in memory first. False: there are not as many.
 * No yield. */
bool bitmap_at(const struct node *n, unsigned i, struct bitmap_look *ret);
/* 0; -ENOENT, or what keeps it from being used: -EBUSY, -EACCES, -EINVAL.
 * @ret may be NULL. No yield. */
int bitmap_find(const struct node *n, const char *name, unsigned use,
                struct bitmap_look *ret, GError **err);

/* @granularity: 0 for the default. A persistent one is in the image when this
 * returns. */
CO_FN int bitmap_co_add(struct node *n, const char *name, uint64_t granularity,
                        bool persistent, bool disabled, GError **err);
CO_FN int bitmap_co_remove(struct node *n, const char *name, GError **err);
CO_FN int bitmap_co_set_recording(struct node *n, const char *name, bool on,
                                  GError **err);
/* Mark what is marked in @bits, too. / Let it be @bits, or nothing (NULL). */
CO_FN int bitmap_co_merge(struct node *n, const char *name,
                          const struct dirty_map *bits, GError **err);
CO_FN int bitmap_co_assign(struct node *n, const char *name,
                           const struct dirty_map *bits, GError **err);
/* What is marked now; the caller frees it. */
CO_FN int bitmap_co_read(struct node *n, const char *name,
                         struct dirty_map **ret_bits, GError **err);

/* Between the two it is busy. Counted. No yield. */
void bitmap_hold(struct node *n, const char *name);
void bitmap_release(struct node *n, const char *name);

/* A record of what changes from now on, without a name. */
struct bitmap;
struct bitmap *bitmap_record_begin(struct node *n, uint32_t granularity);
/* The caller frees what was recorded. */
struct dirty_map *bitmap_record_end(struct node *n, struct bitmap *b);

/* --- for the dispatcher --- */

/* [@off, @off+@len) of @n has changed, maybe. No yield. */
void bitmaps_mark_slowly(struct node *n, uint64_t off, uint64_t len);
