/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The image at the destination, before this migration has it open. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct migration;

enum target_state {
    TARGET_ABSENT, /* no file, or one without a byte */
    TARGET_BEGUN,  /* an overlay of the base of this migration */
    TARGET_ALONE,  /* an image without a base */
    TARGET_OTHER,  /* anything else; has been told */
    TARGET_ERROR,  /* it cannot be looked at; has been told */
};

/* What is at @m->path? @base: the name that this migration gives to its base;
 * NULL: it has none. */
enum target_state target_look(struct migration *m, const char *base);

/* Does the destination reach @base, a disk of @size, with what was said of TLS?
 * Told when not. */
bool target_reaches(struct migration *m, const char *base, uint64_t size);
