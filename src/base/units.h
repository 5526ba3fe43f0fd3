/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes as people write and read them: binary suffixes, as in qemu-img. */
#pragma once
#include <glib.h>
#include <stdint.h>

/* "10", "64k", "1.5G", "2T" (b k M G T P E, either case), "0x1f00": bytes.
 * @default_suffix (0 = bytes) scales a bare number. -EINVAL, -ERANGE. */
int size_parse(const char *text, char default_suffix, uint64_t *ret_bytes,
               GError **err);
/* "1.5 GiB", "512 B": three significant digits, as qemu-img prints. Owned. */
char *size_format(uint64_t bytes);
