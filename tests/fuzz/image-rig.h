/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image of one format: open, read, write, zero, check, repair, open again.
 *
 * Input: flags (1), count of operations (1), operations (8 each), then
 *   FLAG_PATCHES: size of the file in KiB (2), the header, patches of
 *     where / 8 (3) and what (8): tables in a sparse file from few bytes;
 *   else: the bytes of the image.
 * With FLAG_BASE the operations go to a good overlay over it.  The magic is put
 * right.  Whatever the image says: no crash, bounded memory and time; and what a
 * repair calls repaired is so in a second look.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { IMAGE_RIG_PATCHES = 1, IMAGE_RIG_OPS_MAX = 32 };

struct image_format {
    const char *name;
    uint8_t magic[4];
    size_t header_len; /* of what patches put in front; at most 128 */
    bool data_files;   /* some want one: they get a file with bytes */
};
int image_rig_run(const struct image_format *f, const uint8_t *data,
                  size_t len);
