/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images that a command opens or makes for a disk in use: overlays, and the
 * targets of copies.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct node;

struct new_image {
    struct node *node; /* ours until new_image_co_end(); NULL: none */
    bool made;         /* the file, too */
    bool is_zero;      /* it is new, and known to read as zeroes */
};

/* What a command says of the image. Strings are borrowed. */
struct new_image_spec {
    const char *file;
    const char *format;    /* NULL: by what the file begins with */
    const char *node_name; /* or NULL */
    bool with_backing;     /* open the backing file that the header names */
};

/* Open an image that is there, writable, with the cache mode of @disk. */
CO_FN int new_image_co_open(struct node *disk,
                            const struct new_image_spec *spec,
                            struct new_image *img, GError **err);
/* Make one of the size of @disk and open it, without a backing file. Its header
 * names @below, where that is not NULL; @what is what error texts call the
 * image that cannot have a backing file: "overlay". */
CO_FN int new_image_co_make(struct node *disk,
                            const struct new_image_spec *spec,
                            struct node *below, const char *what,
                            struct new_image *img, GError **err);
/* Let go of it; with @keep false a file that was made is removed again. */
CO_FN void new_image_co_end(struct new_image *img, bool keep);
