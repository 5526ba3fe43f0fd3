/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disk image formats that this program only recognizes. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* So much of the end of a file is looked at, bytes. */
enum { FOREIGN_TAIL = 1024 };

struct foreign {
    const char *title;  /* as people call it: "VHDX" */
    const char *driver; /* as QEMU's tools call it: "vhdx" */
    uint64_t disk_size; /* > 0: the file begins with the disk as it is, so
                         * many bytes of it */
};

/* Does a file that begins with @head and ends with @tail (its last bytes, up to
 * FOREIGN_TAIL, of @file_size) say that it is an image of a foreign format?
 * Formats that have drivers here are not among them. Pure. */
bool foreign_find(const uint8_t *head, size_t head_len, const uint8_t *tail,
                  size_t tail_len, uint64_t file_size, struct foreign *ret);
